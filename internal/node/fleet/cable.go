package fleet

import (
	"context"
	"sync"

	"proa/internal/api"
)

// A Cable joins a node to the API. While it is cut, requests do not arrive,
// answers to those that had arrived are not seen, and watches stand still: all of
// it waits until the cable is mended, or until who asked gives up. Nothing is lost
// by a cut, as nothing is on a network of machines that send again.
type Cable struct {
	to  api.Handler
	mu  sync.Mutex
	cut chan struct{} // closed when the cable is mended; nil while it is whole
}

// NewCable returns a cable that leads to h.
func NewCable(h api.Handler) *Cable { return &Cable{to: h} }

// Cut cuts the cable.
func (c *Cable) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut == nil {
		c.cut = make(chan struct{})
	}
}

// Mend joins its ends again.
func (c *Cable) Mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut != nil {
		close(c.cut)
		c.cut = nil
	}
}

// Whole says whether something can pass.
func (c *Cable) Whole() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut == nil
}

// pass waits until something can pass.
func (c *Cable) pass(ctx context.Context) error {
	for {
		c.mu.Lock()
		cut := c.cut
		c.mu.Unlock()
		if cut == nil {
			return nil
		}
		select {
		case <-cut:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Handle implements api.Handler.
func (c *Cable) Handle(ctx context.Context, r *api.Request) (*api.Response, error) {
	if err := c.pass(ctx); err != nil {
		return nil, err
	}
	resp, err := c.to.Handle(ctx, r)
	if cut := c.pass(ctx); cut != nil {
		return nil, cut
	}
	if err != nil || resp.Events == nil {
		return resp, err
	}
	out := *resp
	out.Events = func(yield func(api.Event, error) bool) {
		for e, err := range resp.Events {
			if c.pass(ctx) != nil || !yield(e, err) {
				return
			}
		}
	}
	return &out, nil
}
