package httpapi

import (
	"context"
	"sync"
	"time"
)

// A deadline is a context that ends at a time, like that of context.WithDeadline.
// It sets no timer until somebody waits for it: most reads never do.
type deadline struct {
	context.Context // the one it is derived from
	at              time.Time

	mu     sync.Mutex
	timed  context.Context // once somebody waits
	cancel context.CancelFunc
	ended  bool
}

// end is the context's CancelFunc.
func (d *deadline) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	if d.cancel != nil {
		d.cancel()
	}
}

// Deadline is when it ends, or the one before it does.
func (d *deadline) Deadline() (time.Time, bool) {
	if at, ok := d.Context.Deadline(); ok && at.Before(d.at) {
		return at, true
	}
	return d.at, true
}

// Done is closed when the context has ended.
func (d *deadline) Done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timed == nil {
		d.timed, d.cancel = context.WithDeadline(d.Context, d.at)
		if d.ended {
			d.cancel()
		}
	}
	return d.timed.Done()
}

// Err says why it has ended, if it has.
func (d *deadline) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timed != nil {
		return d.timed.Err()
	}
	if err := d.Context.Err(); err != nil {
		return err
	}
	if d.ended {
		return context.Canceled
	}
	if !time.Now().Before(d.at) {
		return context.DeadlineExceeded
	}
	return nil
}

// Value is also how the library finds the context that has the timer, so that
// one that is derived from this needs no goroutine.
func (d *deadline) Value(key any) any {
	d.mu.Lock()
	timed := d.timed
	d.mu.Unlock()
	if timed != nil {
		return timed.Value(key)
	}
	return d.Context.Value(key)
}
