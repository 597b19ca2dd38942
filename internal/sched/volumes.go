package sched

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	schedhelpers "k8s.io/component-helpers/scheduling/corev1"

	"proa/internal/kinds/core"
)

// Volumes are the claims and volumes of the cluster, which pods use them, and
// which volumes have been promised to claims.
type Volumes struct {
	Claims     Table[*corev1.PersistentVolumeClaim] // by namespace and name
	Volumes    Table[*corev1.PersistentVolume]      // by name
	Classes    Table[*storagev1.StorageClass]       // by name
	Nodes      Table[*storagev1.CSINode]            // by name
	Drivers    Table[*storagev1.CSIDriver]          // by name
	Capacities Table[*storagev1.CSIStorageCapacity] // by namespace and name

	users map[string]map[types.UID]*Pod // pods on nodes, by claim
	taken map[string]string             // claims by the volume promised to them
}

// A Table holds objects by [ObjectKey].
type Table[T metav1.Object] map[string]T

// ObjectKey is an object's namespace and name, or its name.
func ObjectKey(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

// Put takes in an object.
func (t Table[T]) Put(o T) { t[ObjectKey(o.GetNamespace(), o.GetName())] = o }

// Drop forgets an object.
func (t Table[T]) Drop(o T) { delete(t, ObjectKey(o.GetNamespace(), o.GetName())) }

func newVolumes() Volumes {
	return Volumes{
		Claims: Table[*corev1.PersistentVolumeClaim]{}, Volumes: Table[*corev1.PersistentVolume]{}, Classes: Table[*storagev1.StorageClass]{},
		Nodes: Table[*storagev1.CSINode]{}, Drivers: Table[*storagev1.CSIDriver]{}, Capacities: Table[*storagev1.CSIStorageCapacity]{},
		users: map[string]map[types.UID]*Pod{}, taken: map[string]string{},
	}
}

// use counts a pod in or out as a user of its claims.
func (v *Volumes) use(p *Pod, by int) {
	for _, name := range Claims(p.Pod) {
		key := ObjectKey(p.Namespace, name)
		if by < 0 {
			if delete(v.users[key], p.UID); len(v.users[key]) == 0 {
				delete(v.users, key)
			}
			continue
		}
		if v.users[key] == nil {
			v.users[key] = map[types.UID]*Pod{}
		}
		v.users[key][p.UID] = p
	}
}

// Users returns the pods on nodes that use a claim.
func (v *Volumes) Users(namespace, claim string) map[types.UID]*Pod {
	return v.users[ObjectKey(namespace, claim)]
}

// Annotations of claims and volumes that their controllers know.
const (
	BindCompleted     = "pv.kubernetes.io/bind-completed"      // the claim has its volume
	BoundByController = "pv.kubernetes.io/bound-by-controller" // nobody asked for that very volume
	SelectedNode      = "volume.kubernetes.io/selected-node"   // the node that a volume is to be made for
	NoProvisioner     = "kubernetes.io/no-provisioner"         // of classes whose volumes somebody makes by hand
)

// ClaimClass is the name of a claim's storage class.
func ClaimClass(c *corev1.PersistentVolumeClaim) string {
	if old, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return old
	}
	if c.Spec.StorageClassName == nil {
		return ""
	}
	return *c.Spec.StorageClassName
}

// ClaimVolume makes a volume a claim's.
func ClaimVolume(pv *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) {
	if pv.Spec.ClaimRef == nil {
		metav1.SetMetaDataAnnotation(&pv.ObjectMeta, BoundByController, "yes")
	}
	pv.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1",
		Namespace: c.Namespace, Name: c.Name, UID: c.UID, ResourceVersion: c.ResourceVersion}
}

// Reaches says whether a volume can be used on a node.
func Reaches(pv *corev1.PersistentVolume, n *corev1.Node) bool {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return true
	}
	ok, err := schedhelpers.MatchNodeSelectorTerms(n, pv.Spec.NodeAffinity.Required)
	return ok && err == nil
}

func modeOf(m *corev1.PersistentVolumeMode) corev1.PersistentVolumeMode {
	if m == nil {
		return corev1.PersistentVolumeFilesystem
	}
	return *m
}

func hasModes(pv *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	for _, m := range c.Spec.AccessModes {
		if !slices.Contains(pv.Spec.AccessModes, m) {
			return false
		}
	}
	return true
}

// Bound says whether a claim has its volume.
func Bound(c *corev1.PersistentVolumeClaim) bool {
	return c.Spec.VolumeName != "" && (c.Annotations[BindCompleted] != "" || c.Status.Phase == corev1.ClaimBound)
}

// Candidates returns the volumes that a claim could have as far as it is not
// about nodes: one that is meant for it, or the smallest first.
func (v *Volumes) Candidates(c *corev1.PersistentVolumeClaim) (out []*corev1.PersistentVolume) {
	sel := labels.Everything()
	if c.Spec.Selector != nil {
		var err error
		if sel, err = metav1.LabelSelectorAsSelector(c.Spec.Selector); err != nil {
			return nil
		}
	}
	want := c.Spec.Resources.Requests[corev1.ResourceStorage]
	key := ObjectKey(c.Namespace, c.Name)
	for name, pv := range v.Volumes {
		if pv.DeletionTimestamp != nil || v.taken[name] != "" && v.taken[name] != key || c.Spec.VolumeName != "" && c.Spec.VolumeName != name {
			continue
		}
		ref := pv.Spec.ClaimRef
		mine := ref != nil && ref.Namespace == c.Namespace && ref.Name == c.Name && (ref.UID == "" || ref.UID == c.UID)
		size := pv.Spec.Capacity[corev1.ResourceStorage]
		if ref != nil && !mine || size.Cmp(want) < 0 || modeOf(c.Spec.VolumeMode) != modeOf(pv.Spec.VolumeMode) {
			continue
		}
		if mine {
			return []*corev1.PersistentVolume{pv}
		}
		if pv.Status.Phase == corev1.VolumeAvailable && sel.Matches(labels.Set(pv.Labels)) && hasModes(pv, c) &&
			core.VolumeClass(pv) == ClaimClass(c) && sameText(pv.Spec.VolumeAttributesClassName, c.Spec.VolumeAttributesClassName) {
			out = append(out, pv)
		}
	}
	slices.SortFunc(out, func(a, b *corev1.PersistentVolume) int {
		x, y := a.Spec.Capacity[corev1.ResourceStorage], b.Spec.Capacity[corev1.ResourceStorage]
		if d := x.Cmp(y); d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}

func sameText(a, b *string) bool {
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	return text(a) == text(b)
}

// Promise keeps a volume for a claim until it is written; Release ends that.
func (v *Volumes) Promise(name string, c *corev1.PersistentVolumeClaim) {
	v.taken[name] = ObjectKey(c.Namespace, c.Name)
}

// Release ends what [Volumes.Promise] began.
func (v *Volumes) Release(name string) { delete(v.taken, name) }
