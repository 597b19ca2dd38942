package node

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/kinds/podspec"
)

// A plan is what to do about a pod now. All of its parts may be done at once.
type plan struct {
	status corev1.PodStatus

	build  *uint32      // create the sandbox, with this attempt number
	start  *starting    // start a container
	kill   []kill       // end containers
	remove []string     // forget ended containers, by ID
	drop   []string     // forget sandboxes that have ended, by ID
	stop   []*sandbox   // take down sandboxes, volumes and cgroup (may be empty: see down)
	down   bool         // take the pod down
	done   bool         // nothing of the pod runs or is held any more
	loop   []*container // ended containers that wait for their restart
	watch  []*container
	wake   time.Time // look again then; zero: when something happens
}

type starting struct {
	name    string
	attempt uint32
	failed  time.Time // when its predecessor ended; zero for the first
	target  string    // whose processes an ephemeral container is to see, by ID
}

type kill struct {
	c       *container
	grace   time.Duration
	message string // of the event
	again   bool   // it is being ended already, but not soon enough
}

// An input is all that a decision depends on.
type input struct {
	pod  *corev1.Pod
	view *view
	mem  *memory
	now  time.Time
}

// decide compares what a pod should be with what it is. It changes nothing.
func decide(in *input) *plan {
	p := &plan{}
	switch {
	case in.ending():
		in.takeDown(p)
	default:
		in.run(p)
	}
	in.collect(p)
	p.status = in.status(p)
	for _, c := range in.view.containers {
		if c.state == running && c.name != in.mem.starting && in.mem.killing[c.id].IsZero() {
			p.watch = append(p.watch, c)
		}
	}
	return p
}

// later makes the plan be looked at again at t.
func (p *plan) later(t time.Time) {
	if p.wake.IsZero() || t.Before(p.wake) {
		p.wake = t
	}
}

// ending says whether everything in the pod must stop.
func (in *input) ending() bool {
	return in.pod.DeletionTimestamp != nil || in.mem.ended != nil || in.over()
}

// over says whether the pod has reached a final phase by itself: nothing that
// ended will start again and nothing that the pod waits for runs.
func (in *input) over() bool {
	switch in.pod.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed:
		return true
	}
	if in.initFailed() {
		return true
	}
	if len(in.pod.Spec.Containers) == 0 {
		return false
	}
	for i := range in.pod.Spec.Containers {
		c := &in.pod.Spec.Containers[i]
		last, _ := in.view.newest(c.Name)
		if last == nil || last.state != exited || in.mem.starting == c.Name || restarts(in.pod, c, false, last.code) {
			return false
		}
	}
	return true
}

// initFailed says whether an init container has failed for good.
func (in *input) initFailed() bool {
	for i := range in.pod.Spec.InitContainers {
		c := &in.pod.Spec.InitContainers[i]
		last, _ := in.view.newest(c.Name)
		if !podspec.Sidecar(c) && last != nil && last.state == exited && last.code != 0 &&
			in.mem.starting != c.Name && !restarts(in.pod, c, true, last.code) {
			return true
		}
	}
	return false
}

// run brings the pod up and keeps it up.
func (in *input) run(p *plan) {
	s := in.view.sandbox()
	for _, old := range in.view.sandboxes {
		if old != s && old.ready {
			p.stop = append(p.stop, old)
		}
	}
	if s == nil || !s.ready {
		in.rebuild(p, s)
		return
	}
	if in.mem.building {
		return
	}
	in.killFailed(p)
	if in.mem.starting != "" {
		return
	}
	in.ephemerals(p, s)
	if in.initialize(p, s) {
		in.containers(p, s)
	}
}

// ephemerals starts the next ephemeral container that was never started.
func (in *input) ephemerals(p *plan, s *sandbox) {
	for i := range in.pod.Spec.EphemeralContainers {
		e := &in.pod.Spec.EphemeralContainers[i]
		last, _ := in.view.newest(e.Name)
		if last != nil && last.state != created || last == nil && in.known(e.Name) > 0 {
			continue
		}
		if !in.begin(p, asContainer(e), last) {
			continue
		}
		if t := in.view.in(s, e.TargetContainerName); t != nil && t.state == running && p.start.name == e.Name {
			p.start.target = t.id
		}
	}
}

// rebuild makes a sandbox if there is none, or none that works.
func (in *input) rebuild(p *plan, s *sandbox) {
	if in.mem.building || in.mem.starting != "" {
		return
	}
	for _, c := range in.view.alive() {
		if in.mem.killing[c.id].IsZero() {
			p.kill = append(p.kill, kill{c: c, grace: grace(in.pod), message: fmt.Sprintf("Stopping container %s", c.name)})
		}
	}
	if len(in.view.alive()) > 0 {
		return
	}
	if in.now.Before(in.mem.retry) {
		p.later(in.mem.retry)
		return
	}
	attempt := uint32(0)
	if s != nil {
		attempt = s.attempt + 1
	}
	p.build = &attempt
}

// grace is how long the pod's containers get to end.
func grace(pod *corev1.Pod) time.Duration {
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return time.Duration(*g) * time.Second
	}
	return 30 * time.Second
}

// killFailed ends containers that their probes, or a new image, condemn.
func (in *input) killFailed(p *plan) {
	for _, c := range in.view.alive() {
		spec, _ := containerOf(in.pod, c.name)
		if spec == nil || !in.mem.killing[c.id].IsZero() || c.state != running || c.name == in.mem.starting {
			continue
		}
		probe := in.mem.probes[c.id]
		switch {
		case c.hash != "" && c.hash != hash(spec):
			p.kill = append(p.kill, kill{c: c, grace: grace(in.pod), message: fmt.Sprintf("Container %s definition changed, will be restarted", c.name)})
		case probe != nil && probe.failed != "":
			g := grace(in.pod)
			pr := spec.LivenessProbe
			if probe.failed == "startup" {
				pr = spec.StartupProbe
			}
			if pr != nil && pr.TerminationGracePeriodSeconds != nil {
				g = time.Duration(*pr.TerminationGracePeriodSeconds) * time.Second
			}
			p.kill = append(p.kill, kill{c: c, grace: g, message: fmt.Sprintf("Container %s failed %s probe, will be restarted", c.name, probe.failed)})
		}
	}
}

// initialize starts the next init container, and says whether the others may start.
func (in *input) initialize(p *plan, s *sandbox) bool {
	begun := in.begun(s)
	for i := range in.pod.Spec.InitContainers {
		c := &in.pod.Spec.InitContainers[i]
		have := in.view.in(s, c.Name)
		if begun && !podspec.Sidecar(c) {
			continue
		}
		later := begun || in.anyAfter(s, i)
		switch {
		case have == nil && later && !podspec.Sidecar(c):
			// The runtime has forgotten it; that later ones ran shows that it succeeded.
		case have == nil || have.state == created || have.state == unknown:
			if in.begin(p, c, have) || !later {
				return false
			}
		case have.state == running:
			if podspec.Sidecar(c) && (in.started(c, have) || later) {
				continue
			}
			return false
		case !podspec.Sidecar(c) && have.code == 0:
		default: // ended, and to be started again; if not, the pod is over
			if in.begin(p, c, have) || !(podspec.Sidecar(c) && later) {
				return false
			}
		}
	}
	return true
}

// begun says whether an ordinary container was ever created in the sandbox.
func (in *input) begun(s *sandbox) bool {
	for i := range in.pod.Spec.Containers {
		if in.view.in(s, in.pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}

func (in *input) anyAfter(s *sandbox, i int) bool {
	for _, c := range in.pod.Spec.InitContainers[i+1:] {
		if in.view.in(s, c.Name) != nil {
			return true
		}
	}
	return false
}

// started says whether a running container counts as started.
func (in *input) started(spec *corev1.Container, c *container) bool {
	if c.state != running || c.name == in.mem.starting {
		return false
	}
	if spec.StartupProbe == nil {
		return true
	}
	pr := in.mem.probes[c.id]
	return pr != nil && pr.started
}

// containers starts the next ordinary container that should run and does not.
func (in *input) containers(p *plan, s *sandbox) {
	for i := range in.pod.Spec.Containers {
		c := &in.pod.Spec.Containers[i]
		have := in.view.in(s, c.Name)
		if have == nil {
			// A container that ended for good in an earlier sandbox is not started again.
			if old, _ := in.view.newest(c.Name); old != nil && old.state == exited && !restarts(in.pod, c, false, old.code) {
				continue
			}
		}
		if have == nil || have.state == created || have.state == unknown ||
			(have.state == exited && restarts(in.pod, c, false, have.code)) {
			if in.begin(p, c, have) {
				return
			}
		}
	}
}

// begin plans the start of a container unless it has to wait, and says whether it did.
func (in *input) begin(p *plan, c *corev1.Container, have *container) bool {
	if w := in.mem.waiting[c.Name]; w != nil && in.now.Before(w.until) {
		p.later(w.until)
		return false
	}
	st := &starting{name: c.Name}
	if last, _ := in.view.newest(c.Name); last != nil {
		st.attempt = last.attempt + 1
	} else if n := in.known(c.Name); n > 0 {
		st.attempt = n // it ran before the runtime lost it
	}
	if have != nil && have.state == exited {
		if !in.mem.killing[have.id].IsZero() {
			return false // its killer still tidies up
		}
		if until := in.mem.backoff[c.Name].until(have.finished); in.now.Before(until) {
			p.loop = append(p.loop, have)
			p.later(until)
			return false
		}
		st.failed = have.finished
	}
	if p.start == nil {
		p.start = st
	}
	return true
}

// takeDown ends everything in the pod: first the ordinary containers, then the
// sidecars from the last to the first, then the rest.
func (in *input) takeDown(p *plan) {
	alive := in.view.alive()
	if g, ok := in.deadline(); ok {
		in.killAll(p, alive, g)
	}
	if len(alive) > 0 || in.mem.building || in.mem.starting != "" || len(in.mem.killing) > 0 {
		return
	}
	if in.mem.stopped {
		p.done = true
		return
	}
	if in.mem.stopping {
		return
	}
	if in.now.Before(in.mem.stopTry) {
		p.later(in.mem.stopTry)
		return
	}
	p.down = true
	p.stop = append(p.stop, in.view.sandboxes...)
}

// deadline returns how long containers have left when the pod goes down now.
func (in *input) deadline() (time.Duration, bool) {
	pod := in.pod
	if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil {
		return grace(pod), true
	}
	left := in.mem.deleting.Add(time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second).Sub(in.now)
	return max(left, 0), true
}

func (in *input) killAll(p *plan, alive []*container, g time.Duration) {
	mainAlive, lastSidecar := false, -1
	for _, c := range alive {
		spec, init := containerOf(in.pod, c.name)
		if spec == nil || !init || !podspec.Sidecar(spec) {
			mainAlive = true
			continue
		}
		lastSidecar = max(lastSidecar, slices.IndexFunc(in.pod.Spec.InitContainers, func(x corev1.Container) bool { return x.Name == c.name }))
	}
	for _, c := range alive {
		spec, init := containerOf(in.pod, c.name)
		if init && podspec.Sidecar(spec) && (mainAlive || in.pod.Spec.InitContainers[lastSidecar].Name != c.name) && g > 0 {
			continue
		}
		dead := in.mem.killing[c.id]
		if !dead.IsZero() && !in.now.Add(g).Before(dead.Add(-time.Second)) {
			continue // on its way, and no sooner than it would be now
		}
		p.kill = append(p.kill, kill{c: c, grace: g, message: fmt.Sprintf("Stopping container %s", c.name), again: !dead.IsZero()})
	}
	if lastSidecar >= 0 && g > 0 {
		p.later(in.now.Add(g))
	}
}

// collect finds ended containers and sandboxes that nobody needs: of each name
// the last is kept for its state and log, and the one before it.
func (in *input) collect(p *plan) {
	if p.down || in.mem.stopped || in.mem.stopping {
		return
	}
	count := map[string]int{}
	used := map[string]bool{}
	for _, c := range in.view.containers {
		count[c.name]++
		if count[c.name] > 2 && c.state != running {
			p.remove = append(p.remove, c.id)
			continue
		}
		used[c.sandbox] = true
	}
	for i, s := range in.view.sandboxes {
		if i > 0 && !s.ready && !used[s.id] {
			p.drop = append(p.drop, s.id)
		}
	}
}

// known is the attempt that follows the last one that the API knows of.
func (in *input) known(name string) uint32 {
	for _, list := range [][]corev1.ContainerStatus{in.pod.Status.InitContainerStatuses, in.pod.Status.ContainerStatuses, in.pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			switch {
			case list[i].Name != name:
			case list[i].ContainerID != "":
				return uint32(list[i].RestartCount) + 1
			default: // none has been made yet for the attempt that is told
				return uint32(list[i].RestartCount)
			}
		}
	}
	return 0
}

// expire says whether the pod has been active for too long, and when it will be.
func (in *input) expire() (*ending, time.Time) {
	s, d := in.pod.Status.StartTime, in.pod.Spec.ActiveDeadlineSeconds
	if s == nil || d == nil {
		return nil, time.Time{}
	}
	at := s.Add(time.Duration(*d) * time.Second)
	if in.now.Before(at) {
		return nil, at
	}
	return &ending{reason: "DeadlineExceeded", message: "Pod was active on the node longer than the specified deadline"}, time.Time{}
}
