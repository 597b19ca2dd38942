package controllers

import (
	"context"
	"errors"
	"fmt"
	"math"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
)

// A need is how many pods a budget is about, and how many of them must be healthy.
type need struct {
	expected, healthy int32
	unmanaged         int // pods that nothing controls, where the controllers' numbers count
}

// unanswered is that the server did not say what a controller wants.
type unanswered struct{ error }

func (e unanswered) Unwrap() error { return e.error }

// need works out what a budget asks for. A number of pods that must be available
// is just that; anything else is relative to what the pods' controllers want.
func (d *disruption) need(ctx context.Context, c *control.Cluster, b *policyv1.PodDisruptionBudget, pods []*corev1.Pod) (n need, err error) {
	least, most := b.Spec.MinAvailable, b.Spec.MaxUnavailable
	switch {
	case most == nil && least == nil:
		return n, nil
	case most == nil && least.Type == intstr.Int:
		return need{expected: int32(len(pods)), healthy: least.IntVal}, nil
	}
	if n.expected, n.unmanaged, err = d.expected(ctx, c, b.Namespace, pods); err != nil {
		return n, err
	}
	if most == nil {
		healthy, err := intstr.GetScaledValueFromIntOrPercent(least, int(n.expected), true)
		n.healthy = int32(healthy)
		return n, err
	}
	lost, err := intstr.GetScaledValueFromIntOrPercent(most, int(n.expected), true)
	n.healthy = int32(max(int(n.expected)-lost, 0))
	return n, err
}

// expected adds up how many pods the controllers of pods want.
func (d *disruption) expected(ctx context.Context, c *control.Cluster, ns string, pods []*corev1.Pod) (sum int32, unmanaged int, err error) {
	asked := map[types.UID]bool{}
	wanted := map[types.UID]int32{}
	for _, p := range pods {
		ref := metav1.GetControllerOfNoCopy(p)
		if ref == nil {
			unmanaged++
			continue
		}
		if asked[ref.UID] {
			continue
		}
		asked[ref.UID] = true
		uid, n, err := d.wanted(ctx, c, ns, ref)
		if err != nil {
			return 0, 0, err
		}
		if uid == "" {
			return 0, 0, fmt.Errorf("found no controllers for pod %q", p.Name)
		}
		wanted[uid] = n
	}
	total := int64(0)
	for _, n := range wanted {
		total += int64(n)
	}
	return int32(min(total, math.MaxInt32)), unmanaged, nil
}

// wanted is how many pods a controller wants, and who says so: for a replica
// set of a deployment the deployment. There is no UID if there is no such controller.
func (d *disruption) wanted(ctx context.Context, c *control.Cluster, ns string, ref *metav1.OwnerReference) (types.UID, int32, error) {
	r, err := d.kindOf(ref)
	if err != nil {
		return "", 0, err
	}
	switch r {
	case apps.ReplicaSet.Def():
		return replicaSetWants(c, ns, ref)
	case core.ReplicationController.Def(), apps.StatefulSet.Def():
		o, ok := c.Find(r, ns, ref.Name)
		if !ok || o.GetUID() != ref.UID {
			return "", 0, nil
		}
		return o.GetUID(), *r.Scale.Want(o), nil
	}
	if r.Scale == nil || r.Scope != api.Namespaced {
		return "", 0, fmt.Errorf("%s does not implement the scale subresource", r.GroupVersionResource.GroupResource())
	}
	resp, err := c.Handle(ctx, &api.Request{Verb: api.Get, Resource: r, Namespace: ns, Name: ref.Name, Sub: "scale"})
	if apierrors.IsNotFound(err) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, unanswered{err}
	}
	scale, ok := resp.Object.(*autoscalingv1.Scale)
	if !ok {
		return "", 0, apierrors.NewInternalError(errors.New("what answered for the scale of a " + r.Kind + " is none"))
	}
	if scale.UID != ref.UID {
		return "", 0, nil
	}
	return scale.UID, scale.Spec.Replicas, nil
}

func replicaSetWants(c *control.Cluster, ns string, ref *metav1.OwnerReference) (types.UID, int32, error) {
	rs, ok := control.Get(c, apps.ReplicaSet, ns, ref.Name)
	if !ok || rs.UID != ref.UID {
		return "", 0, nil
	}
	if by := deploymentRef(rs); by != nil {
		if dep, ok := control.Get(c, apps.Deployment, ns, by.Name); ok && dep.UID == by.UID {
			return dep.UID, *dep.Spec.Replicas, nil
		}
	}
	return rs.UID, *rs.Spec.Replicas, nil
}

// deploymentRef returns the reference to the deployment that controls a replica set, or nil.
func deploymentRef(rs *appsv1.ReplicaSet) *metav1.OwnerReference {
	ref := metav1.GetControllerOfNoCopy(rs)
	if ref == nil || ref.Kind != apps.Deployment.Def().Kind {
		return nil
	}
	if gv, err := schema.ParseGroupVersion(ref.APIVersion); err != nil || gv.Group != appsv1.GroupName {
		return nil
	}
	return ref
}

// kindOf is the kind that a reference speaks of.
func (d *disruption) kindOf(ref *metav1.OwnerReference) (*api.Resource, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, err
	}
	if r := d.kinds.ofKind(gv.Group, ref.Kind); r != nil && r.Version == gv.Version {
		return r, nil
	} else if r != nil && r.Family != nil && r.Family.In(gv.Version) != nil {
		return r.Family.In(gv.Version), nil
	}
	return nil, &meta.NoKindMatchError{GroupKind: gv.WithKind(ref.Kind).GroupKind(), SearchedVersions: []string{gv.Version}}
}
