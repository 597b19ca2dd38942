package control

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// TestDoubt lets the answer to a write get lost, and checks that no task that writes the kind
// goes on before it has been read again, also while another task's reading takes its time.
func TestDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(t)
		defer s.Close()
		slow := make(chan struct{})
		lists := 0
		h := api.HandlerFunc(func(ctx context.Context, r *api.Request) (*api.Response, error) {
			switch {
			case r.Verb == api.Create:
				_, _ = s.Handle(ctx, r)
				return nil, errors.New("connection lost")
			case r.Verb == api.List:
				if lists++; lists == 2 { // the first reading after the write
					<-slow
				}
			}
			return s.Handle(ctx, r)
		})
		one := &Controller[*corev1.ConfigMap]{Name: "one", For: core.ConfigMap}
		two := &Controller[*corev1.ConfigMap]{Name: "two", For: core.ConfigMap}
		e := New(h, []Runner{one, two}, Config{})
		src := e.all()[0]
		if err := e.sync(t.Context(), src); err != nil {
			t.Fatal(err)
		}
		var tasks []*task
		for _, sub := range e.subscribers(src) {
			tasks = append(tasks, sub.cluster.task)
		}
		c := e.cluster[tasks[0]]
		if _, err := core.ConfigMap.Create(t.Context(), c, config("lost")); err == nil {
			t.Fatal("the answer came")
		}
		var wg sync.WaitGroup
		wg.Go(func() { _ = e.clear(t.Context(), tasks[0]) })
		synctest.Wait() // its reading takes long
		if err := e.clear(t.Context(), tasks[1]); err != nil {
			t.Fatal(err)
		}
		if _, ok := Get(e.cluster[tasks[1]], core.ConfigMap, "d", "lost"); !ok {
			t.Error("the other task goes on without what was written")
		}
		close(slow)
		wg.Wait()
		before := lists
		if err := e.clear(t.Context(), tasks[0]); err != nil || lists != before {
			t.Errorf("it is read again without a doubt: %v", err)
		}
	})
}
