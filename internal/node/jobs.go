package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/node/cri"
)

// newRun is the pod as the steps see it.
func (w *worker) newRun(pod *corev1.Pod) *Run {
	return &Run{Pod: pod, Dir: w.a.podDir(w.uid), Volumes: map[string]Volume{},
		Changed: func() {
			w.with(func(m *memory) {
				m.retry = time.Time{}
				for _, x := range m.waiting {
					if !x.onImage {
						x.until = time.Time{}
					}
				}
			})
			w.wake()
		},
		Note: func(typ, reason, message string) { w.a.event(pod, "", typ, reason, "%s", message) },
	}
}

// A StepError is a failure of a step that users are told about by an event of its own.
type StepError struct {
	Reason  string // of the event: FailedMount, …
	Message string
	Err     error
}

func (e *StepError) Error() string { return e.Message }
func (e *StepError) Unwrap() error { return e.Err }

// build takes the steps and runs a new sandbox.
func (w *worker) build(attempt uint32, old []*sandbox) {
	w.mu.Lock()
	pod, ctx := w.pod, w.up
	w.mu.Unlock()
	err := w.buildSandbox(ctx, pod, attempt, old)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mem.building = false
	if err == nil {
		w.mem.tries, w.mem.retry = 0, time.Time{}
		return
	}
	if ctx.Err() != nil {
		return
	}
	w.mem.tries++
	w.mem.retry = w.a.Clock.Now().Add(min(500*time.Millisecond<<min(w.mem.tries-1, 8), 30*time.Second))
	w.tell(pod, err)
}

// tell turns an error of building into an event.
func (w *worker) tell(pod *corev1.Pod, err error) {
	var step *StepError
	switch {
	case errors.As(err, &step):
		w.a.event(pod, "", warning, step.Reason, "%s", step.Message)
	case errors.Is(err, errNetwork):
		w.a.event(pod, "", warning, "NetworkNotReady", "network is not ready: %s", w.a.node.networkMessage())
	default:
		w.a.event(pod, "", warning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %s", cri.Message(err))
	}
	w.a.Log.Info("a pod cannot be set up", "namespace", pod.Namespace, "pod", pod.Name, "err", err)
}

var errNetwork = errors.New("network is not ready")

func (w *worker) buildSandbox(ctx context.Context, pod *corev1.Pod, attempt uint32, old []*sandbox) error {
	if !pod.Spec.HostNetwork && !w.a.node.waitNetwork(ctx) {
		return errNetwork
	}
	for _, s := range old {
		if err := w.a.Runtime.StopSandbox(ctx, s.id); err != nil {
			return fmt.Errorf("stop the sandbox before: %w", err)
		}
	}
	if len(old) > 0 && !old[0].ready {
		w.a.event(pod, "", normal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	if err := w.a.prepareClaims(ctx, pod); err != nil {
		return err
	}
	run := w.newRun(pod)
	if err := w.prepare(ctx, run); err != nil {
		return err
	}
	cfg, err := w.a.sandboxConfig(run, attempt)
	if err != nil {
		return err
	}
	handler, err := w.a.handler(ctx, pod)
	if err != nil {
		return err
	}
	if _, err := w.a.Runtime.RunSandbox(ctx, cfg, handler); err != nil {
		return err
	}
	w.mu.Lock()
	w.run = run
	w.mu.Unlock()
	return nil
}

// prepare takes the steps.
func (w *worker) prepare(ctx context.Context, run *Run) error {
	if run.Dir != "" {
		if err := os.MkdirAll(run.Dir, 0o750); err != nil {
			return err
		}
		if err := os.MkdirAll(w.a.logDir(run.Pod), 0o755); err != nil {
			return err
		}
	}
	return startSteps(ctx, w.a.Steps, run)
}

// prepareAgain takes the steps for a pod whose sandbox runs already.
func (w *worker) prepareAgain() {
	w.mu.Lock()
	pod, ctx := w.pod, w.up
	w.mu.Unlock()
	run := w.newRun(pod)
	err := w.prepare(ctx, run)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mem.building = false
	if err == nil {
		w.run = run
	} else if ctx.Err() == nil {
		w.tell(pod, err)
		w.a.sleepLocked(&w.mu, time.Second)
	}
}

// sleepLocked pauses with mu unlocked.
func (a *Agent) sleepLocked(mu interface {
	Lock()
	Unlock()
}, d time.Duration) {
	mu.Unlock()
	defer mu.Lock()
	a.sleep(a.ctx, d)
}

// retryStart is after how long a container that could not be created is tried again.
const retryStart = 10 * time.Second

// start brings one container up.
func (w *worker) start(st *starting, s *sandbox) {
	w.mu.Lock()
	pod, ctx, run := w.pod, w.up, w.run
	w.mu.Unlock()
	spec, _ := containerOf(pod, st.name)
	why := w.startContainer(ctx, pod, spec, st, s, run)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mem.starting = ""
	if why == nil || ctx.Err() != nil {
		delete(w.mem.waiting, st.name)
		return
	}
	w.mem.waiting[st.name] = why
}

// startContainer returns why the container does not run, or nil.
func (w *worker) startContainer(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, st *starting, s *sandbox, run *Run) *waiting {
	if !st.failed.IsZero() {
		w.with(func(m *memory) {
			if m.backoff[st.name] == nil {
				m.backoff[st.name] = &backoff{}
			}
			m.backoff[st.name].next(w.a.Clock.Now(), st.failed)
		})
	}
	image, why := w.image(ctx, pod, spec)
	if why != nil {
		return why
	}
	w.with(func(m *memory) { delete(m.waiting, st.name); delete(m.pulls, st.name) })
	later := w.a.Clock.Now().Add(retryStart)
	cfg, err := w.a.containerConfig(ctx, pod, spec, st.attempt, image, run, s)
	if err == nil {
		err = aim(cfg, ephemeral(pod, st.name), st.target)
	}
	if err != nil {
		w.a.event(pod, st.name, warning, "Failed", "Error: %s", err)
		return &waiting{reason: "CreateContainerConfigError", message: err.Error(), until: later}
	}
	now := *run // with the ephemeral containers that have come since
	now.Pod = pod
	box, err := w.a.sandboxConfig(&now, s.attempt)
	if err != nil {
		return &waiting{reason: "CreateContainerConfigError", message: err.Error(), until: later}
	}
	id, err := w.a.Runtime.CreateContainer(ctx, s.id, cfg, box)
	if err != nil {
		if ctx.Err() == nil {
			w.a.event(pod, st.name, warning, "Failed", "Error: %s", cri.Message(err))
		}
		return &waiting{reason: "CreateContainerError", message: cri.Message(err), until: later}
	}
	w.a.event(pod, st.name, normal, "Created", "Container created")
	if err := w.a.Runtime.StartContainer(ctx, id); err != nil {
		if ctx.Err() == nil {
			w.a.event(pod, st.name, warning, "Failed", "Error: %s", cri.Message(err))
		}
		// The container has ended now, and is started again by the rules for that.
		return &waiting{reason: "RunContainerError", message: cri.Message(err)}
	}
	w.a.event(pod, st.name, normal, "Started", "Container started")
	return w.postStart(ctx, pod, spec, id, s)
}

func (w *worker) postStart(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, id string, s *sandbox) *waiting {
	if spec.Lifecycle == nil || spec.Lifecycle.PostStart == nil {
		return nil
	}
	err := w.a.hook(ctx, pod, spec, spec.Lifecycle.PostStart, id, s.ips)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	w.a.event(pod, spec.Name, warning, "FailedPostStartHook", "PostStartHook failed: %s", err)
	w.a.event(pod, spec.Name, normal, "Killing", "FailedPostStartHook")
	if err := w.a.Runtime.StopContainer(ctx, id, grace(pod)); err != nil {
		w.a.Log.Warn("cannot stop a container whose postStart hook failed", "container", id, "err", err)
	}
	return &waiting{reason: "PostStartHookError", message: err.Error()}
}

// kill ends one container: the preStop hook first, then the signal, all within the grace.
func (w *worker) kill(k kill) {
	w.mu.Lock()
	pod := w.pod
	var ips []string
	if s := w.last.sandbox(); s != nil {
		ips = s.ips
	}
	w.mu.Unlock()
	ctx := w.a.ctx
	if !k.again {
		w.a.event(pod, k.c.name, normal, "Killing", "%s", k.message)
	}
	left := k.grace
	if spec, _ := containerOf(pod, k.c.name); spec != nil && spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil && left > 0 && !k.again && k.c.state == running {
		began := w.a.Clock.Now()
		hctx, cancel := withTimeout(ctx, w.a.Clock, left)
		if err := w.a.hook(hctx, pod, spec, spec.Lifecycle.PreStop, k.c.id, ips); err != nil && ctx.Err() == nil {
			w.a.event(pod, k.c.name, warning, "FailedPreStopHook", "PreStopHook failed: %s", err)
		}
		cancel()
		left = max(left-w.a.Clock.Now().Sub(began), 2*time.Second)
	}
	err := w.a.Runtime.StopContainer(ctx, k.c.id, left)
	if err != nil && ctx.Err() == nil {
		w.a.Log.Warn("cannot stop a container", "container", k.c.id, "err", err)
		w.a.event(pod, "", warning, "FailedKillPod", "error killing pod: failed to \"KillContainer\" for %q with KillContainerError: %q", k.c.name, cri.Message(err))
		w.a.sleep(ctx, time.Second)
	}
	w.with(func(m *memory) {
		delete(m.killing, k.c.id)
	})
}

func withTimeout(ctx context.Context, clock interface {
	AfterFunc(time.Duration, func()) func()
}, d time.Duration) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := clock.AfterFunc(d, func() { cancel(context.DeadlineExceeded) })
	return ctx, func() { stop(); cancel(nil) }
}

// takeDown stops the sandboxes and takes the steps back. Of a pod that is being
// deleted everything goes; one that only ended keeps its containers, for logs.
func (w *worker) takeDown(boxes []*sandbox) {
	err := w.takeDownOnce(boxes)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mem.stopping = false
	if err == nil {
		w.mem.stopped = true
		return
	}
	w.mem.stopTry = w.a.Clock.Now().Add(time.Second)
	if w.a.ctx.Err() == nil {
		w.a.Log.Warn("cannot take a pod down", "namespace", w.pod.Namespace, "pod", w.pod.Name, "err", err)
		w.a.event(w.pod, "", warning, "FailedKillPod", "error killing pod: %s", cri.Message(err))
	}
}

func (w *worker) takeDownOnce(boxes []*sandbox) error {
	ctx := w.a.ctx
	for _, s := range boxes {
		if err := w.a.Runtime.StopSandbox(ctx, s.id); err != nil {
			return fmt.Errorf("stop the sandbox: %w", err)
		}
	}
	w.mu.Lock()
	pod, run := w.pod, w.run
	w.mu.Unlock()
	if run == nil {
		run = w.newRun(pod)
	}
	if err := stopSteps(ctx, w.a.Steps, run); err != nil {
		return err
	}
	return nil
}

// remains removes what a deleted pod leaves behind.
func (w *worker) remains(ctx context.Context, boxes []*sandbox, pod *corev1.Pod) error {
	for _, s := range boxes {
		if err := w.a.Runtime.RemoveSandbox(ctx, s.id); err != nil {
			return fmt.Errorf("remove the sandbox: %w", err)
		}
	}
	return w.a.removeDirs(pod)
}

// stopOld takes down sandboxes that a newer one has replaced.
func (w *worker) stopOld(boxes []*sandbox) {
	for _, s := range boxes {
		if err := w.a.Runtime.StopSandbox(w.a.ctx, s.id); err != nil {
			w.a.Log.Warn("cannot stop an old sandbox", "sandbox", s.id, "err", err)
			w.a.sleep(w.a.ctx, time.Second)
		}
	}
	w.with(func(m *memory) { m.stopping = false })
}

// collect forgets containers and sandboxes that have ended.
func (w *worker) collect(containers, boxes []string) {
	for _, id := range containers {
		if err := w.a.Runtime.RemoveContainer(w.a.ctx, id); err != nil {
			w.a.Log.Warn("cannot remove a container", "container", id, "err", err)
		}
	}
	for _, id := range boxes {
		if err := w.a.Runtime.RemoveSandbox(w.a.ctx, id); err != nil {
			w.a.Log.Warn("cannot remove a sandbox", "sandbox", id, "err", err)
		}
	}
}
