// Package node runs the pods bound to one node.
//
// An [Agent] follows the pods whose spec.nodeName is its own and brings a
// container runtime to the state they describe: a pure function (decide)
// compares a pod with what the runtime says about it, and the rest carries out
// what it returns. Nothing is kept in files of its own: the runtime's labels, the
// pod's folder and the API say all there is to know, so an agent that was killed
// goes on where it was, without touching a container that runs.
package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/kubeletapi"
	"proa/internal/node/cri"
	"proa/internal/store"
)

// Version is what Node.status.nodeInfo.kubeletVersion says.
const Version = "v1.37.2+proa"

// Events takes what users are to read about their objects; *record.Recorder is one.
type Events interface {
	About(ref *corev1.ObjectReference, typ, reason, message string)
}

// Config is what an agent needs. Name, Handler, Runtime and RootDir are required.
type Config struct {
	Name    string      // of the Node object
	Handler api.Handler // asks in the name of the node's user
	Runtime cri.Runtime
	RootDir string // the pods' folders (pods/) and logs (logs/) are in it; may be empty on pretend nodes
	Bare    bool   // pods have no folders: nothing will read what is in them; logs have theirs when something is logged, and stay as they are
	Steps   []*Step

	Labels      map[string]string // beside those that every node has
	Taints      []corev1.Taint    // at registration
	Addresses   []corev1.NodeAddress
	Port        int32 // of the node's own HTTPS server
	Machine     Machine
	MaxPods     int64           // 110 if 0
	ClusterDNS  []string        // name servers of pods; none: the host's
	Domain      string          // cluster.local if empty
	ResolvConf  string          // the host's resolv.conf; /etc/resolv.conf if empty
	SeccompDir  string          // where localhost seccomp profiles are
	Sysctls     map[string]bool // unsafe sysctls that pods may set
	NoCPULimits bool

	// Measure, if set, says what the node has left; it is asked every 10 s. See [Gauge].
	Measure func(context.Context) Signals

	// Used, if set, says what the whole node has used. See [Consumption].
	Used func() (kubeletapi.Use, error)

	// NetworkReady, if set, says besides the runtime whether pods can have a network.
	NetworkReady func() (ready bool, message string)

	Clock  store.Clock // nil: the machine's
	Log    *slog.Logger
	Events Events

	// Go, if there is one, runs a piece of the agent's work, which what names, in a goroutine
	// of its own and when its turn has come: whoever simulates a cluster chooses the order.
	Go func(what string, work func())
}

// An Agent is the node agent. See [New] and [Agent.Run].
type Agent struct {
	Config
	prober *prober
	began  births

	mu      sync.Mutex
	ctx     context.Context
	pods    map[types.UID]*worker
	synced  bool // the API's pods are known
	images  map[string]*pull
	jobs    sync.WaitGroup
	node    *nodeState
	hostIPs []string
	resolv  resolver
}

// New returns an agent that does nothing until it is run.
func New(c Config) (*Agent, error) {
	switch {
	case c.Name == "":
		return nil, errors.New("node agent: no node name")
	case c.Handler == nil || c.Runtime == nil:
		return nil, errors.New("node agent: no API or no runtime")
	}
	if c.Clock == nil {
		c.Clock = store.SystemClock{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Domain = cmp.Or(c.Domain, "cluster.local")
	c.ResolvConf = cmp.Or(c.ResolvConf, "/etc/resolv.conf")
	c.MaxPods = cmp.Or(c.MaxPods, 110)
	a := &Agent{Config: c, pods: map[types.UID]*worker{}, images: map[string]*pull{}}
	a.prober = newProber(a)
	a.node = newNodeState(a)
	for _, ad := range c.Addresses {
		if ad.Type == corev1.NodeInternalIP {
			a.hostIPs = append(a.hostIPs, ad.Address)
		}
	}
	return a, nil
}

// Run registers the node and runs its pods until ctx ends. Containers run on
// when it returns. It fails only if it cannot begin.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.mu.Lock()
	a.ctx = ctx
	a.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { a.node.run(ctx) })
	wg.Go(func() { a.followRuntime(ctx) })
	wg.Go(func() { a.rotateLogs(ctx) })
	a.followPods(ctx)
	wg.Wait()
	a.mu.Lock()
	for _, w := range a.pods {
		w.sleep()
	}
	a.mu.Unlock()
	a.prober.close()
	a.jobs.Wait()
	return ctx.Err()
}

// followPods keeps the workers in step with the API.
func (a *Agent) followPods(ctx context.Context) {
	fail := func(err error) { a.Log.Warn("cannot follow pods", "err", err) }
	for c := range core.Pod.Follow(ctx, a.Handler, "", api.WithField("spec.nodeName", a.Name), fail) {
		switch {
		case c.Reset:
			seen := map[types.UID]bool{}
			for _, p := range c.All {
				seen[p.UID] = true
				a.worker(p).see(p)
			}
			a.mu.Lock()
			a.synced = true
			var gone []*worker
			for uid, w := range a.pods {
				if !seen[uid] {
					gone = append(gone, w)
				}
			}
			a.mu.Unlock()
			for _, w := range gone {
				w.vanish()
			}
			a.adopt(ctx)
		case c.Object == nil:
		case c.Type == "DELETED":
			a.mu.Lock()
			w := a.pods[c.Object.UID]
			a.mu.Unlock()
			if w != nil {
				w.see(c.Object)
				w.vanish()
			}
		default:
			a.worker(c.Object).see(c.Object)
		}
	}
}

// worker returns the worker of a pod, a new one if there is none.
func (a *Agent) worker(pod *corev1.Pod) *worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.pods[pod.UID]
	if w == nil {
		w = newWorker(a, pod)
		a.pods[pod.UID] = w
	}
	return w
}

func (a *Agent) find(uid types.UID) *worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pods[uid]
}

func (a *Agent) forget(w *worker) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pods[w.uid] == w {
		delete(a.pods, w.uid)
	}
}

// adopt takes up the sandboxes in the runtime whose pods the API does not have,
// to take them down, and the folders of such pods.
func (a *Agent) adopt(ctx context.Context) {
	list, err := a.Runtime.ListSandboxes(ctx, nil)
	if err != nil {
		a.Log.Warn("cannot list sandboxes", "err", err)
		return
	}
	for _, s := range list {
		uid := types.UID(s.Labels[cri.LabelPodUID])
		if uid == "" || a.find(uid) != nil {
			continue
		}
		a.Log.Info("a pod that the API does not have any more is taken down", "namespace", s.Labels[cri.LabelPodNamespace], "pod", s.Labels[cri.LabelPodName], "uid", uid)
		a.worker(orphan(s)).vanish()
	}
	a.sweep()
}

// orphan makes up what must be known about a pod to take it down.
func orphan(s *v1.PodSandbox) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: s.Labels[cri.LabelPodName], Namespace: s.Labels[cri.LabelPodNamespace], UID: types.UID(s.Labels[cri.LabelPodUID])}}
	g, err := strconv.ParseInt(s.Annotations[cri.AnnotationGrace], 10, 64)
	if err != nil {
		g = 30
	}
	p.Spec.TerminationGracePeriodSeconds = &g
	return p
}

// followRuntime wakes workers when their containers change, until ctx ends. A
// stream that breaks is opened again, and then every pod is looked at.
func (a *Agent) followRuntime(ctx context.Context) {
	pause := 10 * time.Millisecond
	for ctx.Err() == nil {
		err := a.Runtime.Events(ctx, func() {
			pause = 10 * time.Millisecond
			a.relist(ctx)
		}, func(e *v1.ContainerEventResponse) {
			if w := a.find(types.UID(e.GetPodSandboxStatus().GetLabels()[cri.LabelPodUID])); w != nil {
				w.wake()
			}
		})
		if cri.Unimplemented(err) {
			a.poll(ctx)
			return
		}
		if ctx.Err() == nil {
			a.Log.Warn("the runtime's events broke off", "err", err)
			a.node.wake()
		}
		a.sleep(ctx, pause)
		pause = min(2*pause, 2*time.Second)
	}
}

func (a *Agent) sleep(ctx context.Context, d time.Duration) {
	done := make(chan struct{})
	stop := a.Clock.AfterFunc(d, func() { close(done) })
	defer stop()
	select {
	case <-ctx.Done():
	case <-done:
	}
}

// relist looks at every pod, and at the runtime itself.
func (a *Agent) relist(ctx context.Context) {
	a.node.wake()
	a.mu.Lock()
	synced := a.synced
	all := make([]*worker, 0, len(a.pods))
	for _, w := range a.pods {
		all = append(all, w)
	}
	a.mu.Unlock()
	for _, w := range all {
		w.wake()
	}
	if synced {
		a.adopt(ctx)
	}
}

// poll stands in for events: every second it compares the list of containers
// with the last one and wakes the pods that differ.
func (a *Agent) poll(ctx context.Context) {
	a.Log.Info("the runtime tells no events: it is asked every second")
	before := map[string]string{}
	for ctx.Err() == nil {
		now := map[string]string{} // ID and state -> pod
		sb, err1 := a.Runtime.ListSandboxes(ctx, nil)
		cs, err2 := a.Runtime.ListContainers(ctx, nil)
		if err1 == nil && err2 == nil {
			for _, s := range sb {
				now[s.Id+s.State.String()] = s.Labels[cri.LabelPodUID]
			}
			for _, c := range cs {
				now[c.Id+c.State.String()] = c.Labels[cri.LabelPodUID]
			}
			a.wakeChanged(before, now)
			a.wakeChanged(now, before)
			before = now
		}
		a.sleep(ctx, time.Second)
	}
}

func (a *Agent) wakeChanged(x, y map[string]string) {
	for k, uid := range y {
		if _, ok := x[k]; !ok {
			if w := a.find(types.UID(uid)); w != nil {
				w.wake()
			}
		}
	}
}

// start runs a piece of work beside the caller.
func (a *Agent) start(what string, work func()) {
	if a.Go == nil {
		a.jobs.Go(work)
		return
	}
	a.jobs.Add(1)
	a.Go(what, func() {
		defer a.jobs.Done()
		work()
	})
}

// list are the pods that the agent knows.
func (a *Agent) list() []*corev1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []*corev1.Pod
	for _, w := range a.pods {
		if p := w.current(); p != nil {
			out = append(out, p)
		}
	}
	return out
}

// podDir is a pod's folder.
func (a *Agent) podDir(uid types.UID) string {
	if a.RootDir == "" || a.Bare {
		return ""
	}
	return filepath.Join(a.RootDir, "pods", string(uid))
}

// logDir is where a pod's logs are: logs/NAMESPACE_NAME_UID.
func (a *Agent) logDir(pod *corev1.Pod) string {
	if a.RootDir == "" {
		return ""
	}
	return filepath.Join(a.RootDir, "logs", fmt.Sprintf("%s_%s_%s", pod.Namespace, pod.Name, pod.UID))
}

// event tells users something about a pod or one of its containers.
func (a *Agent) event(pod *corev1.Pod, container, typ, reason, format string, args ...any) {
	if a.Events == nil {
		return
	}
	path := ""
	if container != "" {
		path = fieldPath(pod, container)
	}
	a.Events.About(podRef(pod, path), typ, reason, fmt.Sprintf(format, args...))
}

// Event types, short.
const (
	normal  = corev1.EventTypeNormal
	warning = corev1.EventTypeWarning
)

// NetworkChanged makes the agent ask Config.NetworkReady again at once.
func (a *Agent) NetworkChanged() { a.node.wake() }
