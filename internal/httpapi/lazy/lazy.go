// Package lazy has a context that costs nothing until somebody waits for it:
// most requests never do.
package lazy

import (
	"context"
	"sync"
	"time"
)

// A Context is like one of context.WithCancel, or of context.WithDeadline, but it
// joins its parent's children and sets its timer when somebody first asks for
// [Context.Done].
type Context struct {
	context.Context // the one it is derived from
	at              time.Time

	mu     sync.Mutex
	waited context.Context // once somebody waits
	cancel context.CancelFunc
	ended  bool
}

// Init makes c derive from parent, and end at the given time if it is not zero.
// A Context is part of what it belongs to, so this is called once, before it is used.
func (c *Context) Init(parent context.Context, at time.Time) { c.Context, c.at = parent, at }

// WithDeadline returns a context that ends at the given time.
func WithDeadline(parent context.Context, at time.Time) *Context {
	return &Context{Context: parent, at: at}
}

// Cancel ends the context.
func (c *Context) Cancel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.cancel != nil {
		c.cancel()
	}
}

// Deadline is when it ends, or the one before it does.
func (c *Context) Deadline() (time.Time, bool) {
	at, ok := c.Context.Deadline()
	if c.at.IsZero() || ok && at.Before(c.at) {
		return at, ok
	}
	return c.at, true
}

// Done is closed when the context has ended.
func (c *Context) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waited == nil {
		if c.at.IsZero() {
			c.waited, c.cancel = context.WithCancel(c.Context)
		} else {
			c.waited, c.cancel = context.WithDeadline(c.Context, c.at)
		}
		if c.ended {
			c.cancel()
		}
	}
	return c.waited.Done()
}

// Err says why it has ended, if it has.
func (c *Context) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waited != nil {
		return c.waited.Err()
	}
	if err := c.Context.Err(); err != nil {
		return err
	}
	if c.ended {
		return context.Canceled
	}
	if !c.at.IsZero() && !time.Now().Before(c.at) {
		return context.DeadlineExceeded
	}
	return nil
}

// Value is also how the library finds the context that is waited for, so that
// one that is derived from this needs no goroutine.
func (c *Context) Value(key any) any {
	c.mu.Lock()
	waited := c.waited
	c.mu.Unlock()
	if waited != nil {
		return waited.Value(key)
	}
	return c.Context.Value(key)
}
