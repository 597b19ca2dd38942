package node

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/node/cri"
	"proa/internal/node/probe"
)

// prober runs the probes of all containers on the node. A probe has a timer
// between its checks and a goroutine only during one.
type prober struct {
	a      *Agent
	mu     sync.Mutex
	probes map[probeKey]*checker
	byPod  map[*worker]map[probeKey]bool
	closed bool
}

type probeKey struct{ id, kind string }

// A checker is one probe of one container.
type checker struct {
	p    *prober
	w    *worker
	key  probeKey
	pod  *corev1.Pod
	spec *corev1.Container
	conf *corev1.Probe
	ips  []string

	stop  func()
	off   bool
	good  int32 // successes in a row
	bad   int32
	state bool // the result that counts
}

func newProber(a *Agent) *prober {
	return &prober{a: a, probes: map[probeKey]*checker{}, byPod: map[*worker]map[probeKey]bool{}}
}

// resume takes over what an earlier run of the agent found out about a container
// and said in the pod's status: it does not become unready because the agent is
// started again.
func resume(m *memory, pod *corev1.Pod, v *view) {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, st := range list {
			c, _ := v.newest(st.Name)
			if c != nil && c.state == running && strings.HasSuffix(st.ContainerID, "://"+c.id) && m.probes[c.id] == nil &&
				st.State.Running != nil && st.Started != nil && *st.Started {
				m.probes[c.id] = &probed{started: true, ready: st.Ready}
			}
		}
	}
}

// watch makes the probes of a pod's running containers run, and no others. The
// worker is locked.
func (p *prober) watch(w *worker, pod *corev1.Pod, v *view, cs []*container) {
	want := map[probeKey]bool{}
	for _, c := range cs {
		spec, _ := containerOf(pod, c.name)
		if spec == nil || spec.StartupProbe == nil && spec.LivenessProbe == nil && spec.ReadinessProbe == nil {
			continue
		}
		st := w.mem.probes[c.id]
		if st == nil {
			st = &probed{started: spec.StartupProbe == nil}
			w.mem.probes[c.id] = st
		}
		if st.failed != "" {
			continue
		}
		var ips []string
		if s := v.sandbox(); s != nil {
			ips = s.ips
		}
		run := func(kind string, conf *corev1.Probe) {
			if conf == nil || kind == "liveness" && pod.DeletionTimestamp != nil {
				return
			}
			k := probeKey{c.id, kind}
			want[k] = true
			p.ensure(w, k, pod, spec, conf, ips, c.started)
		}
		if !st.started {
			run("startup", spec.StartupProbe)
			continue
		}
		run("liveness", spec.LivenessProbe)
		run("readiness", spec.ReadinessProbe)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.byPod[w] {
		if !want[k] {
			p.drop(k)
		}
	}
}

func (p *prober) ensure(w *worker, k probeKey, pod *corev1.Pod, spec *corev1.Container, conf *corev1.Probe, ips []string, started time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.probes[k] != nil {
		return
	}
	c := &checker{p: p, w: w, key: k, pod: pod, spec: spec, conf: conf, ips: ips,
		state: k.kind == "liveness" || k.kind == "readiness" && w.mem.probes[k.id].ready}
	p.probes[k] = c
	if p.byPod[w] == nil {
		p.byPod[w] = map[probeKey]bool{}
	}
	p.byPod[w][k] = true
	first := started.Add(time.Duration(conf.InitialDelaySeconds) * time.Second).Sub(p.a.Clock.Now())
	c.arm(max(first, 0))
}

// arm sets the time of the next check. The prober is locked.
func (c *checker) arm(d time.Duration) {
	c.stop = c.p.a.Clock.AfterFunc(d, func() {
		c.p.mu.Lock()
		defer c.p.mu.Unlock()
		if !c.off && !c.p.closed && c.p.a.ctx.Err() == nil {
			c.p.a.start(c.key.id+" "+c.key.kind, c.check)
		}
	})
}

func (p *prober) drop(k probeKey) {
	c := p.probes[k]
	if c == nil {
		return
	}
	c.off = true
	if c.stop != nil {
		c.stop()
	}
	delete(p.probes, k)
	delete(p.byPod[c.w], k)
	if len(p.byPod[c.w]) == 0 {
		delete(p.byPod, c.w)
	}
}

func (p *prober) forget(w *worker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.byPod[w] {
		p.drop(k)
	}
}

func (p *prober) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for k := range p.probes {
		p.drop(k)
	}
}

// check runs the probe once, counts, and tells the worker what changed.
func (c *checker) check() {
	timeout := time.Duration(max(c.conf.TimeoutSeconds, 1)) * time.Second
	ctx, cancel := context.WithTimeout(c.p.a.ctx, timeout)
	text, ok, err := c.once(ctx, timeout)
	cancel()
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if c.off {
		return
	}
	defer func() {
		if !c.off {
			c.arm(time.Duration(max(c.conf.PeriodSeconds, 1)) * time.Second)
		}
	}()
	name := map[string]string{"liveness": "Liveness", "readiness": "Readiness", "startup": "Startup"}[c.key.kind]
	if err != nil {
		// The check itself did not come about: it counts for nothing.
		c.p.a.event(c.pod, c.spec.Name, warning, "Unhealthy", "%s probe errored and resulted in unknown state: %s", name, err)
		return
	}
	if ok {
		c.good, c.bad = c.good+1, 0
	} else {
		c.good, c.bad = 0, c.bad+1
		c.p.a.event(c.pod, c.spec.Name, warning, "Unhealthy", "%s probe failed: %s", name, text)
	}
	if ok && c.good < max(c.conf.SuccessThreshold, 1) || !ok && c.bad < max(c.conf.FailureThreshold, 1) {
		return
	}
	c.result(ok, text)
}

// result takes over what counts. The prober is locked; the worker is told by a
// goroutine of its own because it is locked before the prober elsewhere.
func (c *checker) result(ok bool, text string) {
	kind := c.key.kind
	if kind != "startup" && c.state == ok && (ok || kind == "readiness") {
		return
	}
	c.state = ok
	if !ok && kind != "readiness" || kind == "startup" {
		c.p.drop(c.key)
	}
	w, id := c.w, c.key.id
	w.beside(kind, func() {
		w.with(func(m *memory) {
			st := m.probes[id]
			switch {
			case st == nil:
			case kind == "readiness":
				st.ready = ok
			case kind == "startup" && ok:
				st.started = true
			case !ok:
				st.failed, st.failText = kind, text
			}
		})
		w.wake()
	})
}

// once runs the check. An error means that it could not be made.
func (c *checker) once(ctx context.Context, timeout time.Duration) (text string, ok bool, err error) {
	h := &c.conf.ProbeHandler
	if h.Exec != nil {
		out, errOut, code, err := c.p.a.Runtime.ExecSync(ctx, c.key.id, h.Exec.Command, timeout)
		switch {
		case timedOut(err):
			return fmt.Sprintf("command timed out: %q timed out after %v", join(h.Exec.Command), timeout), false, nil
		case err != nil:
			return "", false, fmt.Errorf("%s", cri.Message(err))
		}
		return string(out) + string(errOut), code == 0, nil
	}
	if pr, is := c.p.a.Runtime.(cri.Prober); is {
		kind := "httpGet"
		if h.TCPSocket != nil {
			kind = "tcpSocket"
		} else if h.GRPC != nil {
			kind = "grpc"
		}
		if err := pr.Probe(ctx, c.key.id, kind); err != nil {
			return err.Error(), false, nil
		}
		return "", true, nil
	}
	t, err := c.target(c.p.a.podIP(c.pod, c.ips))
	if err != nil {
		return "", false, err
	}
	if text, err = t.Check(ctx); err != nil {
		return err.Error(), false, nil
	}
	return text, true, nil
}

func (c *checker) target(ip string) (probe.Target, error) {
	switch h := &c.conf.ProbeHandler; {
	case h.HTTPGet != nil:
		return probe.HTTP(h.HTTPGet, ip, c.spec)
	case h.TCPSocket != nil:
		return probe.TCP(h.TCPSocket, ip, c.spec)
	case h.GRPC != nil:
		return probe.GRPC(h.GRPC, ip), nil
	}
	return nil, fmt.Errorf("missing probe handler for %s:%s", fullName(c.pod), c.spec.Name)
}
