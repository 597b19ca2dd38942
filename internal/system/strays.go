package system

import (
	"context"
	"time"

	"proa/internal/node/containerd"
	"proa/internal/node/cri"
)

// A start of a sandbox that a killed proa had asked for ends with it, at once. At
// one moment in it, between starting the shim and noting it down, containerd
// forgets the shim, which runs on.

// strayGrace is how long containerd has to end what a proa before this one asked for.
const strayGrace = 10 * time.Second

// endStrays ends the shims that were there when this proa came, and that
// containerd, some time later, still knows no sandbox for. It returns when ctx
// ends or that is done.
func (s *system) endStrays(ctx context.Context, rt *cri.Real, before map[int]string) {
	if len(before) == 0 {
		return
	}
	select {
	case <-time.After(strayGrace):
	case <-ctx.Done():
		return
	}
	boxes, err := rt.ListSandboxes(ctx, nil)
	if err != nil {
		if ctx.Err() == nil {
			s.Log.Warn("Shims without a sandbox cannot be looked for", "err", err)
		}
		return
	}
	known := map[string]bool{}
	for _, b := range boxes {
		known[b.Id] = true
	}
	socket := s.Places.Socket()
	now, err := containerd.Shims(socket)
	if err != nil {
		s.Log.Warn("Shims without a sandbox cannot be looked for", "err", err)
		return
	}
	for pid, id := range before {
		if known[id] || now[pid] != id {
			continue
		}
		if err := containerd.EndStray(ctx, socket, pid); err != nil && ctx.Err() == nil {
			s.Log.Warn("A shim that containerd has forgotten cannot be ended", "sandbox", id, "process", pid, "err", err)
			continue
		}
		s.Log.Info("Ended a shim that containerd had forgotten", "sandbox", id, "process", pid)
	}
}
