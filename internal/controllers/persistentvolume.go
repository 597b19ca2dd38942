package controllers

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
	"proa/internal/kinds/storage"
	"proa/internal/sched"
)

// PersistentVolumes binds claims to volumes, names to provisioners the claims that
// they are to make volumes for, and says what becomes of a volume whose claim is
// gone (kubernetes.io/docs/concepts/storage/persistent-volumes; docs/design/021).
// Of claims it writes everything; of volumes whose they are, and their phase.
func PersistentVolumes() *control.Sweep {
	b := &volumeBinder{taken: map[string]bool{}}
	return &control.Sweep{
		Name:      "persistentvolume",
		Kinds:     control.Fixed(core.PersistentVolumeClaim.Def(), core.PersistentVolume.Def(), storage.StorageClass.Def(), core.Pod.Def()),
		Writes:    []api.Definition{core.PersistentVolumeClaim, core.PersistentVolume},
		Changed:   volumesChanged,
		Reconcile: b.reconcile,
	}
}

// A volumeBinder knows which free volumes are being bound just now, so that claims
// that come together do not all want the same one.
type volumeBinder struct {
	mu    sync.Mutex
	taken map[string]bool
}

// take chooses the free volume for a claim that nobody else is about to bind; nil if
// there is none. It is to be given back.
func (b *volumeBinder) take(c *control.Cluster, p *corev1.PersistentVolumeClaim, class string) *corev1.PersistentVolume {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := closest(p, slices.DeleteFunc(volumesFree.Find(c, class), func(v *corev1.PersistentVolume) bool { return b.taken[v.Name] }))
	if v != nil {
		b.taken[v.Name] = true
	}
	return v
}

func (b *volumeBinder) giveBack(v *corev1.PersistentVolume) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.taken, v.Name)
}

// What finds claims, volumes and pods by each other.
var (
	claimsNaming = &control.Index[*corev1.PersistentVolumeClaim]{Kind: core.PersistentVolumeClaim,
		Of: func(p *corev1.PersistentVolumeClaim) []string { return unlessEmpty(p.Spec.VolumeName) }}
	// claimsWaiting are those without a volume, by the name of their storage class.
	claimsWaiting = &control.Index[*corev1.PersistentVolumeClaim]{Kind: core.PersistentVolumeClaim,
		Of: func(p *corev1.PersistentVolumeClaim) []string {
			if p.Spec.VolumeName != "" || completed(p) {
				return nil
			}
			return []string{sched.ClaimClass(p)}
		}}
	volumesFor = &control.Index[*corev1.PersistentVolume]{Kind: core.PersistentVolume,
		Of: func(v *corev1.PersistentVolume) []string {
			if r := v.Spec.ClaimRef; r != nil {
				return []string{sched.ObjectKey(r.Namespace, r.Name)}
			}
			return nil
		}}
	// volumesFree are those that any claim may have, by the name of their storage class.
	volumesFree = &control.Index[*corev1.PersistentVolume]{Kind: core.PersistentVolume,
		Of: func(v *corev1.PersistentVolume) []string {
			if !free(v) {
				return nil
			}
			return []string{core.VolumeClass(v)}
		}}
	podsUsing = &control.Index[*corev1.Pod]{Kind: core.Pod,
		Of: func(p *corev1.Pod) (keys []string) {
			for _, name := range sched.Claims(p) {
				keys = append(keys, sched.ObjectKey(p.Namespace, name))
			}
			return keys
		}}
)

func unlessEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// completed says whether a claim has had its volume.
func completed(p *corev1.PersistentVolumeClaim) bool {
	_, ok := p.Annotations[sched.BindCompleted]
	return ok
}

// free says whether any claim that a volume suits may have it.
func free(v *corev1.PersistentVolume) bool {
	return v.Spec.ClaimRef == nil && v.Status.Phase == corev1.VolumeAvailable && v.DeletionTimestamp == nil
}

func pvcKey(ns, name string) control.Key {
	return control.Key{Kind: core.PersistentVolumeClaim.Def(), Namespace: ns, Name: name}
}

func pvKey(name string) control.Key {
	return control.Key{Kind: core.PersistentVolume.Def(), Name: name}
}

// volumesChanged names the claims and volumes that a change concerns.
func volumesChanged(c *control.Cluster, kind *api.Resource, old, new api.Object) (keys []control.Key) {
	switch kind {
	case core.PersistentVolumeClaim.Def():
		if new != nil {
			keys = append(keys, pvcKey(new.GetNamespace(), new.GetName()))
		}
		for _, o := range []api.Object{old, new} {
			if p, ok := o.(*corev1.PersistentVolumeClaim); ok {
				keys = append(keys, volumesOfClaim(c, p)...)
			}
		}
	case core.PersistentVolume.Def():
		was, _ := old.(*corev1.PersistentVolume)
		is, _ := new.(*corev1.PersistentVolume)
		for _, v := range []*corev1.PersistentVolume{was, is} {
			if v != nil {
				keys = append(keys, claimsOfVolume(c, v)...)
			}
		}
		if is != nil {
			keys = append(keys, pvKey(is.Name))
			if free(is) && (was == nil || !free(was) || !equality.Semantic.DeepEqual(was.Spec, is.Spec) || !equality.Semantic.DeepEqual(was.Labels, is.Labels)) {
				keys = append(keys, claimsSuiting(c, is)...)
			}
		}
	case storage.StorageClass.Def():
		for _, o := range []api.Object{old, new} {
			if s, ok := o.(*storagev1.StorageClass); ok {
				keys = append(keys, claimsOfClass(c, s)...)
			}
		}
	case core.Pod.Def():
		if p, ok := new.(*corev1.Pod); ok && old == nil && p.Spec.NodeName == "" {
			for _, name := range sched.Claims(p) {
				if o, ok := control.Get(c, core.PersistentVolumeClaim, p.Namespace, name); ok && !completed(o) {
					keys = append(keys, pvcKey(p.Namespace, name))
				}
			}
		}
	}
	return keys
}

// volumesOfClaim are the keys of the volumes that a claim names, or that name it.
func volumesOfClaim(c *control.Cluster, p *corev1.PersistentVolumeClaim) (keys []control.Key) {
	if p.Spec.VolumeName != "" {
		keys = append(keys, pvKey(p.Spec.VolumeName))
	}
	for _, v := range volumesFor.Find(c, sched.ObjectKey(p.Namespace, p.Name)) {
		keys = append(keys, pvKey(v.Name))
	}
	return keys
}

// claimsOfVolume are the keys of the claims that a volume names, or that name it.
func claimsOfVolume(c *control.Cluster, v *corev1.PersistentVolume) (keys []control.Key) {
	if r := v.Spec.ClaimRef; r != nil {
		keys = append(keys, pvcKey(r.Namespace, r.Name))
	}
	for _, p := range claimsNaming.Find(c, v.Name) {
		keys = append(keys, pvcKey(p.Namespace, p.Name))
	}
	return keys
}

// claimsSuiting are the keys of the claims that wait and could have a volume that is free now.
func claimsSuiting(c *control.Cluster, v *corev1.PersistentVolume) (keys []control.Key) {
	class := core.VolumeClass(v)
	if s, ok := control.Get(c, storage.StorageClass, "", class); ok && late(s) {
		return nil // the scheduler chooses
	}
	for _, p := range claimsWaiting.Find(c, class) {
		if suits(v, p, selectorOf(p)) {
			keys = append(keys, pvcKey(p.Namespace, p.Name))
		}
	}
	return keys
}

// claimsOfClass are the keys of the claims that wait and are of a class, or are to get one if it is the default.
func claimsOfClass(c *control.Cluster, s *storagev1.StorageClass) (keys []control.Key) {
	for _, p := range claimsWaiting.Find(c, s.Name) {
		keys = append(keys, pvcKey(p.Namespace, p.Name))
	}
	if storage.IsDefault(s) {
		for _, p := range claimsWaiting.Find(c, "") {
			if !core.ClaimNamesClass(p) {
				keys = append(keys, pvcKey(p.Namespace, p.Name))
			}
		}
	}
	return keys
}

func (b *volumeBinder) reconcile(ctx context.Context, c *control.Cluster, key control.Key) (again time.Duration, err error) {
	if key.Kind == core.PersistentVolume.Def() {
		if v, ok := control.Get(c, core.PersistentVolume, "", key.Name); ok {
			err = reconcileVolume(ctx, c, v)
		}
		return 0, ignoreNotFound(err)
	}
	if p, ok := control.Get(c, core.PersistentVolumeClaim, key.Namespace, key.Name); ok {
		again, err = b.claim(ctx, c, p)
	}
	return again, ignoreNotFound(err)
}

// present reads an object of a watched kind, and asks the server before it says that
// there is none, or that it is not as it is likely to be: something is lost, or made, if
// that is wrong.
func present[T api.Object](ctx context.Context, c *control.Cluster, k *api.Kind[T], ns, name string, likely func(T) bool) (o T, ok bool, err error) {
	if o, ok = control.Get(c, k, ns, name); ok && (likely == nil || likely(o)) {
		return o, true, nil
	}
	o, err = k.Get(ctx, c, ns, name)
	if apierrors.IsNotFound(err) {
		return o, false, nil
	}
	return o, err == nil, err
}
