package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"sigs.k8s.io/yaml"

	"proa/internal/api"
)

// History shows what became of an object.
var History = &Command{
	Name: "history", Args: "TYPE/NAME", Group: "Objects",
	Short: "Show who changed an object, when, and what",
	Long: `Shows the states that an object was in, newest first, each with who made it,
when, and what differs from the state before. Changes of the status, and of
what controllers note, are counted only; --all shows them. Deleted objects have their history, too.

Whoever may get an object may see its history. Of Leases, Events and Endpoints,
of what controllers make (such as the pods of a Deployment) and, unless the
setting history-secrets is on, of Secrets, nothing is kept.

  proa history deploy/web
  proa history configmap settings -n shop -o wide`,
	Flags: func(fs *flag.FlagSet, c *Call) {
		connectFlags(fs, c)
		fs.StringVar(&c.output, "o", "", "`FORMAT`: wide (a line for each state), yaml or json")
		fs.BoolVar(&c.all, "all", false, "show changes of the status and the like, too")
	},
	Run: runHistory,
}

func runHistory(ctx context.Context, c *Call) error {
	if !slices.Contains([]string{"", "wide", "yaml", "json"}, c.output) {
		return usageError(fmt.Sprintf("history: -o must be wide, yaml or json, not %q", c.output))
	}
	r, err := connect(c)
	if err != nil {
		return err
	}
	p, err := r.object(ctx, "history", c.Args)
	if err != nil {
		return err
	}
	if c.output == "yaml" || c.output == "json" {
		b, err := r.do(ctx, http.MethodGet, api.HistoryPath+p.Path(), url.Values{"objects": {"true"}, "pretty": {"true"}}, "application/"+c.output, nil)
		if err == nil {
			_, err = c.Out.Write(b)
		}
		return err
	}
	past, err := r.past(ctx, p)
	if err != nil {
		return err
	}
	if c.output == "wide" {
		return past.table(c, p)
	}
	past.print(c, p, time.Now())
	return nil
}

// A past is a history whose objects have been decoded.
type past struct {
	api.History
	objects []object // nil where there is none
}

func (r *remote) past(ctx context.Context, p place) (*past, error) {
	out := &past{}
	if err := r.get(ctx, api.HistoryPath+p.Path(), url.Values{"objects": {"true"}}, &out.History); err != nil {
		return nil, err
	}
	for _, s := range out.Items {
		var o object
		if s.Object != nil {
			var err error
			if o, err = parseObject(s.Object); err != nil {
				return nil, fmt.Errorf("%s at revision %s: %w", p, s.Revision, err)
			}
		}
		out.objects = append(out.objects, o)
	}
	return out, nil
}

// print writes each state with what differs from the one before.
func (h *past) print(c *Call, p place, now time.Time) {
	fmt.Fprintf(c.Out, "%s%s\n", p, p.where())
	folded := 0
	for i := range h.Items {
		s := &h.Items[i]
		if s.Minor && !c.all {
			folded++
			if i+1 < len(h.Items) {
				continue
			}
		}
		if folded > 0 {
			fmt.Fprintf(c.Out, "\n(%s of the status and the like; --all shows them)\n", count(folded, "change"))
			folded = 0
		}
		if s.Minor && !c.all {
			return
		}
		fmt.Fprintf(c.Out, "\nrevision %s, %s, %s\n", s.Revision, when(s.Time, now), doing(s))
		h.describe(c, i)
	}
}

// describe writes what one state made different.
func (h *past) describe(c *Call, i int) {
	s, now := &h.Items[i], h.objects[i]
	switch {
	case s.Error != "":
		fmt.Fprintf(c.Out, "  %s\n", s.Error)
		return
	case now == nil || s.Verb == "create":
		return
	}
	before := object(nil)
	for j := i + 1; j < len(h.Items) && before == nil; j++ {
		if h.Items[j].Verb == "delete" {
			break
		}
		if c.all || !h.Items[j].Minor {
			before = h.objects[j]
		}
	}
	if before == nil {
		fmt.Fprintln(c.Out, "  (the state before is not kept any more)")
		return
	}
	if !writeDiff(c.Out, "  ", before.text(c.all), now.text(c.all)) {
		fmt.Fprintln(c.Out, "  (nothing that is shown here: see -o yaml)")
	}
}

// table writes a line for each state.
func (h *past) table(c *Call, p place) error {
	w := tabwriter.NewWriter(c.Out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "REVISION\tTIME\tVERB\tUSER\tWITH\tCHANGED")
	for i := range h.Items {
		s := &h.Items[i]
		if s.Minor && !c.all {
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Revision, s.Time.Local().Format(time.DateTime), s.Verb, s.User, with(s), strings.Join(s.Changed, ","))
	}
	return w.Flush()
}

// doing says who did what by which means.
func doing(s *api.State) string {
	out := map[string]string{"create": "created", "update": "changed", "delete": "deleted"}[s.Verb]
	if s.User != "" {
		out += " by " + s.User
	}
	if m := with(s); m != "" {
		out += " with " + m
	}
	if len(s.Changed) > 0 {
		out += ": " + strings.Join(s.Changed, ", ")
	}
	return out
}

func with(s *api.State) string {
	var names []string
	for _, m := range s.Managers {
		name := m.Name
		if m.Operation == "Apply" {
			name += " (apply)"
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// An object is one of any kind, as JSON has it.
type object map[string]any

// parseObject keeps numbers as they are written.
func parseObject(b []byte) (object, error) {
	var o object
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	err := d.Decode(&o)
	return o, err
}

// in returns the map under some keys; nil if there is none.
func (o object) in(keys ...string) map[string]any {
	m := map[string]any(o)
	for _, k := range keys {
		m, _ = m[k].(map[string]any)
	}
	return m
}

// copy is a deep copy.
func (o object) copy() object {
	b, err := json.Marshal(o)
	if err != nil {
		return o // it came from JSON
	}
	c, _ := parseObject(b)
	return c
}

const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// text is the object as YAML, without what every write changes, and without the
// status and what controllers note unless that is wanted.
func (o object) text(all bool) string {
	c := o.copy()
	meta := c.in("metadata")
	for _, own := range []string{"managedFields", "resourceVersion", "generation"} {
		delete(meta, own)
	}
	notes := c.in("metadata", "annotations")
	delete(notes, lastApplied)
	maps.DeleteFunc(notes, func(k string, _ any) bool { return !all && strings.HasPrefix(k, controllersOwn) })
	if len(notes) == 0 {
		delete(meta, "annotations")
	}
	if !all {
		delete(c, "status")
	}
	b, err := yaml.Marshal(c)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
