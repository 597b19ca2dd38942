package apiserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/admit"
	"proa/internal/kinds/core"
)

// bigPod is about 2.3 KB of JSON when stored.
func bigPod(name string) *corev1.Pod {
	p := pod("default", name, "")
	p.Labels = map[string]string{"app": "web", "tier": "front", "pod-template-hash": "5d4f8c7b9"}
	p.Annotations = map[string]string{"example.com/checksum": "0123456789abcdef0123456789abcdef0123456789abcdef"}
	c := &p.Spec.Containers[0]
	c.Resources.Limits = corev1.ResourceList{"cpu": resource.MustParse("500m"), "memory": resource.MustParse("128Mi")}
	for i := range 8 {
		c.Env = append(c.Env, corev1.EnvVar{Name: fmt.Sprint("VARIABLE_", i), Value: "the value of this variable"})
	}
	c.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
	return p
}

func benchServer(b *testing.B, engine string) *apiserver.Server {
	s := start(b, engines[engine](b), func(c *apiserver.Config) { c.Admit = admit.All(admit.Settings{}) })
	if err := s.EnsureDefaults(b.Context(), cluster); err != nil {
		b.Fatal(err)
	}
	account(b, s, "default")
	return s
}

func fill(b *testing.B, s *apiserver.Server, n int) {
	b.Helper()
	fillWith(b, s, n, func(i int64, p *corev1.Pod) { p.Spec.NodeName = fmt.Sprint("node-", i%100) })
}

func fillWith(b *testing.B, s *apiserver.Server, n int, change func(i int64, p *corev1.Pod)) {
	b.Helper()
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 64 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				p := bigPod(fmt.Sprint("pod-", i))
				change(i, p)
				if _, err := core.Pod.Create(b.Context(), s, p); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkCreate(b *testing.B) {
	for _, engine := range []string{"memory", "lsm"} {
		for _, clients := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%s/clients=%d", engine, clients), func(b *testing.B) {
				s := benchServer(b, engine)
				body, err := json.Marshal(bigPod("x"))
				if err != nil {
					b.Fatal(err)
				}
				var next atomic.Int64
				b.ReportAllocs()
				b.SetBytes(int64(len(body)))
				b.ResetTimer()
				var wg sync.WaitGroup
				for range clients {
					wg.Go(func() {
						for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
							in := []byte(string(body[:0]) + replaceName(body, i))
							resp, err := s.Handle(b.Context(), &api.Request{Verb: api.Create, Resource: core.Pod.Def(), Namespace: "default",
								Body: in, ContentType: api.MediaJSON, Options: api.Options{FieldValidation: "Strict"}})
							if err == nil {
								_, err = resp.Item.JSON() // as the answer on the wire has it
							}
							if err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

func replaceName(body []byte, i int64) string {
	return fmt.Sprintf(`{"metadata":{"name":"pod-%d",%s`, i, body[len(`{"metadata":{"name":"x",`):])
}

func BenchmarkGet(b *testing.B) {
	s := benchServer(b, "memory")
	fill(b, s, 1000)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		r := &api.Request{Verb: api.Get, Resource: core.Pod.Def(), Namespace: "default", Name: "pod-" + strconv.Itoa(1+i%1000)}
		resp, err := s.Handle(b.Context(), r)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := resp.Item.JSON(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkColdJSON makes the JSON of a thousand pods of which only the stored
// form is there, as in a list after a start, of ten templates and of as many as
// there are pods. Bytes are of JSON.
func BenchmarkColdJSON(b *testing.B) {
	for _, templates := range []int64{10, 1 << 40} {
		b.Run(fmt.Sprint("templates=", min(templates, 1000)), func(b *testing.B) {
			const n = 1000
			s := benchServer(b, "memory")
			fillWith(b, s, n, func(i int64, p *corev1.Pod) { p.Spec.SchedulerName = fmt.Sprint("s-", i%templates) })
			var bodies [][]byte
			var revs []int64
			for item := range s.Snapshot().Items(core.Pod.Def().GroupResource(), "default") {
				body, err := item.Body()
				if err != nil {
					b.Fatal(err)
				}
				bodies, revs = append(bodies, body), append(revs, item.Revision)
			}
			for _, kept := range []bool{true, false} {
				b.Run(fmt.Sprint("kept=", kept), func(b *testing.B) {
					b.ReportAllocs()
					var text []byte
					i := 0
					for b.Loop() {
						item, err := api.NewItem(core.Pod.Def(), revs[i%n], bodies[i%n], nil), error(nil)
						if kept {
							text, err = item.JSON()
						} else {
							text, err = item.AppendJSON(text[:0])
						}
						if err != nil {
							b.Fatal(err)
						}
						b.SetBytes(int64(len(text)))
						i += 7 // a template is not always the last one's
					}
				})
			}
		})
	}
}

func BenchmarkList(b *testing.B) {
	s := benchServer(b, "memory")
	fill(b, s, 10000)
	for name, sel := range map[string]api.Selectors{
		"all": {}, "node": api.WithField("spec.nodeName", "node-7"), "labels": api.WithLabels(map[string]string{"app": "none"}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				if _, err := core.Pod.List(b.Context(), s, "", sel); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("limit=500", func(b *testing.B) {
		for range b.N {
			r := &api.Request{Verb: api.List, Resource: core.Pod.Def(), At: api.Version{Limit: 500}}
			if _, err := s.Handle(b.Context(), r); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkSelect lists the hundred pods of a node and of a label out of
// 150,000, and tells what the index that the first of the lists has made weighs.
func BenchmarkSelect(b *testing.B) {
	s := benchServer(b, "memory")
	const pods, each = 150_000, 100
	fillWith(b, s, pods, func(i int64, p *corev1.Pod) {
		p.Spec.NodeName = fmt.Sprint("node-", i%(pods/each))
		p.Labels["shard"] = fmt.Sprint("shard-", i%(pods/each))
	})
	for _, x := range []struct {
		name string
		sel  api.Selectors
		want int
	}{
		{"field", api.WithField("spec.nodeName", "node-7"), each},
		{"label", api.WithLabels(map[string]string{"shard": "shard-7"}), each},
		{"nothing", api.WithLabels(map[string]string{"shard": "none"}), 0},
	} {
		b.Run(x.name, func(b *testing.B) {
			list := func() {
				l, err := core.Pod.List(b.Context(), s, "", x.sel)
				if err != nil || len(l) != x.want {
					b.Fatal(len(l), err)
				}
			}
			before := heap()
			list()
			weight := heap() - before
			b.ReportAllocs()
			for b.Loop() {
				list()
			}
			b.ReportMetric(float64(max(0, weight))/pods, "index-B/object")
		})
	}
}

func BenchmarkStatusUpdate(b *testing.B) {
	s := benchServer(b, "memory")
	fill(b, s, 1000)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		name := "pod-" + strconv.Itoa(1+i%1000)
		p, err := core.Pod.Get(b.Context(), s, "default", name)
		if err != nil {
			b.Fatal(err)
		}
		p = api.Clone(p)
		p.Status.Message = strconv.Itoa(i)
		if _, err := core.Pod.UpdateStatus(b.Context(), s, p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFanOut tells how long it takes until half of the watchers, and until
// nearly all, have an event and its JSON; and what a waiting watcher weighs.
func BenchmarkFanOut(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint("watchers=", n), func(b *testing.B) { fanOut(b, n) })
	}
}

func fanOut(b *testing.B, n int) {
	s := benchServer(b, "memory")
	fill(b, s, 1)
	ctx, cancel := context.WithCancel(b.Context())
	before := heap()
	times := make(chan time.Duration, n)
	var start atomic.Int64
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			resp, err := s.Handle(ctx, &api.Request{Verb: api.Watch, Resource: core.Pod.Def(), Namespace: "default",
				At: api.Version{ResourceVersion: strconv.FormatInt(s.Revision(), 10), Bookmarks: true}})
			if err != nil {
				b.Error(err)
				return
			}
			for e := range resp.Events {
				if e.Item != nil {
					_, _ = e.Item.JSON()
					times <- time.Duration(time.Now().UnixNano() - start.Load())
				}
			}
		})
	}
	time.Sleep(200 * time.Millisecond) // all of them wait now; a late one still gets its events
	weight := heap() - before
	var half, most time.Duration
	b.ResetTimer()
	for i := range b.N {
		start.Store(time.Now().UnixNano())
		if _, err := s.Mutate(ctx, &api.Request{Resource: core.Pod.Def(), Namespace: "default", Name: "pod-1"}, func(o api.Object) (api.Object, error) {
			o.SetAnnotations(map[string]string{"n": strconv.Itoa(i)})
			return o, nil
		}); err != nil {
			b.Fatal(err)
		}
		all := make([]time.Duration, n)
		for j := range all {
			all[j] = <-times
		}
		slices.Sort(all)
		half += all[n/2]
		most += all[n*99/100]
	}
	b.ReportMetric(float64(half.Microseconds())/float64(b.N), "p50-µs")
	b.ReportMetric(float64(most.Microseconds())/float64(b.N), "p99-µs")
	b.ReportMetric(float64(weight)/float64(n), "B/watch")
	cancel()
	wg.Wait()
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
