package apiserver_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds/core"
)

// view is what a client believes: revisions by namespace and name.
type view map[string]int64

func keyOf(o api.Object) string { return o.GetNamespace() + "/" + o.GetName() }

// TestWatchAgreesWithList writes at random and lets watchers with all sorts of
// selectors, which break off and resume at random revisions, rebuild the state;
// at every revision that a list shows, what they rebuilt must be that list.
func TestWatchAgreesWithList(t *testing.T) {
	for name, engine := range engines {
		t.Run(name, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			s := start(t, engine(t), nil)
			watchAgainstList(t, s, seed)
		})
	}
}

func watchAgainstList(t *testing.T, s *apiserver.Server, seed uint64) {
	const writers, writes = 4, 300
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	q := []api.Request{
		{},
		{Namespace: "a"},
		{Select: api.WithField("spec.nodeName", "n1")},
		{Namespace: "b", Select: api.Selectors{Labels: labels.SelectorFromSet(labels.Set{"l": "1"})}},
		{Select: api.Selectors{Fields: fields.ParseSelectorOrDie("spec.nodeName=n2,metadata.namespace=a")}},
		{Namespace: "a", Select: api.WithField("metadata.name", "p3")},
		{Select: api.Selectors{Fields: fields.ParseSelectorOrDie("spec.nodeName!=n1")}},
	}
	if _, err := core.Pod.Create(ctx, s, pod("a", "first", "")); err != nil { // a watch from revision 0 begins with all that is there
		t.Fatal(err)
	}
	var watchers, wg sync.WaitGroup
	end := make(chan int64) // closed when the last revision is known
	var last int64
	for i := range q {
		q[i].Resource = core.Pod.Def()
		for j := range 2 {
			watchers.Go(func() { rebuild(ctx, t, s, q[i], rand.New(rand.NewPCG(seed, uint64(10*i+j))), end, &last) })
		}
	}
	for i := range writers {
		wg.Go(func() { scribble(ctx, t, s, rand.New(rand.NewPCG(seed, uint64(1000+i))), writes) })
	}
	forgetting, enough := context.WithCancel(ctx)
	go func() { // so that much comes from the engine instead of the log
		for forgetting.Err() == nil {
			s.ForgetEvents()
			s.ForgetLists()
			time.Sleep(time.Millisecond)
		}
	}()
	wg.Wait()
	enough()
	last = s.Revision()
	close(end)
	watchers.Wait()
}

// scribble makes random writes.
func scribble(ctx context.Context, t *testing.T, s *apiserver.Server, r *rand.Rand, n int) {
	for range n {
		ns, name := string(rune('a'+r.IntN(2))), fmt.Sprint("p", r.IntN(6))
		zero := int64(0)
		var err error
		switch r.IntN(4) {
		case 0:
			p := pod(ns, name, []string{"", "n1", "n2"}[r.IntN(3)])
			p.Labels["l"] = strconv.Itoa(r.IntN(2))
			_, err = core.Pod.Create(ctx, s, p)
		case 1:
			err = core.Pod.Delete(ctx, s, ns, name, api.Options{GracePeriod: &zero})
		default:
			_, err = s.Mutate(ctx, &api.Request{Resource: core.Pod.Def(), Namespace: ns, Name: name}, func(o api.Object) (api.Object, error) {
				p := o.(*corev1.Pod)
				p.Spec.NodeName = []string{"", "n1", "n2"}[r.IntN(3)]
				p.Labels = maps.Clone(p.Labels)
				p.Labels["l"] = strconv.Itoa(r.IntN(2))
				return p, nil
			})
		}
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) {
			t.Errorf("write: %v", err)
		}
	}
}

func listing(ctx context.Context, t *testing.T, s *apiserver.Server, q api.Request, rev int64) (view, int64) {
	q.Verb = api.List
	if rev > 0 {
		q.At = api.Version{ResourceVersion: strconv.FormatInt(rev, 10), Match: metav1.ResourceVersionMatchExact}
	}
	resp, err := s.Handle(ctx, &q)
	if err != nil {
		t.Errorf("list at %d: %v", rev, err)
		return view{}, rev
	}
	v := view{}
	for _, item := range resp.List.Items {
		v[keyOf(item.Object())] = item.Revision
	}
	return v, resp.List.Revision
}

// rebuild watches from a random place, in pieces, and compares at the end of each piece.
func rebuild(ctx context.Context, t *testing.T, s *apiserver.Server, q api.Request, r *rand.Rand, end <-chan int64, last *int64) {
	have, at := listing(ctx, t, s, q, 0)
	for round := 0; ctx.Err() == nil; round++ {
		over := false
		select {
		case <-end:
			over = true
		default:
		}
		piece := q
		piece.Verb = api.Watch
		piece.At = api.Version{ResourceVersion: strconv.FormatInt(at, 10), Bookmarks: true, Timeout: time.Duration(1+r.IntN(20)) * time.Millisecond}
		resp, err := s.Handle(ctx, &piece)
		if err != nil {
			t.Errorf("watch from %d: %v", at, err)
			return
		}
		stop := 1 + r.IntN(40)
		for e, err := range resp.Events {
			if err != nil {
				t.Errorf("watch from %d: %v", at, err)
				return
			}
			if e.Revision < at || e.Revision == at && e.Type != watch.Bookmark {
				t.Errorf("event %s of revision %d after %d", e.Type, e.Revision, at)
				return
			}
			at = e.Revision
			follow(t, have, e)
			if stop--; stop <= 0 && !e.More {
				break
			}
		}
		want, _ := listing(ctx, t, s, q, at)
		if !maps.Equal(have, want) {
			t.Errorf("%s %v at revision %d: the watch says %v, the list %v", q.Namespace, q.Select, at, have, want)
			return
		}
		if over && at >= *last {
			if round < 3 {
				t.Errorf("only %d rounds", round)
			}
			return
		}
		if at > 0 && r.IntN(10) == 0 { // go back to some earlier state
			have, at = listing(ctx, t, s, q, 1+r.Int64N(at))
		}
	}
}

// follow applies an event, and checks that it fits what is known.
func follow(t *testing.T, have view, e api.Event) {
	if e.Type == watch.Bookmark {
		return
	}
	o := e.Item.Object()
	key := keyOf(o)
	_, known := have[key]
	if known != (e.Type != watch.Added) {
		t.Errorf("%s of %s, which was known: %v", e.Type, key, known)
	}
	if rv := strconv.FormatInt(e.Revision, 10); o.GetResourceVersion() != rv {
		t.Errorf("%s at %s in an event of %s", key, o.GetResourceVersion(), rv)
	}
	if e.Type == watch.Deleted {
		delete(have, key)
	} else {
		have[key] = e.Revision
	}
}
