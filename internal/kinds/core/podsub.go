package core

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
)

// podSubs are the subresources of a pod. Those that stream are answered by the
// pod's node, which whoever starts the server knows how to reach.
func podSubs() map[string]*api.Sub {
	stream := func(verbs ...api.Verb) *api.Sub { return &api.Sub{Verbs: verbs, Connect: true} }
	return map[string]*api.Sub{
		"binding": {
			Verbs: []api.Verb{api.Create}, Kind: "Binding",
			In: func() api.Object { return new(corev1.Binding) },
			Do: bind,
		},
		"eviction": {
			Verbs: []api.Verb{api.Create}, API: "policy/v1", Kind: "Eviction",
			In: func() api.Object { return new(policyv1.Eviction) },
			Do: evict,
		},
		"log":         stream(api.Get),
		"exec":        {Verbs: []api.Verb{api.Create, api.Get}, Kind: "PodExecOptions", Connect: true},
		"attach":      {Verbs: []api.Verb{api.Create, api.Get}, Kind: "PodAttachOptions", Connect: true},
		"portforward": {Verbs: []api.Verb{api.Create, api.Get}, Kind: "PodPortForwardOptions", Connect: true},
		"proxy": {Verbs: []api.Verb{api.Create, api.Delete, api.Get, api.Patch, api.Update},
			Kind: "PodProxyOptions", Connect: true},
		"ephemeralcontainers": {Verbs: []api.Verb{api.Get, api.Patch, api.Update}, Part: podEphemeral},
		"resize":              {Verbs: []api.Verb{api.Get, api.Patch, api.Update}, Part: podResize},
	}
}

// bind answers pods/binding: it gives a pod to a node, once.
func bind(ctx context.Context, env api.Env, r *api.Request) (*api.Response, error) {
	b, ok := r.Object.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("a Binding is needed, not %T", r.Object))
	}
	name := r.Name
	if b.Name != "" && b.Name != name {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("name in URL does not match name in Binding object (%s vs. %s)", name, b.Name))
	}
	if errs := validateBinding(b); len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Binding").GroupKind(), name, errs)
	}
	to := *r
	to.Sub, to.Object, to.Body = "", nil, nil
	_, err := env.Mutate(ctx, &to, func(old api.Object) (api.Object, error) { return bound(old.(*corev1.Pod), b) })
	if err != nil {
		return nil, err
	}
	return created(), nil
}

// bound changes pod as b asks, or says why that cannot be.
func bound(pod *corev1.Pod, b *corev1.Binding) (*corev1.Pod, error) {
	refuse := func(format string, args ...any) error {
		return apierrors.NewConflict(corev1.Resource("pods/binding"), pod.Name, fmt.Errorf(format, args...))
	}
	var uid *types.UID
	var version *string
	if b.UID != "" {
		uid = &b.UID
	}
	if b.ResourceVersion != "" {
		version = &b.ResourceVersion
	}
	if err := precondition("pods/binding", pod, uid, version); err != nil {
		return nil, err
	}
	switch {
	case pod.DeletionTimestamp != nil:
		return nil, refuse("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return nil, refuse("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) > 0:
		return nil, refuse("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	pod.Spec.NodeName = b.Target.Name
	pod.Status.NominatedNodeName = "" // it is to come nowhere any more
	pod.Annotations = merged(pod.Annotations, b.Annotations)
	pod.Labels = merged(pod.Labels, b.Labels)
	setPodCondition(pod, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation})
	return pod, nil
}

// merged is a map of both; dst stays as it is.
func merged(dst, src map[string]string) map[string]string {
	if len(src) == 0 {
		return dst
	}
	out := maps.Clone(dst)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, src)
	return out
}

// setPodCondition adds or replaces a condition; its transition time is now if its status is new.
func setPodCondition(pod *corev1.Pod, c corev1.PodCondition) {
	c.LastTransitionTime = metav1.Now()
	pod.Status.Conditions = slices.Clone(pod.Status.Conditions) // others may share them
	for i, have := range pod.Status.Conditions {
		if have.Type == c.Type {
			if have.Status == c.Status {
				c.LastTransitionTime = have.LastTransitionTime
			}
			pod.Status.Conditions[i] = c
			return
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, c)
}

// precondition is the conflict between a pod and what was asked of its uid and
// version, if there is one.
func precondition(resource string, p *corev1.Pod, uid *types.UID, version *string) error {
	var err error
	switch {
	case uid != nil && *uid != p.UID:
		err = fmt.Errorf("the uid in the precondition (%v) is not the uid in the record (%v)", *uid, p.UID)
	case version != nil && *version != p.ResourceVersion:
		err = fmt.Errorf("the resourceVersion in the precondition (%v) is not the one in the record (%v)", *version, p.ResourceVersion)
	default:
		return nil
	}
	return apierrors.NewConflict(corev1.Resource(resource), p.Name, err)
}

// created is the answer to a create that makes nothing to show.
func created() *api.Response {
	return &api.Response{Code: http.StatusCreated, Status: &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusSuccess, Code: http.StatusCreated,
	}}
}
