package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/kubeletapi"
	"proa/internal/node/cri"
	"proa/internal/node/logs"
)

var _ kubeletapi.Agent = (*Agent)(nil)

// Healthy implements kubeletapi.Agent.
func (a *Agent) Healthy(ctx context.Context) error {
	_, err := a.Runtime.Version(ctx)
	return err
}

// Pods implements kubeletapi.Agent.
func (a *Agent) Pods(context.Context) (*corev1.PodList, error) {
	out := &corev1.PodList{}
	for _, p := range a.list() {
		out.Items = append(out.Items, *p)
	}
	return out, nil
}

// named finds a pod's worker by name; of two with one name, the younger.
func (a *Agent) named(t kubeletapi.Target) (*worker, *corev1.Pod, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var best *worker
	var pod *corev1.Pod
	for _, w := range a.pods {
		w.mu.Lock()
		p := w.pod
		w.mu.Unlock()
		if p.Name != t.Pod || p.Namespace != t.Namespace || t.UID != "" && p.UID != types.UID(t.UID) {
			continue
		}
		if best == nil || pod.CreationTimestamp.Before(&p.CreationTimestamp) {
			best, pod = w, p
		}
	}
	if best == nil {
		return nil, nil, kubeletapi.NotFound("pod %q not found", t.Pod)
	}
	return best, pod, nil
}

// seenContainers are a container's runs, as last seen: the newest and the one before it.
func (w *worker) seenContainers(name string) (last, before *container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last == nil {
		return nil, nil
	}
	return w.last.newest(name)
}

// Logs implements kubeletapi.Agent.
func (a *Agent) Logs(ctx context.Context, t kubeletapi.Target, o *corev1.PodLogOptions, out io.Writer) error {
	w, pod, err := a.named(t)
	if err != nil {
		return err
	}
	if spec, _ := containerOf(pod, t.Container); spec == nil {
		return kubeletapi.NotFound("container %q not found in pod %q", t.Container, t.Pod)
	}
	c, before := w.seenContainers(t.Container)
	if o.Previous {
		if c = before; c == nil {
			return kubeletapi.BadRequest("previous terminated container %q in pod %q not found", t.Container, t.Pod)
		}
	} else if c == nil || c.state == created {
		return a.waits(w, pod, t)
	}
	opt := logs.Options{Follow: o.Follow && !o.Previous, Timestamps: o.Timestamps, Tail: o.TailLines, Limit: o.LimitBytes}
	if o.SinceSeconds != nil {
		opt.Since = a.Clock.Now().Add(-time.Duration(*o.SinceSeconds) * time.Second)
	} else if o.SinceTime != nil {
		opt.Since = o.SinceTime.Time
	}
	if o.Stream != nil {
		opt.Stream = *o.Stream
	}
	path := c.logPath
	if path == "" {
		return kubeletapi.NotFound("container %q in pod %q has no log", t.Container, t.Pod)
	}
	err = logs.Read(ctx, path, opt, out, func() bool {
		last, _ := w.seenContainers(t.Container)
		return last == nil || last.id != c.id || last.state == exited
	})
	if errors.Is(err, os.ErrNotExist) {
		if _, ok := a.Runtime.(cri.Prober); ok {
			return nil // a pretended container has nothing to say
		}
		return kubeletapi.NotFound("the log of container %q in pod %q is not there", t.Container, t.Pod)
	}
	return err
}

// waits says why a container has no log yet.
func (a *Agent) waits(w *worker, pod *corev1.Pod, t kubeletapi.Target) error {
	reason := "ContainerCreating"
	if len(pod.Spec.InitContainers) > 0 {
		reason = "PodInitializing"
	}
	w.mu.Lock()
	if x := w.mem.waiting[t.Container]; x != nil {
		switch reason = x.reason; reason {
		case "ErrImagePull", "ImagePullBackOff":
			w.mu.Unlock()
			return kubeletapi.BadRequest("container %q in pod %q is waiting to start: trying and failing to pull image", t.Container, t.Pod)
		case "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError":
		}
	}
	w.mu.Unlock()
	return kubeletapi.BadRequest("container %q in pod %q is waiting to start: %s", t.Container, t.Pod, reason)
}

// alive finds the running container that a target names.
func (a *Agent) alive(t kubeletapi.Target) (*container, error) {
	w, pod, err := a.named(t)
	if err != nil {
		return nil, err
	}
	if spec, _ := containerOf(pod, t.Container); spec == nil {
		return nil, kubeletapi.NotFound("container not found (%q)", t.Container)
	}
	c, _ := w.seenContainers(t.Container)
	if c == nil || c.state != running {
		return nil, fmt.Errorf("container not found (%q)", t.Container)
	}
	return c, nil
}

func criStreams(s kubeletapi.Streams) (cri.IO, func()) {
	out := cri.IO{Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, TTY: s.TTY}
	if s.Resize == nil {
		return out, func() {}
	}
	sizes, done := make(chan cri.Size), make(chan struct{})
	out.Resize = sizes
	go func() {
		defer close(sizes)
		for {
			select {
			case z, ok := <-s.Resize:
				if !ok {
					return
				}
				select {
				case sizes <- cri.Size{Width: z.Width, Height: z.Height}:
				case <-done:
					return
				}
			case <-done:
				return
			}
		}
	}()
	return out, func() { close(done) }
}

// Exec implements kubeletapi.Agent.
func (a *Agent) Exec(ctx context.Context, t kubeletapi.Target, cmd []string, s kubeletapi.Streams) error {
	c, err := a.alive(t)
	if err != nil {
		return err
	}
	io, stop := criStreams(s)
	defer stop()
	return a.Runtime.Exec(ctx, c.id, cmd, io)
}

// Attach implements kubeletapi.Agent.
func (a *Agent) Attach(ctx context.Context, t kubeletapi.Target, s kubeletapi.Streams) error {
	c, err := a.alive(t)
	if err != nil {
		return err
	}
	io, stop := criStreams(s)
	defer stop()
	return a.Runtime.Attach(ctx, c.id, io)
}

// PortForward implements kubeletapi.Agent.
func (a *Agent) PortForward(ctx context.Context, t kubeletapi.Target, port int32, conn io.ReadWriteCloser) error {
	w, _, err := a.named(t)
	if err != nil {
		return err
	}
	w.mu.Lock()
	var s *sandbox
	if w.last != nil {
		s = w.last.sandbox()
	}
	w.mu.Unlock()
	if s == nil || !s.ready {
		return kubeletapi.NotFound("pod %q does not run", t.Pod)
	}
	return a.Runtime.PortForward(ctx, s.id, port, conn)
}
