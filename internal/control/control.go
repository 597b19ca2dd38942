// Package control runs controllers. It keeps one watch per kind for all of
// them, queues the keys that a change concerns, and calls each controller until
// the world agrees with what its objects say.
//
// Everything happens either in [Run], with workers and timers, or in
// [Engine.Step], one thing at a time in an order that the caller's random
// numbers choose and without any goroutine: a test replays a history from its
// seed.
//
// A controller reads from the engine's memory and writes through [Cluster],
// which shows it its own writes at once, however far the watch lags behind.
// What it reads is shared and must not be changed.
package control

import (
	"context"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/api/record"
)

// A Controller keeps objects of one kind true. Name, For and Reconcile are required.
type Controller[T api.Object] struct {
	Name    string
	For     *api.Kind[T]
	Owns    []api.Definition // children: a change queues the controller that their owner reference names
	Watches []Watch          // anything else that the outcome depends on
	Writes  []api.Definition // what Reconcile may write; any other write fails
	Any     bool             // it may write every kind, those too that come later: Writes does not limit it

	// Reconcile makes obj true. It is called again after the given time if that
	// is not zero, after a pause that grows if it fails, and at once (with fresh
	// state) after a conflict. It is never called twice at once for one object.
	Reconcile func(ctx context.Context, c *Cluster, obj T) (again time.Duration, err error)

	// Finalize, if there is one, is called when the object is gone.
	Finalize func(ctx context.Context, c *Cluster, key Key) error
}

// A Watch maps changes of another kind to the keys they concern.
type Watch struct {
	Kind api.Definition
	Keys func(c *Cluster, o api.Object) []Key // called for the old and the new state; nil: only kept at hand for reading
	// When, if there is one, says whether a change from old to new matters at all.
	When func(old, new api.Object) bool
	// Slim says what Slim and Bare of a Sweep say: Keys looks at names, owners, finalizers and
	// deletion alone, and Reconcile asks the server for what it reads of the kind.
	Slim bool
}

// On returns a Watch whose function knows its type.
func On[T api.Object](k *api.Kind[T], keys func(c *Cluster, o T) []Key) Watch {
	return Watch{Kind: k, Keys: func(c *Cluster, o api.Object) []Key { return keys(c, o.(T)) }}
}

// Reads returns a Watch that only keeps the kind at hand for reading.
func Reads(d api.Definition) Watch { return Watch{Kind: d} }

// A Key names one object. Kind is nil where it is understood: the kind a controller is for.
type Key struct {
	Kind            *api.Resource
	Namespace, Name string
}

// KeyOf is the key of an object whose kind is understood.
func KeyOf(o api.Object) Key { return Key{nil, o.GetNamespace(), o.GetName()} }

// A Sweep is a controller over many kinds at once, which may come and go.
type Sweep struct {
	Name  string
	Kinds Kinds
	// Slim says that the names, owners, finalizers and deletion of objects are all
	// that need be kept. Of kinds that no other controller watches, what is found and
	// what Changed gets as old is then a *metav1.PartialObjectMetadata: read an
	// object before you write it. What Changed gets as new is whole, unless the sweep
	// is Bare: then it may be the same metadata, and objects that are there at the
	// start need not be decoded at all.
	Slim      bool
	Bare      bool                                                            // with Slim
	Writes    []api.Definition                                                // what is read again before the next Reconcile if nobody knows whether a write of it happened
	Changed   func(c *Cluster, kind *api.Resource, old, new api.Object) []Key // either may be nil
	Reconcile func(ctx context.Context, c *Cluster, key Key) (again time.Duration, err error)
}

// A Runner is a *[Controller] of some kind, or a *[Sweep].
type Runner interface{ task() *task }

// A task is a controller with its type erased.
type task struct {
	name      string
	subs      []sub
	writes    []*api.Resource
	any       bool // it writes other kinds, too
	sweep     *Sweep
	main      *api.Resource
	reconcile func(ctx context.Context, c *Cluster, key Key) (time.Duration, error)
}

// A sub is what a task wants to know of one kind.
type sub struct {
	kind *api.Resource
	slim bool
	keys func(c *Cluster, old, new api.Object) []Key
}

func (k *Controller[T]) task() *task {
	t := &task{name: k.Name, main: k.For.Def(), any: k.Any, writes: []*api.Resource{k.For.Def()}}
	t.reconcile = func(ctx context.Context, c *Cluster, key Key) (time.Duration, error) {
		obj, ok := Get(c, k.For, key.Namespace, key.Name)
		if ok {
			return k.Reconcile(ctx, c, obj)
		}
		if k.Finalize != nil {
			return 0, k.Finalize(ctx, c, key)
		}
		return 0, nil
	}
	each := func(w Watch) {
		keys := w.Keys
		t.subs = append(t.subs, sub{w.Kind.Def(), w.Slim, func(c *Cluster, old, new api.Object) (out []Key) {
			if keys == nil || w.When != nil && old != nil && new != nil && !w.When(old, new) {
				return nil
			}
			if old != nil {
				out = keys(c, old)
			}
			if new != nil {
				out = append(out, keys(c, new)...)
			}
			return out
		}})
	}
	each(Watch{Kind: k.For, Keys: func(_ *Cluster, o api.Object) []Key { return []Key{KeyOf(o)} }})
	for _, d := range k.Owns {
		each(Watch{Kind: d, Keys: func(_ *Cluster, o api.Object) []Key { return ownerKey(k.For.Def(), o) }})
	}
	for _, w := range k.Watches {
		each(w)
	}
	for _, d := range k.Writes {
		t.writes = append(t.writes, d.Def())
	}
	return t
}

func (s *Sweep) task() *task {
	t := &task{name: s.Name, sweep: s, any: true, reconcile: s.Reconcile}
	for _, d := range s.Writes {
		t.writes = append(t.writes, d.Def())
	}
	return t
}

// ownerKey is the key of the object of kind r that controls o, if any does.
func ownerKey(r *api.Resource, o api.Object) []Key {
	ref := metav1.GetControllerOfNoCopy(o)
	if ref == nil || ref.Kind != r.Kind || ref.APIVersion != r.GroupVersion().String() {
		return nil
	}
	ns := o.GetNamespace()
	if r.Scope == api.Cluster {
		ns = ""
	}
	return []Key{{nil, ns, ref.Name}}
}

// Cluster is what a controller gets to work with. As a Handler it reads from
// the server and writes to it, and what it writes it sees in [Get], [Owned] and
// [All] at once.
type Cluster struct {
	Log    *slog.Logger
	Now    func() time.Time
	Events *record.Recorder
	engine *Engine
	task   *task
}

// OwnerRef returns the reference that marks a child as controlled by obj.
func OwnerRef[T api.Object](k *api.Kind[T], obj T) metav1.OwnerReference {
	return *metav1.NewControllerRef(obj, k.Def().GVK())
}

// SetStatus writes obj's status if change changes it, and returns the state
// after that.
func SetStatus[T api.Object](ctx context.Context, c *Cluster, k *api.Kind[T], obj T, change func(T)) (T, error) {
	next := api.Clone(obj)
	change(next)
	if equality.Semantic.DeepEqual(obj, next) {
		return obj, nil
	}
	return k.UpdateStatus(ctx, c, next)
}

// Eventf tells a user what happened to obj.
func (c *Cluster) Eventf(obj api.Object, typ, reason, format string, args ...any) {
	c.Events.Eventf(obj, typ, reason, format, args...)
}
