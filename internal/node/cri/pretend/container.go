package pretend

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/node/cri"
)

// CreateContainer implements cri.Runtime.
func (r *Runtime) CreateContainer(_ context.Context, sandboxID string, cfg *v1.ContainerConfig, _ *v1.PodSandboxConfig) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.fails("CreateContainer"); err != nil {
		return "", err
	}
	s := r.sandboxes[sandboxID]
	if s == nil {
		return "", missing("sandbox", sandboxID)
	}
	for _, c := range s.containers {
		if c.config.Metadata.Name == cfg.Metadata.Name && c.config.Metadata.Attempt == cfg.Metadata.Attempt {
			return "", status.Errorf(codes.AlreadyExists, "name of container %s attempt %d is reserved for %q", cfg.Metadata.Name, cfg.Metadata.Attempt, c.id)
		}
	}
	sc, err := parse(s.config.Annotations[Annotation+cfg.Metadata.Name], cfg.Metadata.Attempt)
	if err != nil {
		return "", status.Error(codes.InvalidArgument, err.Error())
	}
	if sc.create != "" {
		return "", status.Error(codes.Unknown, sc.create)
	}
	if r.image(cfg.GetImage().GetImage()) == nil {
		return "", missing("image", cfg.GetImage().GetImage())
	}
	c := &container{id: r.id(), sandbox: s, config: cfg, script: sc, created: r.now()}
	r.containers[c.id], s.containers[c.id] = c, c
	r.tell(s, c.id, v1.ContainerEventType_CONTAINER_CREATED_EVENT)
	return c.id, nil
}

// StartContainer implements cri.Runtime.
func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	if err := r.drag(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.fails("StartContainer"); err != nil {
		return err
	}
	c := r.containers[id]
	switch {
	case c == nil:
		return missing("container", id)
	case c.state != v1.ContainerState_CONTAINER_CREATED:
		return status.Errorf(codes.FailedPrecondition, "container %q is in %s state", id, c.state)
	case !c.sandbox.ready:
		return status.Errorf(codes.FailedPrecondition, "sandbox container %q is not running", c.sandbox.id)
	}
	if c.script.start != "" {
		r.end(c, 128, "StartError", c.script.start)
		return status.Error(codes.Unknown, c.script.start)
	}
	c.state, c.started = v1.ContainerState_CONTAINER_RUNNING, r.now()
	r.log(c)
	r.tell(c.sandbox, c.id, v1.ContainerEventType_CONTAINER_STARTED_EVENT)
	if c.script.exits {
		c.cancel = r.clock.AfterFunc(c.script.after, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			reason := cmp.Or(c.script.reason, map[bool]string{true: "Completed", false: "Error"}[c.script.exit == 0])
			r.end(c, c.script.exit, reason, c.script.message)
		})
	}
	return nil
}

// log writes the container's one line where its log belongs, if there is a line.
func (r *Runtime) log(c *container) {
	if c.script.log == "" || c.config.LogPath == "" || c.sandbox.config.LogDirectory == "" {
		return
	}
	path := filepath.Join(c.sandbox.config.LogDirectory, c.config.LogPath)
	line := fmt.Sprintf("%s stdout F %s\n", r.clock.Now().UTC().Format("2006-01-02T15:04:05.000000000Z07:00"), c.script.log)
	if os.MkdirAll(filepath.Dir(path), 0o700) == nil {
		_ = os.WriteFile(path, []byte(line), 0o600)
	}
}

// end is the one way for a container to end.
func (r *Runtime) end(c *container, code int32, reason, message string) {
	if c.state == v1.ContainerState_CONTAINER_EXITED || r.containers[c.id] != c {
		return
	}
	if c.cancel != nil {
		c.cancel()
		c.cancel = nil
	}
	cpu, _ := c.use(r)
	r.spent += cpu
	c.state, c.finished, c.code, c.reason, c.message = v1.ContainerState_CONTAINER_EXITED, r.now(), code, reason, message
	for _, w := range c.waiting {
		close(w)
	}
	c.waiting = nil
	r.tell(c.sandbox, c.id, v1.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

// StopContainer implements cri.Runtime.
func (r *Runtime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	r.mu.Lock()
	c := r.containers[id]
	if err := r.fails("StopContainer"); err != nil || c == nil || c.state == v1.ContainerState_CONTAINER_EXITED {
		r.mu.Unlock()
		return err
	}
	code, reason, after := c.script.stopCode, "Error", c.script.stop
	if c.state == v1.ContainerState_CONTAINER_CREATED {
		after = 0
	}
	if code == 0 {
		reason = "Completed"
	}
	if after > grace || (after == 0 && grace == 0) {
		code, reason, after = 137, "Error", grace
	}
	if after == 0 {
		r.end(c, code, reason, "")
		r.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	c.waiting = append(c.waiting, done)
	r.clock.AfterFunc(after, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.end(c, code, reason, "")
	})
	r.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// RemoveContainer implements cri.Runtime.
func (r *Runtime) RemoveContainer(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil
	}
	r.end(c, 137, "Error", "")
	delete(r.containers, id)
	delete(c.sandbox.containers, id)
	r.tell(c.sandbox, id, v1.ContainerEventType_CONTAINER_DELETED_EVENT)
	return nil
}

// ContainerStatus implements cri.Runtime.
func (r *Runtime) ContainerStatus(_ context.Context, id string) (*v1.ContainerStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil, missing("container", id)
	}
	return c.status(r), r.fails("ContainerStatus")
}

func (c *container) status(r *Runtime) *v1.ContainerStatus {
	st := &v1.ContainerStatus{Id: c.id, Metadata: c.config.Metadata, State: c.state, CreatedAt: c.created,
		StartedAt: c.started, FinishedAt: c.finished, ExitCode: c.code, Reason: c.reason, Message: c.message,
		Image: c.config.Image, Labels: c.config.Labels, Annotations: c.config.Annotations, Mounts: c.config.Mounts,
		LogPath: filepath.Join(c.sandbox.config.LogDirectory, c.config.LogPath)}
	if i := r.image(c.config.GetImage().GetImage()); i != nil {
		st.ImageRef, st.ImageId = i.RepoDigests[0], i.Id
	}
	return st
}

// ListContainers implements cri.Runtime.
func (r *Runtime) ListContainers(_ context.Context, f *v1.ContainerFilter) (out []*v1.Container, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.fails("ListContainers"); err != nil {
		return nil, err
	}
	for _, c := range r.of(f.GetLabelSelector()[cri.LabelPodUID]) {
		if (f.GetId() != "" && f.Id != c.id) || (f.GetPodSandboxId() != "" && f.PodSandboxId != c.sandbox.id) ||
			(f.GetState() != nil && f.State.State != c.state) || !subset(f.GetLabelSelector(), c.config.Labels) {
			continue
		}
		st := c.status(r)
		out = append(out, &v1.Container{Id: c.id, PodSandboxId: c.sandbox.id, Metadata: c.config.Metadata, Image: c.config.Image,
			ImageRef: st.ImageRef, ImageId: st.ImageId, State: c.state, CreatedAt: c.created, Labels: c.config.Labels, Annotations: c.config.Annotations})
	}
	slices.SortFunc(out, func(a, b *v1.Container) int { return cmp.Compare(b.CreatedAt, a.CreatedAt) })
	return out, nil
}

// of are the containers of a pod, or all without one.
func (r *Runtime) of(pod string) map[string]*container {
	if pod == "" {
		return r.containers
	}
	all := map[string]*container{}
	for _, s := range r.byPod[pod] {
		maps.Copy(all, s.containers)
	}
	return all
}

// UpdateContainer implements cri.Runtime.
func (r *Runtime) UpdateContainer(_ context.Context, id string, _ *v1.LinuxContainerResources) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.containers[id] == nil {
		return missing("container", id)
	}
	return nil
}

// ReopenLog implements cri.Runtime.
func (r *Runtime) ReopenLog(context.Context, string) error { return nil }
