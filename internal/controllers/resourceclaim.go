package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
	"proa/internal/kinds/resource"
	"proa/internal/sched"
)

// ResourceClaims makes the claims of pods that name templates, and removes them when
// their pods are done. From every claim it takes the consumers that are gone or done,
// and with the last of them the devices.
func ResourceClaims() *control.Sweep {
	return &control.Sweep{
		Name:      "resourceclaim",
		Kinds:     control.Fixed(core.Pod.Def(), resource.ResourceClaim.Def(), resource.ResourceClaimTemplate.Def()),
		Writes:    []api.Definition{core.Pod, resource.ResourceClaim},
		Changed:   claimsChanged,
		Reconcile: reconcileClaims,
	}
}

// What finds pods by the claims, and the templates of claims, that they name.
var (
	podsOfClaim = podsByEntry(func(p *corev1.Pod, e *corev1.PodResourceClaim) string {
		name, _ := core.PodResourceClaim(p, e)
		return name
	})
	podsOfTemplate = podsByEntry(func(_ *corev1.Pod, e *corev1.PodResourceClaim) string {
		if e.ResourceClaimTemplateName == nil {
			return ""
		}
		return *e.ResourceClaimTemplateName
	})
)

// podsByEntry finds pods by what their entries of claims name in their namespace.
func podsByEntry(named func(*corev1.Pod, *corev1.PodResourceClaim) string) *control.Index[*corev1.Pod] {
	return &control.Index[*corev1.Pod]{Kind: core.Pod, Of: func(p *corev1.Pod) (keys []string) {
		for i := range p.Spec.ResourceClaims {
			if name := named(p, &p.Spec.ResourceClaims[i]); name != "" {
				if key := sched.ObjectKey(p.Namespace, name); !slices.Contains(keys, key) {
					keys = append(keys, key)
				}
			}
		}
		return keys
	}}
}

func claimsChanged(c *control.Cluster, kind *api.Resource, old, new api.Object) (keys []control.Key) {
	switch kind {
	case core.Pod.Def():
		was, _ := old.(*corev1.Pod)
		p, _ := new.(*corev1.Pod)
		if p != nil && len(p.Spec.ResourceClaims) > 0 && !podDone(p) {
			keys = append(keys, keyIn(kind, p))
		}
		if was != nil && (p == nil || p.UID != was.UID) {
			keys = append(keys, claimKeys(c, was)...)
		}
		if p != nil && podDone(p) && (was == nil || !podDone(was)) {
			keys = append(keys, claimKeys(c, p)...)
		}
	case resource.ResourceClaim.Def():
		if new != nil {
			keys = append(keys, keyIn(kind, new))
		}
		for _, o := range []api.Object{old, new} {
			if o == nil {
				continue
			}
			if ref := metav1.GetControllerOfNoCopy(o); ref != nil && ref.Kind == "Pod" {
				keys = append(keys, control.Key{Kind: core.Pod.Def(), Namespace: o.GetNamespace(), Name: ref.Name})
			}
		}
		was, _ := old.(*resourcev1.ResourceClaim)
		if is, ok := new.(*resourcev1.ResourceClaim); ok && is.Status.Allocation != nil && (was == nil || was.Status.Allocation == nil) {
			keys = append(keys, placedUsers(c, is)...)
		}
	case resource.ResourceClaimTemplate.Def():
		if new == nil {
			return nil
		}
		for _, p := range podsOfTemplate.Find(c, sched.ObjectKey(new.GetNamespace(), new.GetName())) {
			keys = append(keys, keyIn(core.Pod.Def(), p))
		}
	}
	return keys
}

// claimKeys are the keys of a pod's claims, those included that were made for it and
// that its status does not name.
func claimKeys(c *control.Cluster, p *corev1.Pod) (keys []control.Key) {
	for i := range p.Spec.ResourceClaims {
		if name, _ := core.PodResourceClaim(p, &p.Spec.ResourceClaims[i]); name != "" {
			keys = append(keys, control.Key{Kind: resource.ResourceClaim.Def(), Namespace: p.Namespace, Name: name})
		}
	}
	if len(p.Spec.ResourceClaims) > 0 {
		for _, o := range control.Owned(c, resource.ResourceClaim, p.UID) {
			if k := keyIn(resource.ResourceClaim.Def(), o); !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	return keys
}

// placedUsers are the pods on nodes that name a claim that is not reserved for them:
// no scheduler has placed them.
func placedUsers(c *control.Cluster, claim *resourcev1.ResourceClaim) (keys []control.Key) {
	for _, p := range podsOfClaim.Find(c, sched.ObjectKey(claim.Namespace, claim.Name)) {
		if p.Spec.NodeName != "" && !reservedFor(claim, p) && !podDone(p) {
			keys = append(keys, keyIn(core.Pod.Def(), p))
		}
	}
	return keys
}

// podDone says whether a pod will run no container any more.
func podDone(p *corev1.Pod) bool {
	return core.PodFinished(p) || p.DeletionTimestamp != nil && p.Spec.NodeName == ""
}

func reservedFor(claim *resourcev1.ResourceClaim, p *corev1.Pod) bool {
	return slices.ContainsFunc(claim.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID == p.UID })
}

func reconcileClaims(ctx context.Context, c *control.Cluster, key control.Key) (time.Duration, error) {
	if key.Kind == core.Pod.Def() {
		if p, ok := control.Get(c, core.Pod, key.Namespace, key.Name); ok && p.DeletionTimestamp == nil && !podDone(p) {
			return 0, claimsOfPod(ctx, c, p)
		}
		return 0, nil
	}
	if claim, ok := control.Get(c, resource.ResourceClaim, key.Namespace, key.Name); ok {
		return 0, usersOfClaim(ctx, c, claim)
	}
	return 0, nil
}

// claimsOfPod makes the claims that a pod has templates for, says in its status which
// they are, and has claims know of a pod that was put on its node by hand.
func claimsOfPod(ctx context.Context, c *control.Cluster, p *corev1.Pod) error {
	made := map[string]string{} // names of claims by entry
	for i := range p.Spec.ResourceClaims {
		e := &p.Spec.ResourceClaims[i]
		name, needed := core.PodResourceClaim(p, e)
		if !needed {
			continue
		}
		claim, there := control.Get(c, resource.ResourceClaim, p.Namespace, name)
		if e.ResourceClaimTemplateName != nil && !there && (name == "" || p.Spec.NodeName == "") {
			var err error
			if claim, err = claimOf(ctx, c, p, e); err != nil {
				c.Eventf(p, corev1.EventTypeWarning, "FailedResourceClaimCreation", "PodResourceClaim %s: %v", e.Name, err)
				if apierrors.IsNotFound(err) {
					continue // it is tried again when the template comes
				}
				return ignoreTerminating(err)
			}
			made[e.Name], there = claim.Name, true
		}
		if there && p.Spec.NodeName != "" {
			if err := reserve(ctx, c, claim, p); err != nil {
				return err
			}
		}
	}
	if len(made) == 0 {
		return nil
	}
	_, err := control.SetStatus(ctx, c, core.Pod, p, func(p *corev1.Pod) {
		for _, entry := range slices.Sorted(maps.Keys(made)) {
			next := corev1.PodResourceClaimStatus{Name: entry, ResourceClaimName: new(made[entry])}
			p.Status.ResourceClaimStatuses = slices.DeleteFunc(p.Status.ResourceClaimStatuses, func(s corev1.PodResourceClaimStatus) bool { return s.Name == entry })
			p.Status.ResourceClaimStatuses = append(p.Status.ResourceClaimStatuses, next)
		}
	})
	return ignoreNotFound(err)
}

// claimOf is the claim of a pod's entry, made from its template if it was not before.
func claimOf(ctx context.Context, c *control.Cluster, p *corev1.Pod, e *corev1.PodResourceClaim) (*resourcev1.ResourceClaim, error) {
	for _, o := range control.Owned(c, resource.ResourceClaim, p.UID) {
		if o.Annotations[resourcev1.PodResourceClaimAnnotation] == e.Name && o.DeletionTimestamp == nil {
			return o, nil
		}
	}
	name := *e.ResourceClaimTemplateName
	t, ok := control.Get(c, resource.ResourceClaimTemplate, p.Namespace, name)
	if !ok {
		var err error
		if t, err = resource.ResourceClaimTemplate.Get(ctx, c, p.Namespace, name); err != nil {
			return nil, fmt.Errorf("resource claim template %q: %w", name, err)
		}
	}
	t = t.DeepCopy()
	annotations := map[string]string{}
	maps.Copy(annotations, t.Spec.Annotations)
	annotations[resourcev1.PodResourceClaimAnnotation] = e.Name
	ref := control.OwnerRef(core.Pod, p)
	return resource.ResourceClaim.Create(ctx, c, &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: podPrefix(p.Name + "-" + e.Name), Namespace: p.Namespace, Labels: t.Spec.Labels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{ref},
		},
		Spec: t.Spec.Spec,
	})
}

// reserve notes that a pod uses a claim that has its devices.
func reserve(ctx context.Context, c *control.Cluster, claim *resourcev1.ResourceClaim, p *corev1.Pod) error {
	if claim.Status.Allocation == nil || claim.DeletionTimestamp != nil || reservedFor(claim, p) || len(claim.Status.ReservedFor) >= resourcev1.ResourceClaimReservedForMaxSize {
		return nil
	}
	_, err := control.SetStatus(ctx, c, resource.ResourceClaim, claim, func(claim *resourcev1.ResourceClaim) {
		claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p.Name, UID: p.UID})
	})
	return ignoreNotFound(err)
}

// usersOfClaim takes consumers that are gone or done out of a claim, and the devices
// with the last of them; then it lets the claim go, if it is to.
func usersOfClaim(ctx context.Context, c *control.Cluster, claim *resourcev1.ResourceClaim) error {
	var left []resourcev1.ResourceClaimConsumerReference
	for _, r := range claim.Status.ReservedFor {
		uses, err := stillUses(ctx, c, claim.Namespace, &r)
		if err != nil {
			return err
		}
		if uses {
			left = append(left, r)
		}
	}
	changed := len(left) < len(claim.Status.ReservedFor)
	idle := len(left) == 0 && (changed || claim.DeletionTimestamp != nil)
	if changed || idle && claim.Status.Allocation != nil {
		now, err := control.SetStatus(ctx, c, resource.ResourceClaim, claim, func(o *resourcev1.ResourceClaim) {
			o.Status.ReservedFor = left
			if idle {
				o.Status.Allocation, o.Status.Devices = nil, nil
			}
		})
		if err != nil {
			return ignoreNotFound(err)
		}
		claim = now
	}
	if idle && claim.Status.Allocation == nil && has(claim, resourcev1.Finalizer) {
		next := api.Clone(claim)
		next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
		now, err := resource.ResourceClaim.Update(ctx, c, next)
		if err != nil {
			return ignoreNotFound(err)
		}
		claim = now
	}
	if len(left) > 0 || claim.DeletionTimestamp != nil {
		return nil
	}
	ref := metav1.GetControllerOfNoCopy(claim)
	if ref == nil || ref.Kind != "Pod" || ref.APIVersion != "v1" {
		return nil
	}
	if p, ok := control.Get(c, core.Pod, claim.Namespace, ref.Name); ok && p.UID == ref.UID && podDone(p) {
		return ignoreNotFound(resource.ResourceClaim.Delete(ctx, c, claim.Namespace, claim.Name, api.Options{UID: &claim.UID}))
	}
	return nil
}

// stillUses says whether a consumer may use its claim. One that the watch does not
// have may be newer than what it has told.
func stillUses(ctx context.Context, c *control.Cluster, ns string, r *resourcev1.ResourceClaimConsumerReference) (bool, error) {
	if r.APIGroup != "" || r.Resource != core.Pod.Def().Resource {
		return true, nil // that is for whoever reserved it
	}
	p, ok := control.Get(c, core.Pod, ns, r.Name)
	if !ok || p.UID != r.UID {
		var err error
		if p, err = core.Pod.Get(ctx, c, ns, r.Name); apierrors.IsNotFound(err) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	return p.UID == r.UID && !podDone(p), nil
}
