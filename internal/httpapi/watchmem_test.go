package httpapi

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"proa/internal/api"
)

// BenchmarkIdleWatch reports what an idle watch holds in the server, over HTTP/2
// and TLS. The client's half is measured with a bare handler and reported beside it.
func BenchmarkIdleWatch(b *testing.B) {
	idle := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/livez" {
			return
		}
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		<-req.Context().Done()
	})
	quiet := api.HandlerFunc(func(ctx context.Context, r *api.Request) (*api.Response, error) {
		return &api.Response{Events: func(yield func(api.Event, error) bool) { <-ctx.Done() }}, nil
	})
	bare := watchCost(b, idle)
	full := watchCost(b, Serve(quiet, Config{Groups: grouped, Authenticate: byName}))
	for b.Loop() {
	}
	b.ReportMetric(bare/1024, "KiB-both-ends-bare")
	b.ReportMetric((full-bare)/1024, "KiB-added")
}

func watchCost(b *testing.B, h http.Handler) float64 {
	s := httptest.NewUnstartedServer(nil)
	s.Config = Server("", nil, h)
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	const n = 900
	if resp, err := s.Client().Get(s.URL + "/livez"); err == nil { // one connection for all
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	before := inUse()
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	var up atomic.Int32
	for range n {
		wg.Go(func() {
			req, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/api/v1/pods?watch=1", nil)
			req.Header.Set("X-Test-User", "u")
			resp, err := s.Client().Do(req)
			if err != nil {
				b.Error(err)
				return
			}
			up.Add(1)
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		})
	}
	for up.Load() < n && !b.Failed() {
		time.Sleep(10 * time.Millisecond)
	}
	cost := float64(inUse()-before) / n
	cancel()
	wg.Wait()
	return cost
}

func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
