package api

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// Get reads one object, shared and read-only.
func (k *Kind[T]) Get(ctx context.Context, h Handler, ns, name string) (T, error) {
	return k.one(ctx, h, &Request{Verb: Get, Namespace: ns, Name: name})
}

// Create stores a new object and returns it as stored. It takes obj over.
func (k *Kind[T]) Create(ctx context.Context, h Handler, obj T) (T, error) {
	return k.one(ctx, h, &Request{Verb: Create, Namespace: obj.GetNamespace(), Name: obj.GetName(), Object: obj})
}

// Update replaces an object, status excepted. It takes obj over.
func (k *Kind[T]) Update(ctx context.Context, h Handler, obj T) (T, error) {
	return k.one(ctx, h, &Request{Verb: Update, Namespace: obj.GetNamespace(), Name: obj.GetName(), Object: obj})
}

// UpdateStatus replaces an object's status. It takes obj over.
func (k *Kind[T]) UpdateStatus(ctx context.Context, h Handler, obj T) (T, error) {
	return k.one(ctx, h, &Request{Verb: Update, Namespace: obj.GetNamespace(), Name: obj.GetName(), Sub: "status", Object: obj})
}

// Patch changes an object, or its subresource sub.
func (k *Kind[T]) Patch(ctx context.Context, h Handler, ns, name, sub string, typ types.PatchType, patch []byte) (T, error) {
	return k.one(ctx, h, &Request{Verb: Patch, Namespace: ns, Name: name, Sub: sub, Patch: typ, Body: patch, ContentType: string(typ)})
}

// Delete removes an object, gracefully where its kind knows grace.
func (k *Kind[T]) Delete(ctx context.Context, h Handler, ns, name string, o Options) error {
	_, err := h.Handle(ctx, &Request{Verb: Delete, Resource: k.Def(), Namespace: ns, Name: name, Options: o})
	return err
}

// List reads the selected objects in a namespace (in all of them if ns is
// empty), shared and read-only, in key order.
func (k *Kind[T]) List(ctx context.Context, h Handler, ns string, sel Selectors) ([]T, error) {
	resp, err := h.Handle(ctx, &Request{Verb: List, Resource: k.Def(), Namespace: ns, Select: sel})
	if err != nil {
		return nil, err
	}
	return objects[T](resp.List), nil
}

// breathe is how many objects are decoded in a row before others get the
// processor: at a start with many, requests would else wait for all of them.
const breathe = 32

func objects[T Object](l *ItemList) []T {
	out := make([]T, len(l.Items))
	for i, o := range l.Items {
		if i%breathe == breathe-1 {
			runtime.Gosched()
		}
		out[i] = o.Object().(T)
	}
	return out
}

func (k *Kind[T]) one(ctx context.Context, h Handler, r *Request) (t T, err error) {
	r.Resource = k.Def()
	resp, err := h.Handle(ctx, r)
	if err != nil {
		return t, err
	}
	t, ok := resp.Result().(T)
	if !ok {
		return t, fmt.Errorf("%s of %s answered with %T", r.Verb, r.Resource.Resource, resp.Result())
	}
	return t, nil
}

// WithLabels selects objects that have all the given labels.
func WithLabels(set map[string]string) Selectors {
	return Selectors{Labels: labels.SelectorFromSet(set)}
}

// WithField selects objects whose field has the given value.
func WithField(name, value string) Selectors {
	return Selectors{Fields: fields.OneTermEqualSelector(name, value)}
}

// A Change is one step of [Kind.Follow].
type Change[T Object] struct {
	Reset    bool            // forget what you know: All is the whole state
	All      []T             // with Reset
	Items    []*Item         // instead of All, from [Kind.FollowItems]
	Type     watch.EventType // otherwise: ADDED, MODIFIED, DELETED or BOOKMARK
	Object   T               // nil on bookmarks
	Revision int64           // the state is complete up to here
}

// Follow yields the selected objects and then every change to them, until ctx
// ends or the caller stops. The first change is a Reset. A watch that breaks is
// resumed where it ended; when that is no longer possible the next change is a
// Reset again. Failures are retried with growing pauses, up to 5 s, and told to
// fail if that is not nil. Objects are shared and read-only.
func (k *Kind[T]) Follow(ctx context.Context, h Handler, ns string, sel Selectors, fail func(error)) iter.Seq[Change[T]] {
	return k.again(ctx, h, ns, sel, fail, func(l *ItemList) Change[T] { return Change[T]{All: objects[T](l)} })
}

// FollowItems is [Kind.Follow], but for a Reset, which has items that nobody has
// decoded for it.
func (k *Kind[T]) FollowItems(ctx context.Context, h Handler, ns string, sel Selectors, fail func(error)) iter.Seq[Change[T]] {
	return k.again(ctx, h, ns, sel, fail, func(l *ItemList) Change[T] { return Change[T]{Items: l.Items} })
}

func (k *Kind[T]) again(ctx context.Context, h Handler, ns string, sel Selectors, fail func(error), whole func(*ItemList) Change[T]) iter.Seq[Change[T]] {
	return func(yield func(Change[T]) bool) {
		pause := time.Duration(0)
		for ctx.Err() == nil {
			err := k.follow(ctx, h, ns, sel, whole, func(c Change[T]) bool {
				pause = 0
				return yield(c)
			})
			if err == errStopped {
				return
			}
			if ctx.Err() == nil && fail != nil && err != nil {
				fail(fmt.Errorf("follow %s: %w", k.Resource, err))
			}
			pause = min(max(2*pause, 20*time.Millisecond), 5*time.Second)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	}
}

var errStopped = fmt.Errorf("stopped by the caller")

// follow lists once and watches from there until the state is lost.
func (k *Kind[T]) follow(ctx context.Context, h Handler, ns string, sel Selectors, whole func(*ItemList) Change[T], yield func(Change[T]) bool) error {
	resp, err := h.Handle(ctx, &Request{Verb: List, Resource: k.Def(), Namespace: ns, Select: sel})
	if err != nil {
		return err
	}
	rev := resp.List.Revision
	first := whole(resp.List)
	first.Reset, first.Revision = true, rev
	resp = nil // a state that others change from here on need not be kept
	if !yield(first) {
		return errStopped
	}
	first = Change[T]{}
	for broken := 0; ctx.Err() == nil; {
		before := rev
		err := k.watchFrom(ctx, h, ns, sel, &rev, yield)
		if err == errStopped || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			return err
		}
		if rev > before {
			broken = 0
		}
		if broken++; broken > 5 {
			return err
		}
		select {
		case <-time.After(time.Duration(broken) * 20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

func (k *Kind[T]) watchFrom(ctx context.Context, h Handler, ns string, sel Selectors, rev *int64, yield func(Change[T]) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := h.Handle(ctx, &Request{Verb: Watch, Resource: k.Def(), Namespace: ns, Select: sel,
		At: Version{ResourceVersion: strconv.FormatInt(*rev, 10), Bookmarks: true}})
	if err != nil {
		return err
	}
	for e, err := range resp.Events {
		if err != nil {
			return err
		}
		*rev = max(*rev, e.Revision)
		c := Change[T]{Type: e.Type, Revision: *rev}
		if e.Item != nil {
			c.Object = e.Item.Object().(T)
		}
		if !yield(c) {
			return errStopped
		}
	}
	return nil
}

// Untyped returns a client for a resource whose Go type the caller does not
// know: what works over all kinds alike (garbage collection, namespace deletion).
func Untyped(r *Resource) *Kind[Object] {
	k := &Kind[Object]{API: r.GroupVersion().String(), Resource: r.Resource, Scope: r.Scope, def: r}
	k.once.Do(func() {})
	return k
}
