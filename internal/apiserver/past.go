package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
	"proa/internal/store"
)

// unkept are the resources of which no history is kept: what is renewed all the
// time, and what is made from other objects alone.
var unkept = []schema.GroupResource{
	{Resource: "events"},
	{Resource: "endpoints"},
	{Group: "coordination.k8s.io", Resource: "leases"},
	{Group: "coordination.k8s.io", Resource: "leasecandidates"},
}

// SecretKeys begins the store keys of Secrets.
var SecretKeys = Prefix(schema.GroupResource{Resource: "secrets"})

// Keeps returns which keys of the store have a history: see [store.Keeping].
func Keeps(secrets bool) func(key string) bool {
	var not []string
	for _, gr := range unkept {
		not = append(not, Prefix(gr))
	}
	if !secrets {
		not = append(not, SecretKeys)
	}
	return func(key string) bool {
		return !slices.ContainsFunc(not, func(prefix string) bool { return strings.HasPrefix(key, prefix) })
	}
}

// weight is what a state is worth to history once it is over. What a controller
// has made for another object it would make again from that object's own
// history. What changes the status, or what the controllers note beside the spec,
// must not push out what somebody wanted.
func (w *writing) weight(obj, was api.Object) store.Weight {
	switch {
	case metav1.GetControllerOfNoCopy(obj) != nil:
		return store.Passing
	case was == nil || !maps.Equal(obj.GetLabels(), was.GetLabels()):
	case w.r.Sub == "status" && maps.Equal(obj.GetAnnotations(), was.GetAnnotations()),
		w.r.User.Name == api.UserControllers && w.res.Generation && obj.GetGeneration() == was.GetGeneration():
		return store.Light
	}
	return store.Full
}

// past answers a get of what an object was.
func (s *Server) past(ctx context.Context, t *table, r *api.Request) (*api.Response, error) {
	h, ok := s.engine.(store.Historian)
	if !ok {
		return nil, pastError(http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, r, "the store of this cluster keeps no history")
	}
	versions, err := h.History(ctx, t.prefix+t.key(r.Namespace, r.Name))
	if errors.Is(err, store.ErrNoHistory) {
		return nil, noHistory(r)
	}
	if err != nil {
		return nil, err
	}
	if r.Past.List() {
		return s.history(ctx, t, r, versions)
	}
	return s.was(ctx, t, r, versions)
}

func noHistory(r *api.Request) error {
	return pastError(http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, r, "no history is kept of "+r.Resource.GroupResource().String())
}

func pastError(code int32, reason metav1.StatusReason, r *api.Request, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message,
		Details: &metav1.StatusDetails{Group: r.Resource.Group, Kind: r.Resource.Resource, Name: r.Name}}}
}

// was answers with one state.
func (s *Server) was(ctx context.Context, t *table, r *api.Request, versions iter.Seq2[store.Version, error]) (*api.Response, error) {
	p := r.Past
	what := fmt.Sprintf("%s %q", r.Resource.GroupResource(), r.Name)
	if p.At.After(s.clock.Now()) {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("at: %s is in the future", p.At.Format(time.RFC3339)))
	}
	var newer, oldest *store.Version
	for v, err := range versions {
		var corrupt *store.CorruptError
		switch {
		case errors.As(err, &corrupt) && corrupt.Revision > 0 && corrupt.Revision != p.Revision:
			newer = nil
			continue
		case err != nil:
			return nil, err
		case p.Revision == 0 && v.Time.After(p.At), p.Revision < v.Revision && p.Revision > 0 && p.Revision != v.Was:
			newer, oldest = &v, &v
			continue
		case p.Revision > 0 && v.Revision != p.Revision && v.Was != p.Revision:
			return nil, pastError(http.StatusNotFound, metav1.StatusReasonNotFound, r,
				fmt.Sprintf("%s has no revision %d, or it is not kept any more; the one before it is %d", what, p.Revision, v.Revision))
		case v.Deleted:
			return nil, pastError(http.StatusNotFound, metav1.StatusReasonNotFound, r, fmt.Sprintf("%s was deleted at %s, by %q (revision %d)",
				what, v.Time.Format(time.RFC3339), v.User, v.Revision))
		}
		item := t.item(v.Revision, v.Value, nil)
		if err := item.Check(); err != nil {
			return nil, err
		}
		resp := &api.Response{Item: item}
		if p.Revision == 0 && newer != nil && newer.Prev != v.Revision && newer.Prev != store.Absent {
			resp.Warnings = []string{fmt.Sprintf("this is revision %d; minor changes between it and revision %d are not kept any more", v.Revision, newer.Revision)}
		}
		return resp, nil
	}
	switch {
	case oldest == nil:
		return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
	case oldest.Prev == store.Absent && !oldest.Deleted:
		return nil, pastError(http.StatusNotFound, metav1.StatusReasonNotFound, r, fmt.Sprintf("the history of %s begins at %s (revision %d), when it was created",
			what, oldest.Time.Format(time.RFC3339), oldest.Revision))
	}
	return nil, pastError(http.StatusGone, metav1.StatusReasonExpired, r, fmt.Sprintf("the history of %s begins at %s (revision %d); what was before is not kept any more",
		what, oldest.Time.Format(time.RFC3339), oldest.Revision))
}

// maxStates bounds the history that one answer holds. What is kept is less; of an
// object that changes all the time there may be more above the horizon.
const maxStates = 1000

// history answers with all states.
func (s *Server) history(ctx context.Context, t *table, r *api.Request, versions iter.Seq2[store.Version, error]) (*api.Response, error) {
	h := &api.History{Kind: "History", APIVersion: "proa/v1", Items: []api.State{}}
	var newer *face // of the last item, which waits for the state before it
	for v, err := range versions {
		var corrupt *store.CorruptError
		if err != nil && !errors.As(err, &corrupt) {
			return nil, err
		}
		if err != nil {
			v.Revision = corrupt.Revision
		}
		n := len(h.Items)
		var now *face
		e := api.State{Revision: strconv.FormatInt(v.Revision, 10), Time: v.Time, User: v.User, Minor: v.Weight == store.Light && !v.Deleted, Verb: "update"}
		switch {
		case err != nil:
			e.Error = err.Error()
		case v.Deleted:
			e.Verb = "delete"
		default:
			if v.Prev == store.Absent {
				e.Verb = "create"
			}
			if now, err = s.face(ctx, t, r, &v); err != nil {
				e.Error = err.Error()
			} else if r.Past.Objects {
				e.Object = now.body
			}
		}
		if v.Was != 0 {
			e.Was = strconv.FormatInt(v.Was, 10)
		}
		if v.Until != 0 {
			e.Until = strconv.FormatInt(v.Until, 10)
		}
		if n > 0 {
			newer.follow(now, &h.Items[n-1], v.Revision)
		}
		if n > 0 && n == r.Past.Limit || n == maxStates {
			return &api.Response{History: h}, nil
		}
		h.Items = append(h.Items, e)
		newer = now
		if newer == nil {
			newer = &face{}
		}
		newer.prev = v.Prev
	}
	if len(h.Items) == 0 {
		return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
	}
	newer.follow(nil, &h.Items[len(h.Items)-1], 0)
	return &api.Response{History: h}, nil
}

// A face is a state as a client sees it, as far as history looks at it.
type face struct {
	body     []byte
	at       time.Time
	prev     store.Revision
	fields   map[string]json.RawMessage
	metadata map[string]json.RawMessage
	managers []metav1.ManagedFieldsEntry
}

func (s *Server) face(ctx context.Context, t *table, r *api.Request, v *store.Version) (*face, error) {
	item := t.item(v.Revision, v.Value, nil)
	if err := item.Check(); err != nil {
		return nil, err
	}
	resp := &api.Response{Item: item}
	if r.Resource.Hub != nil {
		inView(r.Resource, resp)
	} else if err := s.present(ctx, r.Resource, resp); err != nil {
		return nil, err
	}
	f := &face{}
	var err error
	if f.body, err = resp.Item.JSON(); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(f.body, &f.fields); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(f.fields["metadata"], &f.metadata); err != nil {
		return nil, err
	}
	if m := f.metadata["managedFields"]; m != nil {
		err = json.Unmarshal(m, &f.managers)
	}
	for _, own := range []string{"managedFields", "resourceVersion", "generation"} {
		delete(f.metadata, own)
	}
	f.at = v.Time
	return f, errors.Join(err, f.unnote())
}

// controllersOwn begins the annotations that controllers keep about an object.
const controllersOwn = "deployment.kubernetes.io/"

// unnote takes out what is no client's.
func (f *face) unnote() error {
	if f.metadata["annotations"] == nil {
		return nil
	}
	var notes map[string]string
	if err := json.Unmarshal(f.metadata["annotations"], &notes); err != nil {
		return err
	}
	maps.DeleteFunc(notes, func(k, _ string) bool { return strings.HasPrefix(k, controllersOwn) })
	delete(f.metadata, "annotations")
	if len(notes) == 0 {
		return nil
	}
	b, err := json.Marshal(notes)
	f.metadata["annotations"] = b
	return err
}

// follow fills in what an entry says about the state before it; was is nil if
// that is none, or unknown, and rev is the revision of the one found.
func (f *face) follow(was *face, e *api.State, rev store.Revision) {
	e.Gap = f.prev != store.Absent && f.prev != rev && e.Error == ""
	if f.fields == nil {
		return
	}
	known := was != nil && was.fields != nil && f.prev != store.Absent
	for _, m := range f.managers {
		if e.Gap && (m.Time == nil || !m.Time.Time.Equal(f.at.Truncate(time.Second))) {
			continue // it may have written in between
		}
		if known && !slices.ContainsFunc(was.managers, func(o metav1.ManagedFieldsEntry) bool { return idle(&m, &o) }) {
			e.Managers = append(e.Managers, managerOf(&m))
		}
	}
	if last := f.latest(); len(e.Managers) == 0 && len(last) == 1 {
		e.Managers = last
	}
	if !known {
		return
	}
	for name := range maps.Keys(f.fields) {
		if name != "metadata" && !(name == "status" && e.Gap) && !bytes.Equal(f.fields[name], was.fields[name]) {
			e.Changed = append(e.Changed, name)
		}
	}
	for name := range was.fields {
		if f.fields[name] == nil && !(name == "status" && e.Gap) {
			e.Changed = append(e.Changed, name)
		}
	}
	if !maps.EqualFunc(f.metadata, was.metadata, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
		e.Changed = append(e.Changed, "metadata")
	}
	slices.Sort(e.Changed)
	e.Minor = e.Minor || len(e.Changed) == 0 || slices.Equal(e.Changed, []string{"status"})
}

// latest returns the managers after whom nobody wrote: as near as one can come to
// who made a change if the state before is unknown, or was made in the same second.
func (f *face) latest() (out []api.Manager) {
	var last time.Time
	for i := range f.managers {
		m := &f.managers[i]
		if m.Time == nil || m.Time.Time.Before(last) {
			continue
		}
		if m.Time.After(last) {
			last, out = m.Time.Time, nil
		}
		out = append(out, managerOf(m))
	}
	return out
}

func managerOf(m *metav1.ManagedFieldsEntry) api.Manager {
	return api.Manager{Name: m.Manager, Operation: string(m.Operation), Subresource: m.Subresource}
}

// idle says whether a manager's entry has at most lost fields to another one.
func idle(now, was *metav1.ManagedFieldsEntry) bool {
	size := func(m *metav1.ManagedFieldsEntry) int {
		if m.FieldsV1 == nil {
			return 0
		}
		return len(m.FieldsV1.GetRawBytes())
	}
	return managerOf(now) == managerOf(was) && now.Time.Equal(was.Time) && size(now) <= size(was)
}
