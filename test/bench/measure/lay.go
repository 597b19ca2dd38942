package measure

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/store"
	"proa/internal/store/lsm"
)

// ObjectName is the name of the i-th object that a benchmark makes.
func ObjectName(i int) string { return fmt.Sprintf("bench-%07d", i) }

// ObjectUID is its UID.
func ObjectUID(i int) types.UID { return types.UID(fmt.Sprintf("7a0c9f5e-3d1b-4c58-9e21-%012x", i)) }

// Lay copies the record of an object in the namespace default n times under
// other names, as the API would have made them, straight into the store of a
// cluster that does not run. It returns how many bytes their values have.
func Lay(dir string, r *api.Resource, sample string, n int) (size int64, err error) {
	e, err := lsm.Open(dir, lsm.Options{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	prefix := apiserver.Prefix(r.GroupResource()) + "default/"
	rec, _, err := e.Get(context.Background(), prefix+sample)
	if err != nil || rec == nil {
		return 0, fmt.Errorf("%s is not in the store: %w", sample, err)
	}
	err = Each(n, 1024, func(i int) error {
		o, err := r.Codec.Decode(rec.Value)
		if err != nil {
			return err
		}
		o.SetName(ObjectName(i))
		o.SetUID(ObjectUID(i))
		body, err := r.Codec.Encode(o)
		if err != nil {
			return err
		}
		if i == 0 {
			size = int64(n) * int64(len(body)) // all names and UIDs have one length
		}
		_, err = e.Write(context.Background(), store.Op{Key: prefix + o.GetName(), Value: body, Expect: store.Absent, User: rec.User, Codec: rec.Codec})
		return err
	})
	return size, err
}

// Each calls f for 0 to n-1 from several goroutines, until one fails.
func Each(n, goroutines int, f func(i int) error) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	next := make(chan int)
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := range next {
				if ctx.Err() != nil {
					continue
				}
				if err := f(i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}
