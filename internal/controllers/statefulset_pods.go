package controllers

import (
	"context"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
)

// pod makes the pod of an ordinal, of the revision that it is to have.
func (r *stateful) pod(ordinal int) *corev1.Pod {
	t, revision := r.was, r.current
	if wantsNew(r.set, ordinal) {
		t, revision = &r.set.Spec.Template, r.update
	}
	p := fromTemplate(t, r.set, control.OwnerRef(apps.StatefulSet, r.set))
	p.Name = podName(r.set, ordinal)
	identify(p, ordinal)
	p.Labels[appsv1.StatefulSetRevisionLabel] = revision
	p.Spec.Hostname, p.Spec.Subdomain = p.Name, r.set.Spec.ServiceName
	p.Spec.Volumes = withClaimVolumes(r.set, p.Spec.Volumes, ordinal)
	return p
}

func podName(s *appsv1.StatefulSet, ordinal int) string { return s.Name + "-" + strconv.Itoa(ordinal) }

// identify labels a pod with its name and its ordinal.
func identify(p *corev1.Pod, ordinal int) {
	metav1.SetMetaDataLabel(&p.ObjectMeta, appsv1.StatefulSetPodNameLabel, p.Name)
	metav1.SetMetaDataLabel(&p.ObjectMeta, appsv1.PodIndexLabel, strconv.Itoa(ordinal))
}

// create makes the pods that are missing, each after its claims.
func (r *stateful) create(ctx context.Context) error {
	missing, err := r.claimed(ctx, slices.DeleteFunc(slices.Clone(r.plan.create), r.claimsGoing))
	if err != nil {
		return err
	}
	if r.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement && len(missing) < min(len(r.plan.create), burst) {
		return nil // the change of the claims will call again
	}
	_, err = gradually(r.c, len(missing), func(i int) error {
		if err := r.createClaims(ctx, missing[i]); err != nil {
			return err
		}
		want := r.pod(missing[i])
		p, err := core.Pod.Create(ctx, r.c, want)
		switch {
		case err == nil:
			r.c.Eventf(r.set, corev1.EventTypeNormal, "SuccessfulCreate", "create Pod %s in StatefulSet %s successful", p.Name, r.set.Name)
		case !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) && !apierrors.IsAlreadyExists(err):
			r.c.Eventf(r.set, corev1.EventTypeWarning, "FailedCreate", "create Pod %s in StatefulSet %s failed error: %v", want.Name, r.set.Name, err)
		}
		return err
	})
	return err
}

// remove ends the pods that the plan says, and mends the labels of others.
func (r *stateful) remove(ctx context.Context) error {
	for _, p := range r.plan.keep {
		if p.DeletionTimestamp != nil || p.Labels[appsv1.StatefulSetPodNameLabel] == p.Name && p.Labels[appsv1.PodIndexLabel] != "" {
			continue
		}
		next := api.Clone(p)
		identify(next, ordinalOf(r.set, p.Name))
		if _, err := core.Pod.Update(ctx, r.c, next); ignoreNotFound(err) != nil {
			return err
		}
	}
	gone := r.plan.remove[:min(len(r.plan.remove), burst)]
	return r.c.Each(len(gone), func(i int) error {
		p := gone[i]
		switch p.Status.Phase {
		case corev1.PodFailed:
			r.c.Eventf(r.set, corev1.EventTypeWarning, "RecreatingFailedPod", "StatefulSet %s/%s is recreating failed Pod %s", r.set.Namespace, r.set.Name, p.Name)
		case corev1.PodSucceeded:
			r.c.Eventf(r.set, corev1.EventTypeNormal, "RecreatingTerminatedPod", "StatefulSet %s/%s is recreating terminated Pod %s", r.set.Namespace, r.set.Name, p.Name)
		}
		err := core.Pod.Delete(ctx, r.c, p.Namespace, p.Name, api.Options{UID: &p.UID})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			r.c.Eventf(r.set, corev1.EventTypeWarning, "FailedDelete", "delete Pod %s in StatefulSet %s failed error: %v", p.Name, r.set.Name, err)
			return err
		}
		r.c.Eventf(r.set, corev1.EventTypeNormal, "SuccessfulDelete", "delete Pod %s in StatefulSet %s successful", p.Name, r.set.Name)
		return nil
	})
}

// claimants are the stateful sets that a claim is of, by its name.
func claimants(c *control.Cluster, o *corev1.PersistentVolumeClaim) (keys []control.Key) {
	for _, s := range control.All(c, apps.StatefulSet, o.Namespace) {
		for i := range s.Spec.VolumeClaimTemplates {
			if ordinalAfter(s.Spec.VolumeClaimTemplates[i].Name+"-"+s.Name+"-", o.Name) >= 0 {
				keys = append(keys, control.KeyOf(s))
				break
			}
		}
	}
	return keys
}

func claimName(s *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, ordinal int) string {
	return template.Name + "-" + podName(s, ordinal)
}

// withClaimVolumes is a pod's volumes with those of its claims, which take the
// place of others of the same name.
func withClaimVolumes(s *appsv1.StatefulSet, volumes []corev1.Volume, ordinal int) (out []corev1.Volume) {
	claims := map[string]bool{}
	for i := range s.Spec.VolumeClaimTemplates {
		t := &s.Spec.VolumeClaimTemplates[i]
		claims[t.Name] = true
		out = append(out, corev1.Volume{Name: t.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(s, t, ordinal)},
		}})
	}
	for _, v := range volumes {
		if !claims[v.Name] {
			out = append(out, v)
		}
	}
	return out
}

// claims are those of an ordinal that exist.
func (r *stateful) claims(ordinal int) (out []*corev1.PersistentVolumeClaim) {
	for i := range r.set.Spec.VolumeClaimTemplates {
		if o, ok := control.Get(r.c, core.PersistentVolumeClaim, r.set.Namespace, claimName(r.set, &r.set.Spec.VolumeClaimTemplates[i], ordinal)); ok {
			out = append(out, o)
		}
	}
	return out
}

// claimsGoing says whether a claim of an ordinal without a pod goes, as far as is seen.
func (r *stateful) claimsGoing(ordinal int) bool {
	return slices.ContainsFunc(r.claims(ordinal), func(o *corev1.PersistentVolumeClaim) bool { return r.goes(o, ordinal) })
}

// goes says whether a claim of an ordinal without a pod is on its way out, or will be
// because it belongs to the pod that was there.
func (r *stateful) goes(o *corev1.PersistentVolumeClaim, ordinal int) bool {
	scaled, _ := r.retention()
	return o.DeletionTimestamp != nil || scaled && slices.ContainsFunc(o.OwnerReferences, r.isPodRef(ordinal))
}

// claimed are the first of the ordinals whose claims, as far as there are any, stay as far as
// the server knows: what is seen of claims may be older than what is seen of pods, and
// a claim that a new pod uses on its way out never goes.
func (r *stateful) claimed(ctx context.Context, ordinals []int) (out []int, err error) {
	for _, n := range ordinals[:min(len(ordinals), burst)] {
		stay := true
		for _, o := range r.claims(n) {
			now, err := core.PersistentVolumeClaim.Get(ctx, r.c, o.Namespace, o.Name)
			if ignoreNotFound(err) != nil {
				return nil, err
			}
			stay = stay && err == nil && now.UID == o.UID && !r.goes(now, n)
		}
		if stay {
			out = append(out, n)
		}
	}
	return out, nil
}

// createClaims makes the claims of an ordinal that there are not.
func (r *stateful) createClaims(ctx context.Context, ordinal int) error {
	for i := range r.set.Spec.VolumeClaimTemplates {
		t := &r.set.Spec.VolumeClaimTemplates[i]
		name := claimName(r.set, t, ordinal)
		if _, ok := control.Get(r.c, core.PersistentVolumeClaim, r.set.Namespace, name); ok {
			continue
		}
		o := api.Clone(t)
		o.ObjectMeta = metav1.ObjectMeta{Name: name, Namespace: r.set.Namespace, Labels: o.Labels, Annotations: o.Annotations, Finalizers: o.Finalizers}
		for k, v := range r.set.Spec.Selector.MatchLabels {
			metav1.SetMetaDataLabel(&o.ObjectMeta, k, v)
		}
		o.OwnerReferences = r.claimOwners(o, ordinal, nil)
		pod := podName(r.set, ordinal)
		_, err := core.PersistentVolumeClaim.Create(ctx, r.c, o)
		switch {
		case apierrors.IsAlreadyExists(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			return err
		case err != nil:
			r.c.Eventf(r.set, corev1.EventTypeWarning, "FailedCreate", "create Claim %s for Pod %s in StatefulSet %s failed error: %v", name, pod, r.set.Name, err)
			return err
		}
		r.c.Eventf(r.set, corev1.EventTypeNormal, "SuccessfulCreate", "create Claim %s Pod %s in StatefulSet %s success", name, pod, r.set.Name)
	}
	return nil
}

// keepClaims makes the claims that pods wait for, and has every claim owned as
// the retention policy says, before any pod goes.
func (r *stateful) keepClaims(ctx context.Context) error {
	if len(r.set.Spec.VolumeClaimTemplates) == 0 {
		return nil
	}
	for _, p := range r.plan.keep {
		if p.DeletionTimestamp != nil {
			continue
		}
		n := ordinalOf(r.set, p.Name)
		if p.Status.Phase == corev1.PodPending {
			if err := r.createClaims(ctx, n); err != nil {
				return err
			}
		}
		if err := r.ownClaims(ctx, n, nil); err != nil {
			return err
		}
	}
	for _, p := range r.plan.excess {
		if err := r.ownClaims(ctx, ordinalOf(r.set, p.Name), p); err != nil {
			return err
		}
	}
	return nil
}

// ownClaims sets the owners of an ordinal's claims. The pod is given if it is
// to go because there are too many.
func (r *stateful) ownClaims(ctx context.Context, ordinal int, excess *corev1.Pod) error {
	for _, o := range r.claims(ordinal) {
		refs := r.claimOwners(o, ordinal, excess)
		if o.DeletionTimestamp != nil || slices.EqualFunc(refs, o.OwnerReferences, func(a, b metav1.OwnerReference) bool { return a.UID == b.UID }) {
			continue
		}
		next := api.Clone(o)
		next.OwnerReferences = refs
		if _, err := core.PersistentVolumeClaim.Update(ctx, r.c, next); ignoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

// retention says when claims go: with pods that are too many, and with the set.
func (r *stateful) retention() (scaled, deleted bool) {
	p := r.set.Spec.PersistentVolumeClaimRetentionPolicy
	if p == nil {
		return false, false
	}
	return p.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType, p.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType
}

func (r *stateful) isPodRef(ordinal int) func(metav1.OwnerReference) bool {
	return func(ref metav1.OwnerReference) bool {
		return ref.Kind == "Pod" && ref.APIVersion == "v1" && ordinalOf(r.set, ref.Name) == ordinal
	}
}

// claimOwners are the owners that a claim is to have. One that somebody else
// controls keeps those that it has.
func (r *stateful) claimOwners(o *corev1.PersistentVolumeClaim, ordinal int, excess *corev1.Pod) []metav1.OwnerReference {
	refs := slices.DeleteFunc(slices.Clone(o.OwnerReferences), func(ref metav1.OwnerReference) bool {
		return ref.UID == r.set.UID || r.isPodRef(ordinal)(ref)
	})
	if slices.ContainsFunc(refs, func(ref metav1.OwnerReference) bool { return ref.Controller != nil && *ref.Controller }) {
		return o.OwnerReferences
	}
	switch scaled, deleted := r.retention(); {
	case scaled && excess != nil:
		refs = append(refs, control.OwnerRef(core.Pod, excess))
	case deleted:
		refs = append(refs, control.OwnerRef(apps.StatefulSet, r.set))
	}
	return refs
}
