package fleet

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"proa/internal/api"
	"proa/internal/node"
	"proa/internal/node/cri/pretend"
)

// A cut cable keeps back requests, answers and events, and loses none of them.
func TestCable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var arrived, answered, seen atomic.Int32
		work := make(chan struct{})
		feed := make(chan api.Event)
		c := NewCable(api.HandlerFunc(func(ctx context.Context, r *api.Request) (*api.Response, error) {
			arrived.Add(1)
			switch r.Verb {
			case api.Watch:
				return &api.Response{Events: func(yield func(api.Event, error) bool) {
					for e := range feed {
						if !yield(e, nil) {
							return
						}
					}
				}}, nil
			case api.Update:
				<-work
			}
			return &api.Response{}, nil
		}))
		is := func(when string, a, b, s int32) {
			t.Helper()
			synctest.Wait()
			if arrived.Load() != a || answered.Load() != b || seen.Load() != s {
				t.Errorf("%s: %d arrived, %d answered, %d events; want %d, %d, %d", when, arrived.Load(), answered.Load(), seen.Load(), a, b, s)
			}
		}
		ask := func(v api.Verb) {
			if _, err := c.Handle(t.Context(), &api.Request{Verb: v}); err == nil {
				answered.Add(1)
			}
		}
		go func() {
			resp, err := c.Handle(t.Context(), &api.Request{Verb: api.Watch})
			if err != nil {
				t.Error(err)
				return
			}
			for range resp.Events {
				seen.Add(1)
			}
		}()
		feed <- api.Event{}
		ask(api.Get)
		is("whole", 2, 1, 1)

		go ask(api.Update)
		is("one under way", 3, 1, 1)
		c.Cut()
		c.Cut()
		go ask(api.Get)
		feed <- api.Event{}
		close(work)
		is("cut", 3, 1, 1)
		if c.Whole() {
			t.Error("it is cut, and counts as whole")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Handle(ctx, &api.Request{Verb: api.Get}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who gives up reads %v", err)
		}
		is("a second later", 3, 1, 1)
		c.Mend()
		is("mended", 4, 3, 2)
		feed <- api.Event{}
		close(feed)
		is("whole again", 4, 3, 3)
	})
}

// The switch does nothing twice, and starts no agent where there is no power.
func TestMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		never := api.HandlerFunc(func(ctx context.Context, _ *api.Request) (*api.Response, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		m := NewMachine(node.Config{Name: "n", Handler: never, Bare: true}, pretend.Options{})
		answer := func() string {
			w := httptest.NewRecorder()
			m.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/pods", nil))
			return strings.TrimSpace(w.Body.String())
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(m.StartAgent(ctx))
		if m.On() || m.Agent() != nil || answer() != "node n does not answer: it is off" {
			t.Errorf("before it is booted: on %v, agent %v, %q", m.On(), m.Agent(), answer())
		}
		m.Fail()
		m.StopAgent()

		must(m.Boot(ctx))
		agent, rt := m.Agent(), m.Runtime()
		must(m.Boot(ctx))
		must(m.StartAgent(ctx))
		if agent == nil || rt == nil || m.Agent() != agent || m.Runtime() != rt {
			t.Errorf("booted twice: agents %p, %p, runtimes %p, %p", agent, m.Agent(), rt, m.Runtime())
		}
		if got := answer(); !strings.Contains(got, `"items"`) {
			t.Errorf("its pods: %s", got)
		}
		m.Cut()
		if got := answer(); got != "node n does not answer: nothing comes through to it" {
			t.Error(got)
		}
		m.Mend()

		m.StopAgent()
		if !m.On() || m.Agent() != nil || m.Runtime() != rt || answer() != "node n does not answer: its agent does not run" {
			t.Errorf("without its agent: on %v, agent %v, %q", m.On(), m.Agent(), answer())
		}
		must(m.StartAgent(ctx))
		if m.Agent() == nil || m.Agent() == agent || m.Runtime() != rt {
			t.Error("the agent is not a new one over the same runtime")
		}
		m.Fail()
		must(m.Boot(ctx))
		if m.Runtime() == nil || m.Runtime() == rt {
			t.Error("the runtime is not a new one")
		}
		m.Fail()
	})
}
