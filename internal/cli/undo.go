package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"proa/internal/api"
)

// Undo puts an earlier state of an object back.
var Undo = &Command{
	Name: "undo", Args: "TYPE/NAME", Group: "Objects",
	Short: "Put an object back as it was before the last change, or make a deleted one again",
	Long: `Puts back what an earlier state of an object said: its spec (or data, and so on),
labels and annotations; the status stays. It is an ordinary update, as you, with
defaults, validation and admission, and it fails if somebody else changes the
object at the same moment. So it is in the history, too, and can be undone.

Without --to or --at it takes back the last change of these that was not made by
the cluster's own controllers. A deleted object is made again, as a new one: its
status, its uid and what was in its volumes do not come back.

  proa undo deploy/web
  proa undo deploy/web --to 1234 --dry-run
  proa undo configmap/settings --at 14:05`,
	Flags: func(fs *flag.FlagSet, c *Call) {
		connectFlags(fs, c)
		stateFlags(fs, c, "to")
		fs.BoolVar(&c.dry, "dry-run", false, "only show what would be changed")
	},
	Run: runUndo,
}

const undoManager = "proa-undo"

func runUndo(ctx context.Context, c *Call) error {
	q, err := c.state()
	if err != nil {
		return err
	}
	r, err := connect(c)
	if err != nil {
		return err
	}
	p, err := r.object(ctx, "undo", c.Args)
	if err != nil {
		return err
	}
	now, err := r.present(ctx, p)
	if err != nil {
		return err
	}
	if t := now.in("metadata")["deletionTimestamp"]; t != nil {
		return fmt.Errorf("%s is being deleted since %v, which cannot be taken back; once it is gone, undo makes it again", p, t)
	}
	var was object
	if q != nil {
		b, err := r.do(ctx, http.MethodGet, api.HistoryPath+p.Path(), q, "application/json", nil)
		if err != nil {
			return err
		}
		if was, err = parseObject(b); err != nil {
			return err
		}
	} else {
		past, err := r.past(ctx, p)
		if err != nil {
			return err
		}
		if was = past.before(now); was == nil {
			return fmt.Errorf("nothing to undo: the history of %s has no earlier state; see 'proa history %s'", p, p)
		}
	}
	if now == nil {
		return r.remake(ctx, c, p, was)
	}
	return r.putBack(ctx, c, p, now, was)
}

// present is the object as it is; nil if it is not there.
func (r *remote) present(ctx context.Context, p place) (object, error) {
	b, err := r.do(ctx, http.MethodGet, p.Path(), nil, "application/json", nil)
	var status *apiError
	if errors.As(err, &status) && status.Code == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseObject(b)
}

// before is the state to go back to when nobody says which: of an object that
// is there, the one before the last change that counts; of one that is not, the
// last one before somebody began to delete it. Nil if there is none.
func (h *past) before(now object) object {
	newer := now
	by := ""
	for i, o := range h.objects {
		s := &h.Items[i]
		switch {
		case s.Verb == "delete" && now != nil:
			return nil // it was not there
		case o == nil || s.Minor && now != nil:
			continue
		case now == nil:
			if o.in("metadata")["deletionTimestamp"] == nil {
				return o
			}
			continue
		case newer != nil && by != "" && !same(content(newer), content(o)) && !ofTheCluster(by):
			return o
		}
		newer, by = o, s.User
		if by == "" {
			by = "?"
		}
	}
	return nil
}

// ofTheCluster says whether a user is a part of the cluster.
func ofTheCluster(user string) bool {
	return slices.Contains([]string{api.UserControllers, api.UserScheduler, api.UserAPIServer}, user) || strings.HasPrefix(user, "system:node:")
}

// controllersOwn begins the annotations that controllers keep about an object.
const controllersOwn = "deployment.kubernetes.io/"

// content is what undo puts back of an object.
func content(o object) object {
	c := o.copy()
	for _, k := range []string{"apiVersion", "kind", "metadata", "status"} {
		delete(c, k)
	}
	labels, annotations := o.in("metadata", "labels"), map[string]any{}
	for k, v := range o.in("metadata", "annotations") {
		if !strings.HasPrefix(k, controllersOwn) {
			annotations[k] = v
		}
	}
	c["metadata"] = map[string]any{"labels": labels, "annotations": annotations}
	return c
}

func same(a, b object) bool {
	x, err := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err == nil && err2 == nil && string(x) == string(y)
}

// combine is what is, with the content of what was.
func combine(now, was object) object {
	old := content(was)
	out := object{"apiVersion": now["apiVersion"], "kind": now["kind"], "metadata": now["metadata"]}
	if s, ok := now["status"]; ok {
		out["status"] = s
	}
	for k, v := range old {
		if k != "metadata" {
			out[k] = v
		}
	}
	out = out.copy()
	meta := out.in("metadata")
	annotations := old.in("metadata", "annotations")
	for k, v := range now.in("metadata", "annotations") {
		if strings.HasPrefix(k, controllersOwn) {
			annotations[k] = v
		}
	}
	for k, m := range map[string]map[string]any{"labels": old.in("metadata", "labels"), "annotations": annotations} {
		delete(meta, k)
		if len(m) > 0 {
			meta[k] = m
		}
	}
	return out
}

// putBack updates the object.
func (r *remote) putBack(ctx context.Context, c *Call, p place, now, was object) error {
	at := revisionOf(was)
	if same(content(now), content(was)) {
		fmt.Fprintf(c.Out, "%s is as it was at revision %s\n", p, at)
		return nil
	}
	made, err := r.send(ctx, c, http.MethodPut, p.Path(), combine(now, was))
	var status *apiError
	if errors.As(err, &status) && status.Code == http.StatusConflict {
		return fmt.Errorf("%s was changed by somebody else at this moment: see 'proa history %s' and try again (%w)", p, p, err)
	}
	if err != nil {
		return fmt.Errorf("put %s back to revision %s: %w", p, at, err)
	}
	fmt.Fprintf(c.Out, "%s is as it was at revision %s%s\n", p, at, c.outcome(made))
	writeDiff(c.Out, "  ", now.text(false), made.text(false))
	return nil
}

// remake creates a deleted object anew.
func (r *remote) remake(ctx context.Context, c *Call, p place, was object) error {
	made, err := r.send(ctx, c, http.MethodPost, p.Parent(), fresh(was))
	if err != nil {
		return fmt.Errorf("make %s again as it was at revision %s: %w", p, revisionOf(was), err)
	}
	fmt.Fprintf(c.Out, "%s was deleted and is made again as it was at revision %s%s\n", p, revisionOf(was), c.outcome(made))
	if len(was.in("metadata")) > 0 && was.in("metadata")["ownerReferences"] != nil {
		fmt.Fprintln(c.Out, "  its owner references are left out: the owners may be gone")
	}
	return nil
}

// fresh is an object without what only the one that was deleted could have.
func fresh(was object) object {
	o := was.copy()
	meta := o.in("metadata")
	for _, k := range []string{"uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp",
		"deletionGracePeriodSeconds", "managedFields", "ownerReferences", "selfLink"} {
		delete(meta, k)
	}
	delete(o, "status")
	if list, ok := meta["finalizers"].([]any); ok {
		meta["finalizers"] = slices.DeleteFunc(list, func(f any) bool { return f == "foregroundDeletion" || f == "orphan" })
	}
	spec := o.in("spec")
	switch o["kind"] {
	case "Pod":
		delete(spec, "nodeName")
	case "PersistentVolumeClaim":
		delete(spec, "volumeName")
		for k := range o.in("metadata", "annotations") {
			if strings.HasPrefix(k, "pv.kubernetes.io/") {
				delete(o.in("metadata", "annotations"), k)
			}
		}
	case "Job":
		if spec["manualSelector"] != true {
			delete(spec, "selector")
			for _, labels := range []map[string]any{o.in("metadata", "labels"), o.in("spec", "template", "metadata", "labels")} {
				for _, k := range []string{"controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name"} {
					delete(labels, k)
				}
			}
		}
	}
	return o
}

// send writes an object and returns what the server made of it.
func (r *remote) send(ctx context.Context, c *Call, method, path string, o object) (object, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	q := url.Values{"fieldManager": {undoManager}}
	if c.dry {
		q.Set("dryRun", "All")
	}
	if b, err = r.do(ctx, method, path, q, "application/json", b); err != nil {
		return nil, err
	}
	return parseObject(b)
}

func (c *Call) outcome(made object) string {
	if c.dry {
		return " (dry run: nothing was changed)"
	}
	return fmt.Sprintf(" (now revision %s, %s)", revisionOf(made), time.Now().Format(time.TimeOnly))
}

func revisionOf(o object) string {
	rv, _ := o.in("metadata")["resourceVersion"].(string)
	return rv
}
