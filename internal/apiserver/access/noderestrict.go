package access

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/internal/api"
	"proa/internal/apiserver/admit"
	"proa/internal/kinds/core"
)

// nodeRestriction looks at what nodes write, where [Nodes] cannot: it needs the
// objects (kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction).
var nodeRestriction = &admit.Step{
	Name: "NodeRestriction", For: []string{"pods", "nodes", "leases.coordination.k8s.io", "csinodes.storage.k8s.io"},
	Verbs: []api.Verb{api.Create, api.Update, api.Delete}, Subs: []string{"status"},
	Validate: func(_ context.Context, a *admit.Attributes) error {
		node, ok := nodeName(a.User)
		if !ok {
			return nil
		}
		if node == "" {
			return restricted(a, "could not determine node from user %q", a.User.Name)
		}
		switch a.Resource.Resource {
		case "pods":
			return restrictPod(node, a)
		case "nodes":
			return restrictNode(node, a)
		case "leases":
			return restrictLease(node, a)
		}
		if a.Name != node {
			return restricted(a, "can only access CSINode with the same name as the requesting node")
		}
		return nil
	},
}

func restricted(a *admit.Attributes, format string, args ...any) error {
	return apierrors.NewForbidden(a.Resource.GroupResource(), a.Name, fmt.Errorf(format, args...))
}

func restrictPod(node string, a *admit.Attributes) error {
	switch {
	case a.Verb == api.Create:
		return restrictPodCreate(node, a, a.New.(*corev1.Pod))
	case a.Verb == api.Delete:
		if a.Old.(*corev1.Pod).Spec.NodeName != node {
			return restricted(a, "node %q can only delete pods with spec.nodeName set to itself", node)
		}
	case a.Sub == "status":
		old, now := a.Old.(*corev1.Pod), a.New.(*corev1.Pod)
		switch {
		case old.Spec.NodeName != node:
			return restricted(a, "node %q can only update pod status for pods with spec.nodeName set to itself", node)
		case !equality.Semantic.DeepEqual(old.Labels, now.Labels):
			return restricted(a, "node %q cannot update labels through pod status", node)
		}
	default:
		return restricted(a, "unexpected operation UPDATE, node %q can only create and delete mirror pods", node)
	}
	return nil
}

// restrictPodCreate lets a node show the pods that only it knows, and no other.
func restrictPodCreate(node string, a *admit.Attributes, p *corev1.Pod) error {
	if p.Annotations[corev1.MirrorPodAnnotationKey] == "" {
		return restricted(a, "pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	}
	if p.Spec.NodeName != node {
		return restricted(a, "node %q can only create pods with spec.nodeName set to itself", node)
	}
	if len(p.OwnerReferences) > 1 {
		return restricted(a, "node %q can only create pods with a single owner reference set to itself", node)
	}
	for _, o := range p.OwnerReferences {
		switch {
		case o.APIVersion != "v1" || o.Kind != "Node" || o.Name != node:
			return restricted(a, "node %q can only create pods with an owner reference set to itself", node)
		case o.Controller == nil || !*o.Controller:
			return restricted(a, "node %q can only create pods with a controller owner reference set to itself", node)
		case o.BlockOwnerDeletion != nil && *o.BlockOwnerDeletion:
			return restricted(a, "node %q must not set blockOwnerDeletion on an owner reference", node)
		}
		if n := a.State.Get(corev1.Resource("nodes"), "", node); n == nil || n.GetUID() != o.UID {
			return restricted(a, "node %q UID mismatch: expected %q got %q", node, o.UID, uidOf(n))
		}
	}
	switch configMap := slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.ConfigMap != nil }); {
	case p.Spec.ServiceAccountName != "":
		return restricted(a, "node %q can not create pods that reference a service account", node)
	case len(secretsOf(p)) > 0:
		return restricted(a, "node %q can not create pods that reference secrets", node)
	case configMap:
		return restricted(a, "node %q can not create pods that reference configmaps", node)
	case len(p.Spec.ResourceClaims) > 0:
		return restricted(a, "node %q can not create pods that reference resourceclaims", node)
	case len(claimsOf(p)) > 0:
		return restricted(a, "node %q can not create pods that reference persistentvolumeclaims", node)
	}
	return nil
}

func uidOf(o api.Object) string {
	if o == nil {
		return ""
	}
	return string(o.GetUID())
}

func restrictNode(node string, a *admit.Attributes) error {
	if a.Name != node {
		return restricted(a, "node %q is not allowed to modify node %q", node, a.Name)
	}
	if a.New == nil {
		return nil
	}
	now := a.New.(*corev1.Node)
	old, update := a.Old.(*corev1.Node)
	if !update {
		if bad := keptLabels(nil, now.Labels); len(bad) > 0 {
			return restricted(a, "node %q is not allowed to set the following labels: %s", node, strings.Join(bad, ", "))
		}
		return nil
	}
	switch bad := keptLabels(old.Labels, now.Labels); {
	case !equality.Semantic.DeepEqual(old.Spec.Taints, now.Spec.Taints):
		return restricted(a, "node %q is not allowed to modify taints", node)
	case len(bad) > 0:
		return restricted(a, "is not allowed to modify labels: %s", strings.Join(bad, ", "))
	case !equality.Semantic.DeepEqual(old.OwnerReferences, now.OwnerReferences):
		return restricted(a, "node %q is not allowed to modify ownerReferences", node)
	}
	return nil
}

// freeLabels are the labels of Kubernetes' own domains that a node sets itself.
var freeLabels = []string{
	corev1.LabelHostname, corev1.LabelArchStable, corev1.LabelOSStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
	"beta.kubernetes.io/instance-type", corev1.LabelInstanceTypeStable, corev1.LabelTopologyZone, corev1.LabelTopologyRegion,
	"failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region", corev1.LabelWindowsBuild,
}

// keptLabels lists the labels that differ and that are not for nodes to set.
func keptLabels(old, now map[string]string) (bad []string) {
	check := func(k string) {
		if _, had := old[k]; had != hasKey(now, k) || old[k] != now[k] {
			if reserved(k) && !slices.Contains(bad, k) {
				bad = append(bad, k)
			}
		}
	}
	for k := range old {
		check(k)
	}
	for k := range now {
		check(k)
	}
	sort.Strings(bad)
	return bad
}

func hasKey(m map[string]string, k string) bool { _, ok := m[k]; return ok }

func reserved(label string) bool {
	domain, _, ok := strings.Cut(label, "/")
	in := func(d string) bool { return domain == d || strings.HasSuffix(domain, "."+d) }
	switch {
	case !ok || !in("kubernetes.io") && !in("k8s.io"):
		return false
	case in("kubelet.kubernetes.io"), in("node.kubernetes.io"):
		return false
	}
	return !slices.Contains(freeLabels, label)
}

func restrictLease(node string, a *admit.Attributes) error {
	if a.Namespace != corev1.NamespaceNodeLease {
		return restricted(a, "can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	}
	if l, ok := a.New.(*coordinationv1.Lease); a.Name != node || ok && l.Name != node {
		return restricted(a, "can only access node lease with the same name as the requesting node")
	}
	return nil
}

// mayIssue checks what a node asks a token for: a pod that runs on it, with the
// account, and for nobody but those the pod's volumes name.
func mayIssue(ctx context.Context, h api.Handler, r *api.Request, spec *authenticationv1.TokenRequestSpec, own []string) error {
	node, ok := nodeName(r.User)
	if !ok {
		return nil
	}
	refuse := func(format string, args ...any) error {
		return apierrors.NewForbidden(core.ServiceAccount.Def().GroupResource(), r.Name, fmt.Errorf(format, args...))
	}
	ref := spec.BoundObjectRef
	switch {
	case ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "":
		return refuse("node requested token not bound to a pod")
	case ref.UID == "":
		return refuse("node requested token with a pod binding without a uid")
	}
	p, err := core.Pod.Get(ctx, h, r.Namespace, ref.Name)
	switch {
	case apierrors.IsNotFound(err):
		return err
	case err != nil:
		return refuse("%v", err)
	case p.UID != ref.UID:
		return refuse("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	case p.Spec.NodeName != node:
		return refuse("node requested token bound to a pod scheduled on a different node")
	}
	for _, audience := range spec.Audiences {
		if !slices.Contains(own, audience) && !slices.Contains(audiencesOf(p), audience) {
			return refuse("audience %q not found in pod spec volume", audience)
		}
	}
	return nil
}

func audiencesOf(p *corev1.Pod) (out []string) {
	for i := range p.Spec.Volumes {
		if v := p.Spec.Volumes[i].Projected; v != nil {
			for _, s := range v.Sources {
				if s.ServiceAccountToken != nil {
					out = append(out, s.ServiceAccountToken.Audience)
				}
			}
		}
	}
	return out
}
