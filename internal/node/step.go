package node

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A Step makes one part of a pod real on this node before its sandbox is
// started, and undoes it after its containers are gone. Both functions may be
// called any number of times, in any state, also after a restart of the agent:
// they look at what is there, never at what they remember.
type Step struct {
	Name  string
	Start func(context.Context, *Run) error
	Stop  func(context.Context, *Run) error

	// Sweep removes what is left of pods that are not known any more: a runtime
	// that is stopped in the middle of a start may make things after Stop has
	// looked. It is called every 10 s, and may be nil.
	Sweep func(known func(types.UID) bool) error
}

// A Run is one pod on its way up or down. Steps leave in it what later steps,
// and the containers, need.
type Run struct {
	Pod     *corev1.Pod
	Dir     string            // the pod's folder
	Cgroup  string            // parent of the pod's sandbox and containers, for the runtime
	Volumes map[string]Volume // by name
	Changed func()            // may be called at any time: what a step waits for has come
	Note    func(typ, reason, message string)
}

// A Volume is a volume of a pod on the host.
type Volume struct {
	Path     string
	ReadOnly bool
}

func startSteps(ctx context.Context, steps []*Step, r *Run) error {
	for _, s := range steps {
		if s.Start == nil {
			continue
		}
		if err := s.Start(ctx, r); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return nil
}

// stopSteps takes all steps back in reverse and returns the first error.
func stopSteps(ctx context.Context, steps []*Step, r *Run) (first error) {
	for _, s := range slices.Backward(steps) {
		if s.Stop == nil {
			continue
		}
		if err := s.Stop(ctx, r); err != nil && first == nil {
			first = fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return first
}

// sweepSteps has every step remove what pods that are gone left behind.
func (a *Agent) sweepSteps() {
	a.mu.Lock()
	synced := a.synced
	a.mu.Unlock()
	if !synced {
		return // nobody is known yet
	}
	for _, s := range a.Steps {
		if s.Sweep == nil {
			continue
		}
		if err := s.Sweep(func(uid types.UID) bool { return a.find(uid) != nil }); err != nil {
			a.Log.Warn("what a pod left cannot be removed", "step", s.Name, "err", err)
		}
	}
}
