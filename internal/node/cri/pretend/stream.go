package pretend

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	"proa/internal/node/cri"
)

// ExecSync implements cri.Runtime: the command's words come back on its output.
func (r *Runtime) ExecSync(_ context.Context, id string, cmd []string, _ time.Duration) ([]byte, []byte, int32, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.running(id)
	if err != nil {
		return nil, nil, 0, err
	}
	if c.script.execWindow.holds(c.age(r)) {
		return []byte("scripted failure"), nil, 1, nil
	}
	return []byte(strings.Join(cmd, " ") + "\n"), nil, c.script.exec, nil
}

func (c *container) age(r *Runtime) time.Duration { return time.Duration(r.now() - c.started) }

func (r *Runtime) running(id string) (*container, error) {
	c := r.containers[id]
	if c == nil {
		return nil, missing("container", id)
	}
	if c.state != v1.ContainerState_CONTAINER_RUNNING {
		return nil, status.Errorf(codes.Unknown, "container %q is in %s state", id, c.state)
	}
	return c, nil
}

// Exec implements cri.Runtime: the command's words, and then what comes in, come back.
func (r *Runtime) Exec(ctx context.Context, id string, cmd []string, s cri.IO) error {
	out, _, code, err := r.ExecSync(ctx, id, cmd, 0)
	if err != nil {
		return err
	}
	if s.Stdout != nil {
		if _, err := s.Stdout.Write(out); err != nil {
			return err
		}
		if s.Stdin != nil {
			if _, err := io.Copy(s.Stdout, s.Stdin); err != nil {
				return err
			}
		}
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: int(code)}
	}
	return nil
}

// Attach implements cri.Runtime: what comes in comes back, until the container ends.
func (r *Runtime) Attach(ctx context.Context, id string, s cri.IO) error {
	r.mu.Lock()
	c, err := r.running(id)
	if err != nil {
		r.mu.Unlock()
		return err
	}
	done := make(chan struct{})
	c.waiting = append(c.waiting, done)
	r.mu.Unlock()
	copied := make(chan error, 1)
	if s.Stdin != nil && s.Stdout != nil {
		go func() { _, err := io.Copy(s.Stdout, s.Stdin); copied <- err }()
	}
	select {
	case err := <-copied:
		return err
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// PortForward implements cri.Runtime: what is sent comes back.
func (r *Runtime) PortForward(_ context.Context, id string, port int32, conn io.ReadWriteCloser) error {
	r.mu.Lock()
	s := r.sandboxes[id]
	r.mu.Unlock()
	if s == nil || !s.ready {
		return missing("sandbox", id)
	}
	defer conn.Close()
	_, err := io.Copy(conn, conn)
	return err
}

// Probe implements cri.Prober.
func (r *Runtime) Probe(_ context.Context, id, kind string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.running(id)
	if err != nil {
		return err
	}
	w := map[string]window{"httpGet": c.script.httpGet, "tcpSocket": c.script.tcp, "grpc": c.script.grpc}[kind]
	if w.holds(c.age(r)) {
		if kind == "httpGet" {
			return fmt.Errorf("HTTP probe failed with statuscode: 500")
		}
		return fmt.Errorf("scripted failure")
	}
	return nil
}

// A subscriber is one stream of events, with what it has not read yet.
type subscriber struct {
	mu    sync.Mutex
	queue []*v1.ContainerEventResponse
	wake  chan struct{}
}

// tell sends an event to all subscribers. The runtime is locked.
func (r *Runtime) tell(s *sandbox, id string, typ v1.ContainerEventType) {
	if len(r.subs) == 0 {
		return
	}
	e := &v1.ContainerEventResponse{ContainerId: id, ContainerEventType: typ, CreatedAt: r.now(), PodSandboxStatus: s.status()}
	for _, c := range s.containers {
		e.ContainersStatuses = append(e.ContainersStatuses, c.status(r))
	}
	for sub := range r.subs {
		sub.mu.Lock()
		sub.queue = append(sub.queue, e)
		sub.mu.Unlock()
		select {
		case sub.wake <- struct{}{}:
		default:
		}
	}
}

// Events implements cri.Runtime.
func (r *Runtime) Events(ctx context.Context, ready func(), event func(*v1.ContainerEventResponse)) error {
	sub := &subscriber{wake: make(chan struct{}, 1)}
	r.mu.Lock()
	if err := r.fails("Events"); err != nil {
		r.mu.Unlock()
		return err
	}
	r.subs[sub] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.subs, sub)
		r.mu.Unlock()
	}()
	ready()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-sub.wake:
		}
		sub.mu.Lock()
		q := sub.queue
		sub.queue = nil
		sub.mu.Unlock()
		for _, e := range q {
			event(e)
		}
	}
}
