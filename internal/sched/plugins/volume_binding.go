package plugins

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/component-helpers/storage/ephemeral"
	schedv1 "k8s.io/kube-scheduler/config/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/sched"
)

// VolumeBinding keeps a pod to the nodes that its volumes reach. Claims that
// wait for their first user get a volume with the node: one that is there, or
// one that is made for it.
var VolumeBinding = &sched.Plugin{
	Name:      "VolumeBinding",
	Wakes:     sched.NodeAdded | sched.NodeLabels | sched.Storage,
	Configure: configured(volumeBinding, checkVolumeBinding),
	For:       volumeBinding(&schedv1.VolumeBindingArgs{}),
}

func checkVolumeBinding(a *schedv1.VolumeBindingArgs) (errs field.ErrorList) {
	if t := a.BindTimeoutSeconds; t != nil && *t < 0 {
		errs = append(errs, field.Invalid(field.NewPath("bindTimeoutSeconds"), *t, "must not be negative"))
	}
	if len(a.Shape) > 0 {
		errs = append(errs, field.Forbidden(field.NewPath("shape"), "scoring by storage capacity is not on by default in Kubernetes 1.37, and not here"))
	}
	return errs
}

func volumeBinding(args *schedv1.VolumeBindingArgs) sched.Look {
	wait := 600 * time.Second
	if args.BindTimeoutSeconds != nil {
		wait = time.Duration(*args.BindTimeoutSeconds) * time.Second
	}
	return func(pod *sched.Pod, s *sched.State) *sched.Check {
		names := sched.Claims(pod.Pod)
		if len(names) == 0 {
			return nil
		}
		b := &binding{s: s, wait: wait}
		for _, name := range names {
			if refused := b.take(pod, name); refused != "" {
				return &sched.Check{Refused: refused}
			}
		}
		slices.SortStableFunc(b.open, func(x, y *corev1.PersistentVolumeClaim) int {
			return size(x).Cmp(*size(y))
		})
		c := &sched.Check{Fits: func(n *sched.Node) sched.Verdict { _, _, v := b.find(n); return v }}
		if len(b.open) > 0 {
			c.Reserve, c.Unreserve, c.PreBind = b.reserve, b.unreserve, b.write
		}
		return c
	}
}

func size(c *corev1.PersistentVolumeClaim) *resource.Quantity {
	q := c.Spec.Resources.Requests[corev1.ResourceStorage]
	return &q
}

// A binding is what one pod's claims need.
type binding struct {
	s     *sched.State
	wait  time.Duration
	bound []*corev1.PersistentVolume
	lost  bool                            // a claim's volume does not exist
	open  []*corev1.PersistentVolumeClaim // those that wait for a node
	match matches                         // what was promised
	make  []*corev1.PersistentVolumeClaim // those whose volume is to be made

	choices map[*corev1.PersistentVolumeClaim]*choice
}

// A choice is the volumes that one claim could have, in order of preference:
// those of single hosts by their names, so that no node asks for all.
type choice struct {
	byHost map[string][]*corev1.PersistentVolume
	rest   []*corev1.PersistentVolume
	rank   map[string]int
}

// matches are claims by the name of the volume that each is to have.
type matches map[string]*corev1.PersistentVolumeClaim

func (b *binding) choice(c *corev1.PersistentVolumeClaim) *choice {
	if k := b.choices[c]; k != nil {
		return k
	}
	k := &choice{byHost: map[string][]*corev1.PersistentVolume{}, rank: map[string]int{}}
	for i, pv := range b.s.Volumes.Candidates(c) {
		k.rank[pv.Name] = i
		if hosts := hostsOf(pv); hosts != nil {
			for _, host := range hosts {
				k.byHost[host] = append(k.byHost[host], pv)
			}
		} else {
			k.rest = append(k.rest, pv)
		}
	}
	if b.choices == nil {
		b.choices = map[*corev1.PersistentVolumeClaim]*choice{}
	}
	b.choices[c] = k
	return k
}

// on is the best volume on a node that no other claim has yet, or nil.
func (k *choice) on(n *sched.Node, used matches) (best *corev1.PersistentVolume) {
	for _, all := range [][]*corev1.PersistentVolume{k.byHost[n.Labels[corev1.LabelHostname]], k.rest} {
		for _, pv := range all {
			if used[pv.Name] == nil && sched.Reaches(pv, n.Node) {
				if best == nil || k.rank[pv.Name] < k.rank[best.Name] {
					best = pv
				}
				break
			}
		}
	}
	return best
}

// hostsOf are the only hosts that have a volume, if that is how it says where it is.
func hostsOf(pv *corev1.PersistentVolume) []string {
	a := pv.Spec.NodeAffinity
	if a == nil || a.Required == nil || len(a.Required.NodeSelectorTerms) != 1 {
		return nil
	}
	for _, e := range a.Required.NodeSelectorTerms[0].MatchExpressions {
		if e.Key == corev1.LabelHostname && e.Operator == corev1.NodeSelectorOpIn {
			return e.Values
		}
	}
	return nil
}

func (b *binding) take(pod *sched.Pod, name string) (refused string) {
	c := b.s.Volumes.Claims[sched.ObjectKey(pod.Namespace, name)]
	if c == nil {
		if slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Ephemeral != nil && ephemeral.VolumeClaimName(pod.Pod, &v) == name
		}) {
			return fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
		}
		return fmt.Sprintf("persistentvolumeclaim %q not found", name)
	}
	switch {
	case c.DeletionTimestamp != nil:
		return fmt.Sprintf("persistentvolumeclaim %q is being deleted", name)
	case c.Status.Phase == corev1.ClaimLost:
		return fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, c.Spec.VolumeName)
	case sched.Bound(c):
		if pv := b.s.Volumes.Volumes[c.Spec.VolumeName]; pv != nil {
			b.bound = append(b.bound, pv)
		} else {
			b.lost = true
		}
		return ""
	}
	class := sched.ClaimClass(c)
	sc := b.s.Volumes.Classes[class]
	switch {
	case class != "" && sc == nil:
		return fmt.Sprintf("storageclass.storage.k8s.io %q not found", class)
	case sc == nil || sc.VolumeBindingMode == nil || *sc.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer:
		return "pod has unbound immediate PersistentVolumeClaims"
	}
	b.open = append(b.open, c)
	return ""
}

var (
	lostVolume = sched.Never("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
	farVolume  = sched.Never("node(s) didn't match PersistentVolume's node affinity")
	noVolume   = sched.Never("node(s) didn't find available persistent volumes to bind")
	noSpace    = sched.Never("node(s) did not have enough free storage")
)

// find looks for volumes on a node: those that are there for claims, and the
// claims whose volumes are to be made.
func (b *binding) find(n *sched.Node) (match matches, make []*corev1.PersistentVolumeClaim, _ sched.Verdict) {
	if b.lost {
		return nil, nil, lostVolume
	}
	for _, pv := range b.bound {
		if !sched.Reaches(pv, n.Node) {
			return nil, nil, farVolume
		}
	}
	if len(b.open) == 0 {
		return nil, nil, sched.Verdict{}
	}
	match = matches{}
	for _, c := range b.open {
		if at := c.Annotations[sched.SelectedNode]; at != "" { // being made already
			if at != n.Name {
				return nil, nil, farVolume
			}
			make = append(make, c)
			continue
		}
		if pv := b.choice(c).on(n, match); pv != nil {
			match[pv.Name] = c
			continue
		}
		class := b.s.Volumes.Classes[sched.ClaimClass(c)]
		if class == nil || class.Provisioner == "" || class.Provisioner == sched.NoProvisioner || !reaches(class, n.Node) {
			return nil, nil, noVolume
		}
		if !b.hasSpace(class, c, n.Node) {
			return nil, nil, noSpace
		}
		make = append(make, c)
	}
	return match, make, sched.Verdict{}
}

// hasSpace asks the capacities that a driver has published, if it does.
func (b *binding) hasSpace(class *storagev1.StorageClass, c *corev1.PersistentVolumeClaim, n *corev1.Node) bool {
	d := b.s.Volumes.Drivers[class.Provisioner]
	if d == nil || d.Spec.StorageCapacity == nil || !*d.Spec.StorageCapacity {
		return true
	}
	for _, k := range b.s.Volumes.Capacities {
		most := k.MaximumVolumeSize
		if most == nil {
			most = k.Capacity
		}
		if k.StorageClassName != class.Name || most == nil || most.Cmp(*size(c)) < 0 || k.NodeTopology == nil {
			continue
		}
		if sel, err := metav1.LabelSelectorAsSelector(k.NodeTopology); err == nil && sel.Matches(labels.Set(n.Labels)) {
			return true
		}
	}
	return false
}

func (b *binding) reserve(n *sched.Node) error {
	match, make, v := b.find(n)
	if !v.OK() {
		return fmt.Errorf("%s", v.Whys[0])
	}
	b.match, b.make = match, make
	for name, c := range match {
		b.s.Volumes.Promise(name, c)
	}
	return nil
}

func (b *binding) unreserve(*sched.Node) {
	for name := range b.match {
		b.s.Volumes.Release(name)
	}
}

// write binds volumes to claims, says for which node others are to be made, and
// waits until all claims are bound.
func (b *binding) write(ctx context.Context, h api.Handler, node string) error {
	for _, c := range b.open {
		for name, claim := range b.match {
			if claim == c {
				if err := bindVolume(ctx, h, name, c); err != nil {
					return err
				}
			}
		}
	}
	for _, c := range b.make {
		if c.Annotations[sched.SelectedNode] != "" {
			continue
		}
		now, err := core.PersistentVolumeClaim.Get(ctx, h, c.Namespace, c.Name)
		if err != nil {
			return err
		}
		now = now.DeepCopy()
		metav1.SetMetaDataAnnotation(&now.ObjectMeta, sched.SelectedNode, node)
		if _, err := core.PersistentVolumeClaim.Update(ctx, h, now); err != nil {
			return fmt.Errorf("choose node %s for claim %s: %w", node, c.Name, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, b.wait)
	defer cancel()
	open := slices.Clone(b.open)
	slices.SortFunc(open, func(x, y *corev1.PersistentVolumeClaim) int { return cmp.Compare(x.Name, y.Name) })
	for _, c := range open {
		provisioned := slices.Contains(b.make, c)
		if err := untilBound(ctx, h, c, node, provisioned); err != nil {
			return err
		}
	}
	return nil
}

func bindVolume(ctx context.Context, h api.Handler, name string, c *corev1.PersistentVolumeClaim) error {
	pv, err := core.PersistentVolume.Get(ctx, h, "", name)
	if err != nil {
		return err
	}
	if ref := pv.Spec.ClaimRef; ref != nil && ref.UID != "" {
		if ref.UID == c.UID {
			return nil
		}
		return fmt.Errorf("volume %s, meant for claim %s, went to claim %s/%s", name, c.Name, ref.Namespace, ref.Name)
	}
	pv = pv.DeepCopy()
	sched.ClaimVolume(pv, c)
	if _, err := core.PersistentVolume.Update(ctx, h, pv); err != nil {
		return fmt.Errorf("bind volume %s to claim %s: %w", name, c.Name, err)
	}
	return nil
}

// theOne is the one object that is followed, as a change shows it; nil if it is gone. A
// change may tell nothing of it.
func theOne[T api.Object](c api.Change[T]) (now T, told bool) {
	switch {
	case c.Reset && len(c.All) > 0:
		return c.All[0], true
	case c.Reset || c.Type == watch.Deleted:
		return now, true
	}
	return c.Object, c.Type != watch.Bookmark
}

func untilBound(ctx context.Context, h api.Handler, c *corev1.PersistentVolumeClaim, node string, provisioned bool) error {
	for change := range core.PersistentVolumeClaim.Follow(ctx, h, c.Namespace, api.WithField(metav1.ObjectNameField, c.Name), nil) {
		now, told := theOne(change)
		switch {
		case !told:
		case now == nil || now.UID != c.UID || now.DeletionTimestamp != nil:
			return fmt.Errorf("persistentvolumeclaim %q is gone", c.Name)
		case sched.Bound(now):
			return nil
		case provisioned && now.Annotations[sched.SelectedNode] != node:
			return fmt.Errorf("no volume for persistentvolumeclaim %q can be made on node %s", c.Name, node)
		}
	}
	return fmt.Errorf("binding volumes: persistentvolumeclaim %q is not bound in time: %w", c.Name, context.Cause(ctx))
}
