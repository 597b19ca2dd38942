package plugins

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	schedhelpers "k8s.io/component-helpers/scheduling/corev1"
	schedv1 "k8s.io/kube-scheduler/config/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/kinds/resource"
	"proa/internal/sched"
	"proa/internal/sched/devices"
)

// DynamicResources keeps a pod to the nodes where the claims in its resourceClaims
// have their devices, or can get some, and gives them devices with the node.
var DynamicResources = &sched.Plugin{
	Name:      "DynamicResources",
	Weight:    2,
	Wakes:     sched.NodeAdded | sched.NodeLabels | sched.Devices,
	Helps:     helpsClaims,
	Configure: configured(dynamicResources, checkDynamicResources),
	For:       dynamicResources(&schedv1.DynamicResourcesArgs{}),
}

func checkDynamicResources(a *schedv1.DynamicResourcesArgs) (errs field.ErrorList) {
	if t := a.FilterTimeout; t != nil && t.Duration < 0 {
		errs = append(errs, field.Invalid(field.NewPath("filterTimeout"), t.Duration.String(), "must not be negative"))
	}
	if t := a.BindingTimeout; t != nil && t.Duration < time.Second {
		errs = append(errs, field.Invalid(field.NewPath("bindingTimeout"), t.Duration.String(), "must be at least 1s"))
	}
	return errs
}

func dynamicResources(args *schedv1.DynamicResourcesArgs) sched.Look {
	wait := 10 * time.Minute
	if args.BindingTimeout != nil {
		wait = args.BindingTimeout.Duration
	}
	return func(pod *sched.Pod, s *sched.State) *sched.Check {
		if len(pod.Spec.ResourceClaims) == 0 {
			return nil
		}
		b := &allotment{pod: pod, s: s, wait: wait, on: map[string]*attempt{}, far: map[types.UID]bool{}}
		for i := range pod.Spec.ResourceClaims {
			if refused := b.take(&pod.Spec.ResourceClaims[i]); refused != "" {
				return &sched.Check{Refused: refused}
			}
		}
		var err error
		if b.want, err = s.Devices.Want(b.open); err != nil {
			return &sched.Check{Refused: err.Error()}
		}
		c := &sched.Check{Fits: b.fits, Reserve: b.reserve, Unreserve: b.unreserve, PreBind: b.write, Relent: b.relent}
		if b.want.Choosy() {
			c.Score = func(n *sched.Node) int64 {
				if f := b.find(n).found; f != nil {
					return f.Rank
				}
				return 0
			}
			c.Normalize = sched.Stretch
		}
		return c
	}
}

// helpsClaims says whether a change of claims, or of what there is for them, may let a pod in.
func helpsClaims(pod *sched.Pod, _ *sched.State, c *sched.Change) bool {
	now, was := c.Claim, c.ClaimWas
	switch {
	case now == nil && was == nil:
		return true
	case was != nil && was.Status.Allocation != nil && (now == nil || now.Status.Allocation == nil):
		return true // its devices are free
	case now == nil:
		return false
	}
	return now.Namespace == pod.Namespace && slices.ContainsFunc(pod.Spec.ResourceClaims, func(e corev1.PodResourceClaim) bool {
		name, _ := core.PodResourceClaim(pod.Pod, &e)
		return name == now.Name
	})
}

// An allotment is what one pod's claims have and need.
type allotment struct {
	pod   *sched.Pod
	s     *sched.State
	wait  time.Duration
	given []*resourcev1.ResourceClaim // that have devices, or are promised them
	open  []*resourcev1.ResourceClaim // that need them
	want  *devices.Want               // what these ask for
	on    map[string]*attempt         // by node
	far   map[types.UID]bool          // claims whose devices some node does not reach

	plans []plan
}

// An attempt is what came of looking for devices on a node.
type attempt struct {
	found *devices.Found
	err   error
}

// A plan is what is to be written about one claim.
type plan struct {
	claim      *resourcev1.ResourceClaim
	allocation *resourcev1.AllocationResult
	written    *resourcev1.ResourceClaim // as it is after that; nil if it is not written
}

// take looks at one of the pod's claims. It says what keeps the pod from all nodes.
func (b *allotment) take(entry *corev1.PodResourceClaim) (refused string) {
	name, needed := core.PodResourceClaim(b.pod.Pod, entry)
	if !needed {
		return ""
	}
	if name == "" {
		return fmt.Sprintf("waiting for the resourceclaim controller to create the resourceclaim for %q from template %q", entry.Name, *entry.ResourceClaimTemplateName)
	}
	c := b.s.Devices.Claim(b.pod.Namespace, name)
	same := func(o *resourcev1.ResourceClaim) bool { return o == c }
	switch {
	case c == nil:
		return fmt.Sprintf("resourceclaim %q not found", name)
	case c.DeletionTimestamp != nil:
		return fmt.Sprintf("resourceclaim %q is being deleted", name)
	case entry.ResourceClaimName == nil && !metav1.IsControlledBy(c, b.pod):
		return fmt.Sprintf("resourceclaim %q was not created for this pod", name)
	case slices.ContainsFunc(b.open, same) || slices.ContainsFunc(b.given, same):
		return ""
	}
	a := b.s.Devices.Allocation(c)
	if a == nil {
		b.open = append(b.open, c)
		return ""
	}
	if b.s.Devices.Full(c, b.pod.UID) {
		return fmt.Sprintf("resourceclaim %q is in use by as many pods as can share it (%d)", name, resourcev1.ResourceClaimReservedForMaxSize)
	}
	if id, t := b.s.Devices.Evicting(a); t != nil {
		return fmt.Sprintf("resourceclaim %q has the device %s, which has the taint %s that it does not tolerate", name, id, devices.TaintText(t))
	}
	b.given = append(b.given, c)
	return ""
}

var farClaim = sched.Never("resourceclaim not available on the node")

func (b *allotment) fits(n *sched.Node) sched.Verdict {
	for _, c := range b.given {
		if a := b.s.Devices.Allocation(c); a != nil && !usableOn(a.NodeSelector, n.Node) {
			b.far[c.UID] = true
			return farClaim
		}
	}
	if err := b.find(n).err; err != nil {
		return sched.Never(err.Error())
	}
	return sched.Verdict{}
}

func usableOn(sel *corev1.NodeSelector, n *corev1.Node) bool {
	if sel == nil {
		return true
	}
	ok, err := schedhelpers.MatchNodeSelectorTerms(n, sel)
	return ok && err == nil
}

// find looks for devices on a node, once.
func (b *allotment) find(n *sched.Node) *attempt {
	a := b.on[n.Name]
	if a == nil {
		a = &attempt{}
		a.found, a.err = b.want.On(n.Node)
		b.on[n.Name] = a
	}
	return a
}

func (b *allotment) reserve(n *sched.Node) error {
	a := b.find(n)
	if a.err != nil {
		return a.err
	}
	b.plans = nil
	for i, allocation := range a.found.Allocations() {
		b.plans = append(b.plans, plan{claim: b.open[i], allocation: allocation})
	}
	for _, c := range b.given {
		b.plans = append(b.plans, plan{claim: c, allocation: b.s.Devices.Allocation(c)})
	}
	for _, p := range b.plans {
		b.s.Devices.Promise(p.claim, p.allocation, b.pod.UID)
	}
	return nil
}

func (b *allotment) unreserve(*sched.Node) {
	for _, p := range b.plans {
		if p.written != nil {
			b.s.Devices.Written(p.written)
		}
		b.s.Devices.Release(p.claim.Namespace, p.claim.Name, p.claim.UID, b.pod.UID)
	}
	b.plans = nil
}

// write has the claims say which devices they have and that the pod uses them, and
// waits for devices that are to be made ready first.
func (b *allotment) write(ctx context.Context, h api.Handler, _ string) (err error) {
	for i := range b.plans {
		if b.plans[i].written, err = writeClaim(ctx, h, &b.plans[i], b.pod.Pod); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, b.wait)
	defer cancel()
	for i := range b.plans {
		p := &b.plans[i]
		if !slices.ContainsFunc(p.allocation.Devices.Results, waits) {
			continue
		}
		if err := untilReady(ctx, h, p.claim); err != nil {
			if now, e := giveUp(context.WithoutCancel(ctx), h, p.claim, b.pod.UID); e == nil {
				p.written = now
			}
			return err
		}
	}
	return nil
}

func waits(r resourcev1.DeviceRequestAllocationResult) bool { return len(r.BindingConditions) > 0 }

// writeClaim writes what was decided about a claim, unless that is written.
func writeClaim(ctx context.Context, h api.Handler, p *plan, pod *corev1.Pod) (*resourcev1.ResourceClaim, error) {
	for {
		now, err := current(ctx, h, p.claim)
		if err != nil {
			return nil, err
		}
		has := now.Status.Allocation
		switch {
		case now.DeletionTimestamp != nil:
			return nil, fmt.Errorf("resourceclaim %q is being deleted", now.Name)
		case has == nil && p.claim.Status.Allocation != nil:
			return nil, fmt.Errorf("resourceclaim %q lost its devices", now.Name)
		case has != nil && !equality.Semantic.DeepEqual(has.Devices.Results, p.allocation.Devices.Results):
			return nil, fmt.Errorf("resourceclaim %q got other devices", now.Name)
		}
		if has == nil && !slices.Contains(now.Finalizers, resourcev1.Finalizer) {
			next := api.Clone(now)
			next.Finalizers = append(next.Finalizers, resourcev1.Finalizer)
			if now, err = resource.ResourceClaim.Update(ctx, h, next); apierrors.IsConflict(err) {
				continue
			} else if err != nil {
				return nil, fmt.Errorf("protect resourceclaim %q from deletion: %w", p.claim.Name, err)
			}
		}
		next := api.Clone(now)
		if has == nil {
			next.Status.Allocation = p.allocation.DeepCopy()
			if slices.ContainsFunc(p.allocation.Devices.Results, waits) {
				next.Status.Allocation.AllocationTimestamp = new(metav1.Now())
			}
		}
		me := resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID}
		if slices.Contains(next.Status.ReservedFor, me) && has != nil {
			return now, nil
		}
		next.Status.ReservedFor = append(next.Status.ReservedFor, me)
		switch now, err = resource.ResourceClaim.UpdateStatus(ctx, h, next); {
		case err == nil:
			return now, nil
		case !apierrors.IsConflict(err):
			return nil, fmt.Errorf("give devices to resourceclaim %q: %w", p.claim.Name, err)
		}
	}
}

// current is a claim as the server has it.
func current(ctx context.Context, h api.Handler, c *resourcev1.ResourceClaim) (*resourcev1.ResourceClaim, error) {
	now, err := resource.ResourceClaim.Get(ctx, h, c.Namespace, c.Name)
	if err == nil && now.UID != c.UID || apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("resourceclaim %q is gone", c.Name)
	}
	return now, err
}

// untilReady waits until drivers say that the devices of a claim can be used.
func untilReady(ctx context.Context, h api.Handler, c *resourcev1.ResourceClaim) error {
	waiting := ""
	for change := range resource.ResourceClaim.Follow(ctx, h, c.Namespace, api.WithField(metav1.ObjectNameField, c.Name), nil) {
		now, told := theOne(change)
		if !told {
			continue
		}
		if now == nil || now.UID != c.UID || now.Status.Allocation == nil {
			return fmt.Errorf("resourceclaim %q lost its devices", c.Name)
		}
		var err error
		if waiting, err = unready(now); err != nil || waiting == "" {
			return err
		}
	}
	return fmt.Errorf("resourceclaim %q: %s in time: %w", c.Name, waiting, context.Cause(ctx))
}

// unready says what a claim's devices lack to be used; the error, that it will not come.
func unready(c *resourcev1.ResourceClaim) (waiting string, err error) {
	for i := range c.Status.Allocation.Devices.Results {
		r := &c.Status.Allocation.Devices.Results[i]
		var conditions []metav1.Condition
		for _, d := range c.Status.Devices {
			if d.Driver == r.Driver && d.Pool == r.Pool && d.Device == r.Device && (d.ShareID == nil) == (r.ShareID == nil) && (d.ShareID == nil || *d.ShareID == string(*r.ShareID)) {
				conditions = d.Conditions
			}
		}
		has := func(typ string) bool {
			return slices.ContainsFunc(conditions, func(k metav1.Condition) bool { return k.Type == typ && k.Status == metav1.ConditionTrue })
		}
		for _, typ := range r.BindingFailureConditions {
			if has(typ) {
				return "", fmt.Errorf("resourceclaim %q: device %s/%s/%s can not be used: %s", c.Name, r.Driver, r.Pool, r.Device, typ)
			}
		}
		for _, typ := range r.BindingConditions {
			if waiting == "" && !has(typ) {
				waiting = fmt.Sprintf("device %s/%s/%s is not %s", r.Driver, r.Pool, r.Device, typ)
			}
		}
	}
	return waiting, nil
}

var errUsed = errors.New("others use it")

// giveUp takes a claim's devices away, unless somebody but the pod uses it.
func giveUp(ctx context.Context, h api.Handler, c *resourcev1.ResourceClaim, pod types.UID) (*resourcev1.ResourceClaim, error) {
	for {
		now, err := current(ctx, h, c)
		if err != nil || now.Status.Allocation == nil {
			return now, err
		}
		if usedByOthers(now, pod) {
			return nil, fmt.Errorf("take the devices of resourceclaim %q: %w", c.Name, errUsed)
		}
		next := api.Clone(now)
		next.Status.Allocation, next.Status.ReservedFor, next.Status.Devices = nil, nil, nil
		if now, err = resource.ResourceClaim.UpdateStatus(ctx, h, next); !apierrors.IsConflict(err) {
			return now, err
		}
	}
}

func usedByOthers(c *resourcev1.ResourceClaim, pod types.UID) bool {
	return slices.ContainsFunc(c.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID != pod })
}

// relent gives up the devices of one claim that keep the pod from nodes, if nobody else uses them.
func (b *allotment) relent() func(context.Context, api.Handler) error {
	for _, c := range b.given {
		if b.far[c.UID] && c.Status.Allocation != nil && !usedByOthers(c, b.pod.UID) && !b.s.Devices.Promised(c, b.pod.UID) {
			return func(ctx context.Context, h api.Handler) error {
				_, err := giveUp(ctx, h, c, b.pod.UID)
				return err
			}
		}
	}
	return nil
}
