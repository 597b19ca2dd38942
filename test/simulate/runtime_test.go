package simulate

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/node/cri"
	"proa/internal/node/cri/pretend"
)

// A runtime is a pretend one whose calls wait for their turn.
type runtime struct {
	*pretend.Runtime
	a *actor
}

var (
	_ cri.Runtime = runtime{}
	_ cri.Prober  = runtime{}
)

// reads are the calls that change nothing; they do not fail.
var reads = map[string]bool{"ImageStatus": true, "Events": true, "Event": true}

func (r runtime) turn(ctx context.Context, name, what string) error {
	switch r.a.w.gate.hold(ctx, r.a, call, name+" "+what, !reads[name]) {
	case goes:
		return nil
	case ended:
		return status.FromContextError(context.Canceled).Err()
	}
	return status.Error(codes.Unavailable, name+" failed (made up)")
}

func (r runtime) RunSandbox(ctx context.Context, c *v1.PodSandboxConfig, handler string) (string, error) {
	if err := r.turn(ctx, "RunSandbox", c.Metadata.Uid); err != nil {
		return "", err
	}
	return r.Runtime.RunSandbox(ctx, c, handler)
}

// Events implements cri.Runtime. An event waits for its turn like what caused it: the agent
// hears of a call's end from two sides, and which is first is the seed's to say.
func (r runtime) Events(ctx context.Context, ready func(), event func(*v1.ContainerEventResponse)) error {
	if err := r.turn(ctx, "Events", ""); err != nil {
		return err
	}
	return r.Runtime.Events(ctx, ready, func(e *v1.ContainerEventResponse) {
		if r.turn(ctx, "Event", e.ContainerEventType.String()+" "+e.ContainerId) == nil {
			event(e)
		}
	})
}

func (r runtime) StopSandbox(ctx context.Context, id string) error {
	if err := r.turn(ctx, "StopSandbox", id); err != nil {
		return err
	}
	return r.Runtime.StopSandbox(ctx, id)
}

func (r runtime) RemoveSandbox(ctx context.Context, id string) error {
	if err := r.turn(ctx, "RemoveSandbox", id); err != nil {
		return err
	}
	return r.Runtime.RemoveSandbox(ctx, id)
}

func (r runtime) CreateContainer(ctx context.Context, sandbox string, c *v1.ContainerConfig, s *v1.PodSandboxConfig) (string, error) {
	if err := r.turn(ctx, "CreateContainer", sandbox+" "+c.Metadata.Name); err != nil {
		return "", err
	}
	return r.Runtime.CreateContainer(ctx, sandbox, c, s)
}

func (r runtime) StartContainer(ctx context.Context, id string) error {
	if err := r.turn(ctx, "StartContainer", id); err != nil {
		return err
	}
	err := r.Runtime.StartContainer(ctx, id)
	r.a.w.started(r)
	return err
}

func (r runtime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	if err := r.turn(ctx, "StopContainer", id); err != nil {
		return err
	}
	return r.Runtime.StopContainer(ctx, id, grace)
}

func (r runtime) RemoveContainer(ctx context.Context, id string) error {
	if err := r.turn(ctx, "RemoveContainer", id); err != nil {
		return err
	}
	return r.Runtime.RemoveContainer(ctx, id)
}

func (r runtime) UpdateContainer(ctx context.Context, id string, c *v1.LinuxContainerResources) error {
	if err := r.turn(ctx, "UpdateContainer", id); err != nil {
		return err
	}
	return r.Runtime.UpdateContainer(ctx, id, c)
}

func (r runtime) ImageStatus(ctx context.Context, image string) (*v1.Image, error) {
	if err := r.turn(ctx, "ImageStatus", image); err != nil {
		return nil, err
	}
	return r.Runtime.ImageStatus(ctx, image)
}

func (r runtime) Pull(ctx context.Context, image string, auth *v1.AuthConfig, s *v1.PodSandboxConfig) (string, error) {
	if err := r.turn(ctx, "Pull", image); err != nil {
		return "", err
	}
	return r.Runtime.Pull(ctx, image, auth, s)
}
