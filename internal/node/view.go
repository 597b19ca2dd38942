package node

import (
	"cmp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// A view is what the runtime says about one pod at one moment.
type view struct {
	runtime    string       // its name, for container IDs
	sandboxes  []*sandbox   // newest first
	containers []*container // newest first
}

type sandbox struct {
	id      string
	attempt uint32
	ready   bool
	ips     []string
	created time.Time
}

type runState int

const (
	created runState = iota
	running
	exited
	unknown
)

type container struct {
	id, name, sandbox          string
	attempt                    uint32
	state                      runState
	created, started, finished time.Time
	code                       int32
	reason, message            string
	image, imageRef, hash      string
	logPath                    string
}

// sandbox returns the newest sandbox, or nil.
func (v *view) sandbox() *sandbox {
	if len(v.sandboxes) == 0 {
		return nil
	}
	return v.sandboxes[0]
}

// newest returns the newest containers of a name, the latest first.
func (v *view) newest(name string) (last, before *container) {
	for _, c := range v.containers {
		switch {
		case c.name != name:
		case last == nil:
			last = c
		default:
			return last, c
		}
	}
	return last, nil
}

// in returns the newest container of a name if it is in a sandbox.
func (v *view) in(s *sandbox, name string) *container {
	c, _ := v.newest(name)
	if s == nil || c == nil || c.sandbox != s.id {
		return nil
	}
	return c
}

// alive returns the containers that have not ended.
func (v *view) alive() (out []*container) {
	for _, c := range v.containers {
		if c.state == running || c.state == unknown {
			out = append(out, c)
		}
	}
	return out
}

func (v *view) sort() {
	slices.SortStableFunc(v.sandboxes, func(a, b *sandbox) int {
		return cmp.Or(cmp.Compare(b.attempt, a.attempt), b.created.Compare(a.created))
	})
	slices.SortStableFunc(v.containers, func(a, b *container) int {
		return cmp.Or(cmp.Compare(b.attempt, a.attempt), b.created.Compare(a.created))
	})
}

// A memory is what the agent remembers about a pod between two looks at it.
// Losing it in a restart costs waiting times and probe counts, nothing else.
type memory struct {
	began    time.Time            // when the pod was first seen
	waiting  map[string]*waiting  // by container name: why it is not started
	backoff  map[string]*backoff  // by container name: pauses between restarts
	pulls    map[string]*backoff  // by container name: pauses between pulls
	probes   map[string]*probed   // by container ID
	killing  map[string]time.Time // by container ID: when it will be dead
	starting string               // container whose start is under way
	building bool                 // the sandbox is under way
	stopping bool                 // the sandboxes are being taken down
	stopped  bool                 // they are, and volumes and cgroup with them
	retry    time.Time            // when to try the sandbox again
	tries    int                  // failed attempts at the sandbox in a row
	stopTry  time.Time            // when to try taking down again
	deleting time.Time            // when the deletion was first seen
	ended    *ending              // why the pod must end although nobody deleted it
	hostIPs  []string
	burying  bool            // what is left is being removed
	told     map[string]bool // by container ID: users know that it waits
}

// jobs is how many of the things that take long are under way. Only the worker's
// loop begins one.
func (m *memory) jobs() (n int) {
	n = len(m.killing)
	for _, yes := range []bool{m.building, m.starting != "", m.stopping} {
		if yes {
			n++
		}
	}
	return n
}

// waiting says why a container is not started.
type waiting struct {
	reason, message string
	until           time.Time // do not try again before
	onImage         bool      // it waits for its image
}

// A backoff is a growing pause: none before the first restart, then 10 s,
// doubling up to 5 min, and from the start again after 10 min of peace.
type backoff struct {
	pause  time.Duration
	last   time.Time
	failed string // of the last try, for pulls
}

const (
	firstPause = 10 * time.Second
	maxPause   = 5 * time.Minute
)

// until returns when something that failed at t may be tried again.
func (b *backoff) until(t time.Time) time.Time {
	if b == nil || t.Sub(b.last) > 2*maxPause {
		return time.Time{}
	}
	return t.Add(b.pause)
}

// next notes one more try at time now after a failure at t.
func (b *backoff) next(now, t time.Time) {
	if b.pause == 0 || t.Sub(b.last) > 2*maxPause {
		b.pause = firstPause
	} else {
		b.pause = min(2*b.pause, maxPause)
	}
	b.last = now
}

// probed is what the probes of one container say.
type probed struct {
	started  bool   // the startup probe has succeeded
	ready    bool   // the readiness probe succeeds
	failed   string // "liveness" or "startup": it must be restarted
	failText string
}

// ending is the end of a pod by the node's decision.
type ending struct {
	reason, message string
	refused         bool // before it began
}

func newMemory() *memory {
	return &memory{
		waiting: map[string]*waiting{},
		backoff: map[string]*backoff{},
		pulls:   map[string]*backoff{},
		probes:  map[string]*probed{},
		killing: map[string]time.Time{},
		told:    map[string]bool{},
	}
}

// restarts says whether a container that ended with a code is started again, by
// its own rules (KEP-5307), its own policy, or the pod's.
func restarts(pod *corev1.Pod, c *corev1.Container, init bool, code int32) bool {
	for _, r := range c.RestartPolicyRules {
		if r.ExitCodes == nil || r.Action != corev1.ContainerRestartRuleActionRestart {
			continue
		}
		if slices.Contains(r.ExitCodes.Values, code) == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
			return true
		}
	}
	policy := string(pod.Spec.RestartPolicy)
	if c.RestartPolicy != nil {
		policy = string(*c.RestartPolicy)
	} else if init && policy == string(corev1.RestartPolicyAlways) {
		policy = string(corev1.RestartPolicyOnFailure)
	}
	switch policy {
	case "Never":
		return false
	case "OnFailure":
		return code != 0
	}
	return true
}

func containerOf(pod *corev1.Pod, name string) (c *corev1.Container, init bool) {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return &pod.Spec.InitContainers[i], true
		}
	}
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == name {
			return &pod.Spec.Containers[i], false
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return asContainer(&pod.Spec.EphemeralContainers[i]), false
		}
	}
	return nil, false
}

// asContainer is an ephemeral container as one that is never started again (KEP-277).
func asContainer(e *corev1.EphemeralContainer) *corev1.Container {
	c := corev1.Container(e.EphemeralContainerCommon)
	c.RestartPolicy = new(corev1.ContainerRestartPolicyNever)
	return &c
}

func ephemeral(pod *corev1.Pod, name string) *corev1.EphemeralContainer {
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return &pod.Spec.EphemeralContainers[i]
		}
	}
	return nil
}

// fullName is how messages name a pod.
func fullName(pod *corev1.Pod) string {
	return strings.Join([]string{pod.Name, "_", pod.Namespace, "(", string(pod.UID), ")"}, "")
}
