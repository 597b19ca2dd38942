package node

import (
	"cmp"
	"context"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/api"
	"proa/internal/kinds/coordination"
	"proa/internal/kinds/core"
	"proa/internal/node/cri"
)

// Times of the node's own upkeep.
const (
	leaseEvery  = 10 * time.Second // renewals
	leaseFor    = 40               // seconds that one renewal is good for
	statusEvery = 5 * time.Minute  // a status without news
	lookEvery   = 30 * time.Second // at the runtime, if it has nothing to tell
	lookUnready = 10 * time.Second // at the runtime, at the most, while the node is not ready
	mostImages  = 50               // in the status
	settling    = 20 * time.Second // a new run of the agent may need for the network
)

// nodeState keeps the node's own objects: the Node, its status, its Lease.
type nodeState struct {
	a     *Agent
	bell  chan struct{}
	mu    sync.Mutex
	node  *corev1.Node // as last read or written
	ready bool         // the runtime's network
	why   string       // it is not
	name  string       // the runtime's
	full  string       // with its version
	stale bool         // the list of images
	wrote time.Time
	began time.Time
	was   bool // the network was ready since
	cidr  string
	lease *coordinationv1.Lease

	met     map[corev1.NodeConditionType]time.Time // when a threshold was last found met
	pressed map[corev1.NodeConditionType]bool      // what is said
}

func newNodeState(a *Agent) *nodeState {
	return &nodeState{began: a.Clock.Now(), a: a, bell: make(chan struct{}, 1), stale: true, name: "containerd",
		met: map[corev1.NodeConditionType]time.Time{}, pressed: map[corev1.NodeConditionType]bool{}}
}

// wake makes the node look at itself.
func (n *nodeState) wake() {
	select {
	case n.bell <- struct{}{}:
	default:
	}
}

func (n *nodeState) imagesChanged() {
	n.mu.Lock()
	n.stale = true
	n.mu.Unlock()
}

func (n *nodeState) runtimeName() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.name
}

func (n *nodeState) current() *corev1.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.node
}

func (n *nodeState) networkMessage() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.why
}

// waitNetwork says whether pods can have a network, after a fresh look if they could not.
func (n *nodeState) waitNetwork(ctx context.Context) bool {
	n.mu.Lock()
	ready := n.ready
	n.mu.Unlock()
	if !ready {
		n.look(ctx)
		n.mu.Lock()
		ready = n.ready
		n.mu.Unlock()
	}
	return ready
}

// run keeps the objects until ctx ends.
func (n *nodeState) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	n.measure(ctx)
	wg.Go(func() { n.follow(ctx) })
	wg.Go(func() { n.renewals(ctx) })
	pause := time.Duration(0)
	var unready time.Time // since when; zero if it is ready
	for ctx.Err() == nil {
		if err := n.update(ctx); err != nil && ctx.Err() == nil {
			n.a.Log.Warn("cannot write the node's status", "node", n.a.Name, "err", err)
			pause = min(max(2*pause, 50*time.Millisecond), 5*time.Second)
		} else {
			pause = lookEvery
			if c := n.current(); c != nil && core.NodeReady(c) && n.waited() {
				unready = time.Time{}
			} else {
				if unready.IsZero() {
					unready = n.a.Clock.Now()
				}
				// The longer it has been so, the less often: what tells that it is over rings the bell, too.
				pause = min(max(n.a.Clock.Now().Sub(unready)/4, time.Second), lookUnready)
			}
		}
		rung := make(chan struct{})
		stop := n.a.Clock.AfterFunc(pause, func() { close(rung) })
		select {
		case <-ctx.Done():
		case <-n.bell:
		case <-rung:
		}
		stop()
	}
}

// waited says whether the network has been ready in this run.
func (n *nodeState) waited() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.was
}

// follow watches the node's own object, for its subnet and its deletion.
func (n *nodeState) follow(ctx context.Context) {
	fail := func(err error) { n.a.Log.Warn("cannot follow the node", "err", err) }
	for c := range core.Node.Follow(ctx, n.a.Handler, "", api.WithField("metadata.name", n.a.Name), fail) {
		var got *corev1.Node
		switch {
		case c.Reset && len(c.All) == 1:
			got = c.All[0]
		case c.Reset, c.Object != nil && c.Type == "DELETED":
			n.mu.Lock()
			n.node = nil
			n.mu.Unlock()
			n.wake()
			continue
		default:
			got = c.Object
		}
		if got == nil {
			continue
		}
		n.mu.Lock()
		n.node = got
		n.mu.Unlock()
		n.subnet(ctx, got)
		if c := core.NodeCondition(got, corev1.NodeReady); c != nil && c.Status == corev1.ConditionUnknown {
			n.wake() // it was given up, and is here
		}
	}
}

// subnet hands the pod subnet to the runtime when it is known.
func (n *nodeState) subnet(ctx context.Context, got *corev1.Node) {
	n.mu.Lock()
	cidr := cmp.Or(strings.Join(got.Spec.PodCIDRs, ","), got.Spec.PodCIDR)
	news := cidr != "" && cidr != n.cidr
	n.mu.Unlock()
	if !news {
		return
	}
	if err := n.a.Runtime.SetPodCIDR(ctx, cidr); err != nil {
		n.a.Log.Warn("the runtime does not take the pod subnet", "cidr", cidr, "err", err)
		return
	}
	n.mu.Lock()
	n.cidr = cidr
	n.mu.Unlock()
	n.wake()
}

// look asks the runtime how it is, and wakes the pods when their network has come.
func (n *nodeState) look(ctx context.Context) (runtimeErr string) {
	st, err := n.a.Runtime.Status(ctx)
	ready, why := false, ""
	if err != nil {
		runtimeErr, why = cri.Message(err), cri.Message(err)
	} else {
		for _, c := range st.GetStatus().GetConditions() {
			text := "container runtime network not ready: " + c.Type + "=false reason:" + c.Reason + " message:" + c.Message
			switch {
			case c.Type == v1.RuntimeReady && !c.Status:
				runtimeErr = cmp.Or(c.Message, c.Reason, "container runtime not ready")
			case c.Type == v1.NetworkReady:
				if ready = c.Status; !ready {
					why = text
				}
			}
		}
	}
	if ready && n.a.NetworkReady != nil {
		ready, why = n.a.NetworkReady()
	}
	n.mu.Lock()
	came := ready && !n.ready
	n.ready, n.why, n.was = ready, why, n.was || ready
	n.mu.Unlock()
	if came {
		n.a.mu.Lock()
		all := make([]*worker, 0, len(n.a.pods))
		for _, w := range n.a.pods {
			all = append(all, w)
		}
		n.a.mu.Unlock()
		for _, w := range all {
			w.with(func(m *memory) { m.retry = time.Time{} })
			w.wake()
		}
	}
	return runtimeErr
}

// update registers the node if it is not there and writes its status if that has
// news, or is old.
func (n *nodeState) update(ctx context.Context) error {
	n.version(ctx)
	problem := n.look(ctx)
	have := n.current()
	if have == nil {
		var err error
		if have, err = n.register(ctx); err != nil {
			return err
		}
		n.mu.Lock()
		n.node = have
		n.mu.Unlock()
		n.subnet(ctx, have)
		problem = n.look(ctx)
	}
	now := n.a.Clock.Now()
	next := api.Clone(have)
	n.status(ctx, next, problem, now)
	n.mu.Lock()
	old := now.Sub(n.wrote) >= statusEvery
	n.mu.Unlock()
	if !old && sameStatus(&have.Status, &next.Status) {
		return nil
	}
	got, err := core.Node.UpdateStatus(ctx, n.a.Handler, next)
	switch {
	case apierrors.IsConflict(err):
		if got, err = core.Node.Get(ctx, n.a.Handler, "", n.a.Name); err == nil {
			n.wake()
		}
	case err == nil:
		n.mu.Lock()
		n.wrote = now
		n.mu.Unlock()
	case apierrors.IsNotFound(err):
		got, err = nil, nil
		n.wake()
	}
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.node = got
	n.mu.Unlock()
	return nil
}

// sameStatus compares without heartbeats.
func sameStatus(a, b *corev1.NodeStatus) bool {
	x, y := *a, *b
	for _, s := range []*corev1.NodeStatus{&x, &y} {
		s.Conditions = slices.Clone(s.Conditions)
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return equality.Semantic.DeepEqual(&x, &y)
}

func (n *nodeState) version(ctx context.Context) {
	if v, err := n.a.Runtime.Version(ctx); err == nil {
		n.mu.Lock()
		n.name, n.full = v.RuntimeName, v.RuntimeName+"://"+v.RuntimeVersion
		n.mu.Unlock()
	}
}

// register creates the Node, or brings the labels of one that is there up to date.
func (n *nodeState) register(ctx context.Context) (*corev1.Node, error) {
	labels := map[string]string{corev1.LabelHostname: n.a.Name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": runtime.GOARCH}
	maps.Copy(labels, n.a.Labels)
	have, err := core.Node.Get(ctx, n.a.Handler, "", n.a.Name)
	if err == nil {
		same := true
		for k, v := range labels {
			same = same && have.Labels[k] == v
		}
		if same {
			return have, nil
		}
		next := api.Clone(have)
		if next.Labels == nil {
			next.Labels = map[string]string{}
		}
		maps.Copy(next.Labels, labels)
		return core.Node.Update(ctx, n.a.Handler, next)
	}
	if !apierrors.IsNotFound(err) {
		return nil, err
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.a.Name, Labels: labels}, Spec: corev1.NodeSpec{Taints: n.a.Taints}}
	n.status(ctx, node, "the node has just been registered", n.a.Clock.Now())
	return core.Node.Create(ctx, n.a.Handler, node)
}

// status fills in what the node knows about itself.
func (n *nodeState) status(ctx context.Context, node *corev1.Node, problem string, now time.Time) {
	a, st := n.a, &node.Status
	st.Capacity = a.Machine.Capacity(a.MaxPods)
	st.Allocatable = a.Machine.Allocatable(a.MaxPods)
	st.Addresses = a.Addresses
	st.DaemonEndpoints.KubeletEndpoint.Port = a.Port
	st.NodeInfo = a.Machine.Info
	st.NodeInfo.KubeletVersion, st.NodeInfo.KubeProxyVersion = Version, ""
	st.NodeInfo.OperatingSystem, st.NodeInfo.Architecture = "linux", runtime.GOARCH
	n.mu.Lock()
	st.NodeInfo.ContainerRuntimeVersion = n.full
	stale, network, why := n.stale, n.ready, n.why
	settles := !n.was && now.Sub(n.began) < settling
	n.mu.Unlock()
	if stale {
		if list, err := a.Runtime.ListImages(ctx); err == nil {
			st.Images = images(list)
			n.mu.Lock()
			n.stale = false
			n.mu.Unlock()
		}
	}
	set := func(typ corev1.NodeConditionType, status corev1.ConditionStatus, reason, message string) {
		c := corev1.NodeCondition{Type: typ, Status: status, Reason: reason, Message: message,
			LastHeartbeatTime: seconds(now), LastTransitionTime: seconds(now)}
		i := slices.IndexFunc(st.Conditions, func(x corev1.NodeCondition) bool { return x.Type == typ })
		if i < 0 {
			st.Conditions = append(st.Conditions, c)
			return
		}
		if st.Conditions[i].Status == status {
			c.LastTransitionTime = st.Conditions[i].LastTransitionTime
		}
		st.Conditions[i] = c
	}
	under := n.under()
	for i := range pressures {
		if p := &pressures[i]; slices.Contains(under, p.condition) {
			set(p.condition, corev1.ConditionTrue, p.yes, p.yesText)
		} else {
			set(p.condition, corev1.ConditionFalse, p.no, p.noText)
		}
	}
	switch {
	case problem != "":
		set(corev1.NodeReady, corev1.ConditionFalse, "KubeletNotReady", problem)
	case !network && settles && core.NodeReady(node):
		// Only this run of the agent is new: the node's pods run, and what reaches
		// them is in the kernel. Were it unready for a moment, so were all of them.
	case !network:
		set(corev1.NodeReady, corev1.ConditionFalse, "KubeletNotReady", why)
	default:
		set(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status")
	}
}

// images lists the largest images with their names, digests first.
func images(list []*v1.Image) (out []corev1.ContainerImage) {
	slices.SortStableFunc(list, func(a, b *v1.Image) int { return cmp.Compare(b.Size, a.Size) })
	for _, i := range list[:min(len(list), mostImages)] {
		names := append(slices.Clone(i.RepoDigests), i.RepoTags...)
		if len(names) == 0 {
			continue
		}
		out = append(out, corev1.ContainerImage{Names: names[:min(len(names), 5)], SizeBytes: int64(i.Size)})
	}
	return out
}

// renewals renews the node's lease, and measures what the node has left, for as
// long as the agent runs.
func (n *nodeState) renewals(ctx context.Context) {
	for ctx.Err() == nil {
		pause := leaseEvery
		if err := n.renew(ctx); err != nil && ctx.Err() == nil {
			n.a.Log.Warn("cannot renew the node's lease", "err", err)
			pause = 200 * time.Millisecond
			n.lease = nil
			if apierrors.IsNotFound(err) { // the node, or the namespace, is not there yet
				pause = time.Second / 2
			}
		}
		n.a.sleep(ctx, pause)
		if pause == leaseEvery {
			n.measure(ctx)
			n.a.sweepSteps()
		}
	}
}

const leaseNamespace = "kube-node-lease"

func (n *nodeState) renew(ctx context.Context) error {
	now := metav1.NewMicroTime(n.a.Clock.Now())
	name, secs := n.a.Name, int32(leaseFor)
	l := n.lease
	if l == nil {
		var err error
		if l, err = coordination.Lease.Get(ctx, n.a.Handler, leaseNamespace, name); apierrors.IsNotFound(err) {
			l = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: leaseNamespace, Name: name},
				Spec: coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &secs, RenewTime: &now}}
			if c := n.current(); c != nil {
				l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: c.Name, UID: c.UID}}
			}
			n.lease, err = coordination.Lease.Create(ctx, n.a.Handler, l)
			return err
		} else if err != nil {
			return err
		}
	}
	l = api.Clone(l)
	l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds, l.Spec.RenewTime = &name, &secs, &now
	if c := n.current(); c != nil && len(l.OwnerReferences) == 0 {
		l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: c.Name, UID: c.UID}}
	}
	got, err := coordination.Lease.Update(ctx, n.a.Handler, l)
	n.lease = got
	return err
}
