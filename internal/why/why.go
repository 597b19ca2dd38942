// Package why finds out why an object is not as it should be: the chain of
// causes from the object, or what owns it, down to the node, the volume, the
// image, the probe or the quota, in plain words. It only reads, as the user who
// asks, and leaves out (and says so) what that user may not see.
package why

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/batch"
	"proa/internal/kinds/core"
	"proa/internal/kinds/resource"
)

// An Answer says how an object is, and why.
type Answer struct {
	Namespace string   `json:"namespace,omitempty"`
	Owner     string   `json:"owner,omitempty"` // what made the object, and what made that, nearest first
	Healthy   bool     `json:"healthy"`
	Cause              // the object itself: what is so, and below it why
	Notes     []string `json:"notes,omitempty"` // what is remarkable but no cause, and what could not be seen
}

// A Cause is one link of the chain. It is so because of the causes below it.
type Cause struct {
	Object string       `json:"object,omitempty"` // such as pod/web; empty if it is that of the cause above
	Alike  []string     `json:"alike,omitempty"`  // other objects of which the same is true
	Text   string       `json:"text"`
	More   string       `json:"more,omitempty"` // in which those that are alike may differ
	Since  *metav1.Time `json:"since,omitempty"`
	Causes []*Cause     `json:"causes,omitempty"`
	Help   []string     `json:"help,omitempty"` // what would change it

	fine bool // nothing is wrong
}

// Kinds are the resources that can be explained, as they are named in a URL.
func Kinds() []string {
	var out []string
	for _, e := range explainers() {
		out = append(out, e.resource)
	}
	return out
}

type explainer struct {
	group, resource string
	explain         func(a *asker, name string) (*Cause, metav1.Object, error)
}

// explainers are the kinds that have one.
func explainers() []explainer {
	return []explainer{
		{"", "pods", explains(core.Pod, (*asker).pod)},
		{"apps", "deployments", explains(apps.Deployment, (*asker).deployment)},
		{"apps", "replicasets", explains(apps.ReplicaSet, (*asker).replicaSet)},
		{"", "replicationcontrollers", explains(core.ReplicationController, (*asker).replicationController)},
		{"apps", "statefulsets", explains(apps.StatefulSet, (*asker).statefulSet)},
		{"apps", "daemonsets", explains(apps.DaemonSet, (*asker).daemonSet)},
		{"batch", "jobs", explains(batch.Job, (*asker).job)},
		{"batch", "cronjobs", explains(batch.CronJob, (*asker).cronJob)},
		{"", "services", explains(core.Service, (*asker).service)},
		{"", "endpoints", explains(core.Service, (*asker).service)}, // they are what the service of the name makes them
		{"", "persistentvolumeclaims", explains(core.PersistentVolumeClaim, (*asker).claim)},
		{"resource.k8s.io", "resourceclaims", explains(resource.ResourceClaim, (*asker).resourceClaim)},
		{"", "namespaces", explains(core.Namespace, (*asker).namespaceItself)},
		{"", "nodes", explains(core.Node, (*asker).node)},
	}
}

func explains[T api.Object](k *api.Kind[T], f func(*asker, T) *Cause) func(*asker, string) (*Cause, metav1.Object, error) {
	return func(a *asker, name string) (*Cause, metav1.Object, error) {
		ns := a.ns
		if k.Scope != api.Namespaced {
			ns = ""
		}
		o, err := k.Get(a.ctx, a.h, ns, name)
		if err != nil {
			return nil, nil, err
		}
		return f(a, o), o, nil
	}
}

// Explain answers why an object is as it is at a time. An object that is not
// there is an error of the API, unless it can be said why it is not there.
func Explain(ctx context.Context, h api.Handler, group, resource, ns, name string, now time.Time) (*Answer, error) {
	i := slices.IndexFunc(explainers(), func(e explainer) bool { return e.group == group && e.resource == resource })
	if i < 0 {
		return nil, fmt.Errorf("why knows nothing of %s, only of %s", resource, strings.Join(Kinds(), ", "))
	}
	a := &asker{ctx: ctx, h: h, ns: ns, now: now, busy: map[string]bool{}, states: map[string]any{}}
	c, o, err := explainers()[i].explain(a, name)
	if apierrors.IsNotFound(err) && resource == "pods" {
		if c = a.absentPod(name); c != nil {
			err = nil
		}
	}
	if err == nil {
		err = a.err
	}
	if err != nil {
		return nil, err
	}
	out := &Answer{Healthy: c.fine, Cause: *c}
	if o == nil || o.GetNamespace() != "" {
		out.Namespace = ns
	}
	if o != nil {
		out.Owner = a.owners(o)
	}
	if a.err != nil {
		return nil, a.err
	}
	out.Notes = a.notes
	return out, nil
}

// An asker reads what an explanation needs, each thing once.
type asker struct {
	ctx   context.Context
	h     api.Handler
	ns    string
	now   time.Time
	notes []string
	err   error // the first that is no answer

	busy   map[string]bool // what is being explained, so that nothing is explained by itself
	states map[string]any  // lists and objects that have been read
}

// note keeps a remark, once.
func (a *asker) note(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(a.notes, s) {
		a.notes = append(a.notes, s)
	}
}

// failed keeps an error that is not simply "there is none".
func (a *asker) failed(what string, err error) {
	switch {
	case err == nil || apierrors.IsNotFound(err):
	case apierrors.IsForbidden(err):
		a.note("you may not see %s: what follows from them is missing here", what)
	case a.err == nil:
		a.err = err
	}
}

// What is known of an object.
type known int

const (
	hidden  known = iota // it could not be read
	missing              // there is none
	there
)

// get reads an object, once.
func get[T api.Object](a *asker, k *api.Kind[T], ns, name string) (T, known) {
	type state struct {
		o T
		k known
	}
	if name == "" { // it would be a list
		return *new(T), missing
	}
	key := "get " + k.Resource + " " + ns + "/" + name
	if s, ok := a.states[key].(state); ok {
		return s.o, s.k
	}
	o, err := k.Get(a.ctx, a.h, ns, name)
	a.failed(k.Resource+" "+name, err)
	s := state{o, there}
	switch {
	case apierrors.IsNotFound(err):
		s.k = missing
	case err != nil:
		s.k = hidden
	}
	a.states[key] = s
	return s.o, s.k
}

// list reads the objects in a namespace (everywhere if it is empty), once.
func list[T api.Object](a *asker, k *api.Kind[T], ns string) (out []T, ok bool) {
	key := "list " + k.Resource + " " + ns
	if s, ok := a.states[key]; ok {
		l, _ := s.([]T)
		return l, l != nil
	}
	out, err := k.List(a.ctx, a.h, ns, api.Selectors{})
	where := ""
	switch {
	case k.Scope != api.Namespaced:
	case ns == "":
		where = " in all namespaces"
	default:
		where = " in namespace " + ns
	}
	a.failed(k.Resource+where, err)
	if err != nil {
		out = nil
	} else if out == nil {
		out = []T{}
	}
	a.states[key] = out
	return out, out != nil
}

// owned are the objects of a kind that an owner controls, by name.
func owned[T api.Object](a *asker, k *api.Kind[T], owner types.UID) (out []T) {
	all, _ := list(a, k, a.ns)
	for _, o := range all {
		if c := metav1.GetControllerOfNoCopy(o); c != nil && c.UID == owner {
			out = append(out, o)
		}
	}
	return out
}

// last is the newest event about an object that is wanted; nil if there is none.
func (a *asker) last(about types.UID, want func(*corev1.Event) bool) (last *corev1.Event) {
	all, _ := list(a, core.Event, a.ns)
	for _, e := range all {
		if e.InvolvedObject.UID == about && want(e) && (last == nil || !lastSeen(e).Before(lastSeen(last))) {
			last = e
		}
	}
	return last
}

func reasons(names ...string) func(*corev1.Event) bool {
	return func(e *corev1.Event) bool { return slices.Contains(names, e.Reason) }
}

func lastSeen(e *corev1.Event) time.Time {
	t := e.LastTimestamp.Time
	if e.Series != nil && e.Series.LastObservedTime.After(t) {
		t = e.Series.LastObservedTime.Time
	}
	for _, o := range []time.Time{e.EventTime.Time, e.CreationTimestamp.Time} {
		if t.IsZero() {
			t = o
		}
	}
	return t
}

func firstSeen(e *corev1.Event) time.Time {
	for _, t := range []time.Time{e.FirstTimestamp.Time, e.EventTime.Time} {
		if !t.IsZero() {
			return t
		}
	}
	return e.CreationTimestamp.Time
}

// owners names what made an object, nearest first.
func (a *asker) owners(o metav1.Object) string {
	var out []string
	for range 5 {
		ref := metav1.GetControllerOfNoCopy(o)
		if ref == nil {
			break
		}
		out = append(out, strings.ToLower(ref.Kind)+"/"+ref.Name)
		var next metav1.Object
		k := hidden
		switch ref.Kind {
		case "ReplicaSet":
			next, k = get(a, apps.ReplicaSet, a.ns, ref.Name)
		case "Job":
			next, k = get(a, batch.Job, a.ns, ref.Name)
		}
		if k != there {
			break
		}
		o = next
	}
	return strings.Join(out, " of ")
}

// is makes a cause.
func is(object, format string, args ...any) *Cause {
	return &Cause{Object: object, Text: fmt.Sprintf(format, args...)}
}

// fine makes what is no cause: all is well.
func fine(object, format string, args ...any) *Cause {
	c := is(object, format, args...)
	c.fine = true
	return c
}

func (c *Cause) since(t time.Time) *Cause {
	if !t.IsZero() {
		s := metav1.NewTime(t).Rfc3339Copy()
		c.Since = &s
	}
	return c
}

// as puts causes below c; those that are fine and nil are left out.
func (c *Cause) as(below ...*Cause) *Cause {
	for _, b := range below {
		if b != nil && !b.fine {
			c.Causes = append(c.Causes, b)
		}
	}
	return c
}

func (c *Cause) help(format string, args ...any) *Cause {
	c.Help = append(c.Help, fmt.Sprintf(format, args...))
	return c
}

// enter keeps from explaining an object by itself: done must be called at the
// end if it is entered.
func (a *asker) enter(key string) (done func(), ok bool) {
	if a.busy[key] {
		return nil, false
	}
	a.busy[key] = true
	return func() { delete(a.busy, key) }, true
}

// same says whether two causes tell the same of two objects, whose names are
// taken out of what is said.
func same(x, y *Cause) bool {
	return sameBut(x, y, nameOf(x), nameOf(y), true)
}

func nameOf(c *Cause) string {
	_, name, _ := strings.Cut(c.Object, "/")
	return name
}

func sameBut(x, y *Cause, ofX, ofY string, top bool) bool {
	eq := func(s, t string) bool {
		return s == t || ofX != "" && ofY != "" && strings.ReplaceAll(s, ofX, "\x00") == strings.ReplaceAll(t, ofY, "\x00")
	}
	return (top || x.Object == y.Object) && eq(x.Text, y.Text) && slices.EqualFunc(x.Help, y.Help, eq) &&
		slices.EqualFunc(x.Causes, y.Causes, func(x, y *Cause) bool { return sameBut(x, y, ofX, ofY, false) })
}

// gather tells what is true of several objects once, with the oldest time.
func gather(all []*Cause) (out []*Cause) {
	for _, c := range all {
		if c == nil || c.fine {
			continue
		}
		i := slices.IndexFunc(out, func(o *Cause) bool { return same(o, c) })
		if i < 0 {
			out = append(out, c)
			continue
		}
		out[i].Alike = append(out[i].Alike, c.Object)
		if c.Since != nil && (out[i].Since == nil || c.Since.Before(out[i].Since)) {
			out[i].Since = c.Since
		}
	}
	return out
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// verb is the form of a verb for so many.
func verb(n int, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

func isAre(n int) string { return verb(n, "is", "are") }

func names[T api.Object](all []T) (out []string) {
	for _, o := range all {
		out = append(out, o.GetName())
	}
	return out
}

// some names a few of many.
func some(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// oneLine is a message without line breaks, and without what no one reads to the end.
func oneLine(s string) string {
	const most = 300
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + " …"
	}
	return s
}

func said(s string) string {
	if s = strings.TrimSuffix(oneLine(s), "."); s == "" {
		return ""
	}
	return ": " + s
}
