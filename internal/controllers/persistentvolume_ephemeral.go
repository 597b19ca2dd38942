package controllers

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
	"proa/internal/sched"
)

// EphemeralVolumes makes the claims of volumes that live and end with their pods
// (kubernetes.io/docs/concepts/storage/ephemeral-volumes).
var EphemeralVolumes = &control.Sweep{
	Name:    "ephemeral-volume",
	Kinds:   control.Fixed(core.Pod.Def(), core.PersistentVolumeClaim.Def()),
	Writes:  []api.Definition{core.PersistentVolumeClaim},
	Changed: ephemeralChanged,
	Reconcile: func(ctx context.Context, c *control.Cluster, key control.Key) (time.Duration, error) {
		p, ok := control.Get(c, core.Pod, key.Namespace, key.Name)
		if !ok || !active(p) {
			return 0, nil
		}
		for i := range p.Spec.Volumes {
			if v := &p.Spec.Volumes[i]; v.Ephemeral != nil {
				if err := ephemeralClaim(ctx, c, p, v); err != nil {
					return 0, err
				}
			}
		}
		return 0, nil
	},
}

// ephemeralChanged names pods that are new, and those of whose claims one is gone.
func ephemeralChanged(c *control.Cluster, kind *api.Resource, old, new api.Object) (keys []control.Key) {
	pods := []*corev1.Pod{}
	switch {
	case kind == core.Pod.Def() && old == nil:
		pods = append(pods, new.(*corev1.Pod))
	case kind == core.PersistentVolumeClaim.Def() && new == nil:
		pods = podsUsing.Find(c, sched.ObjectKey(old.GetNamespace(), old.GetName()))
	}
	for _, p := range pods {
		if slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.Ephemeral != nil }) {
			keys = append(keys, control.KeyOf(p))
		}
	}
	return keys
}

// ephemeralClaim makes the claim of a pod's volume if there is none.
func ephemeralClaim(ctx context.Context, c *control.Cluster, p *corev1.Pod, v *corev1.Volume) error {
	name := ephemeral.VolumeClaimName(p, v)
	if o, ok := control.Get(c, core.PersistentVolumeClaim, p.Namespace, name); ok {
		if err := ephemeral.VolumeIsForPod(p, o); err != nil {
			c.Eventf(p, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume %s: %v", v.Name, err)
		}
		return nil // its end would call again
	}
	t := v.Ephemeral.VolumeClaimTemplate.DeepCopy()
	_, err := core.PersistentVolumeClaim.Create(ctx, c, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: p.Namespace, Labels: t.Labels, Annotations: t.Annotations,
			OwnerReferences: []metav1.OwnerReference{control.OwnerRef(core.Pod, p)}},
		Spec: t.Spec,
	})
	if err == nil || apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return ignoreTerminating(err)
	}
	c.Eventf(p, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume %s: create PVC %s: %v", v.Name, name, err)
	return fmt.Errorf("ephemeral volume %s of pod %s/%s: %w", v.Name, p.Namespace, p.Name, err)
}
