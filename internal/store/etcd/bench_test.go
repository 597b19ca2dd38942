package etcd_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"proa/internal/store"
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
