package etcd_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"proa/internal/store"
	"proa/internal/store/etcd"
	"proa/internal/store/etcd/etcdtest"
)

// BenchmarkCreate makes records of 2 KB from many writers at a time.
func BenchmarkCreate(b *testing.B) {
	s := etcdtest.Start(b, "--unsafe-no-fsync=false")
	e := open(b, s, nil)
	defer e.Close()
	value := make([]byte, 2048)
	var n atomic.Int64
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprint(writers, " writers"), func(b *testing.B) {
			var wg sync.WaitGroup
			left := atomic.Int64{}
			left.Store(int64(b.N))
			for range writers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						op := store.Op{Key: fmt.Sprint("/core/pods/ns/", n.Add(1)), Value: value, Expect: store.Absent}
						if _, err := e.Write(context.Background(), op); err != nil {
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

// BenchmarkHistory writes records of 2 KB by 16 writers and compacts them, creates or
// updates of a hundred keys, with and without a history.
func BenchmarkHistory(b *testing.B) {
	value := make([]byte, 2048)
	for _, keys := range []int64{0, 100} {
		for _, on := range []bool{false, true} {
			name := map[int64]string{0: "creates", 100: "updates of 100"}[keys]
			b.Run(fmt.Sprintf("%s/history=%v", name, on), func(b *testing.B) {
				s := etcdtest.Start(b, "--unsafe-no-fsync=false")
				e := open(b, s, func(o *etcd.Options) {
					if on {
						o.History = store.Keeping{Keep: func(string) bool { return true }, Full: 20, Light: 10, Bytes: 256 << 20}
					}
				})
				defer e.Close()
				var n atomic.Int64
				var wg sync.WaitGroup
				b.ResetTimer()
				for range 16 {
					wg.Go(func() {
						for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
							op := store.Op{Key: fmt.Sprint("/core/configmaps/ns/", i), Value: value, User: "someone"}
							if keys > 0 {
								op.Key, op.Expect = fmt.Sprint("/core/configmaps/ns/", i%keys), store.Any
							}
							if _, err := e.Write(context.Background(), op); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				writes := b.Elapsed()
				b.StartTimer()
				if err := e.Compact(context.Background(), e.Revision()); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(writes.Microseconds())/float64(b.N), "µs/write")
				b.ReportMetric(float64((b.Elapsed()-writes).Microseconds())/float64(b.N), "µs-compacting/write")
			})
		}
	}
}
