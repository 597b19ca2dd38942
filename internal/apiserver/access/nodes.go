package access

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// Nodes lets a node do what it needs for the pods that are bound to it, and
// nothing else (kubernetes.io/docs/reference/access-authn-authz/node): read the
// secrets, config maps, claims and volumes that these pods use, ask for tokens of
// their service accounts, and write its own Node, Lease and CSINode. What is no
// matter of single objects is in [nodeRules]. Whether an object is one that a pod
// of the node uses is looked up in the present state, by the index of pods by node.
type Nodes struct {
	Handler api.Handler // reads pods, claims and volumes
}

// nodeName is the node that a user is, if it is one.
func nodeName(u api.User) (name string, is bool) {
	if !u.In(api.GroupNodes) {
		return "", false
	}
	return strings.CutPrefix(u.Name, "system:node:")
}

// Either allows what one of several allows, asked in turn. The reasons of the others are joined.
func Either(list ...Authorizer) Authorizer { return either(list) }

type either []Authorizer

// Authorize implements [Authorizer].
func (e either) Authorize(ctx context.Context, a Attributes) (bool, string) {
	var reasons []string
	for _, by := range e {
		ok, reason := by.Authorize(ctx, a)
		if ok {
			return true, reason
		}
		if reason != "" {
			reasons = append(reasons, reason)
		}
	}
	return false, strings.Join(reasons, ", ")
}

// Authorize implements [Authorizer].
func (n *Nodes) Authorize(ctx context.Context, a Attributes) (bool, string) {
	node, ok := nodeName(a.User)
	if !ok {
		return false, ""
	}
	if node == "" {
		return false, fmt.Sprintf("unknown node for user %q", a.User.Name)
	}
	if a.Resource == "" {
		return n.byRules(a)
	}
	key := a.Resource
	if a.Group != "" {
		key += "." + a.Group
	}
	if judge := nodeJudges[key]; judge != nil {
		return judge(ctx, n, node, a)
	}
	return n.byRules(a)
}

var plainNodeRules = nodeRules()

func (n *Nodes) byRules(a Attributes) (bool, string) {
	for i := range plainNodeRules {
		if allows(&plainNodeRules[i], &a) {
			return true, ""
		}
	}
	return false, ""
}

// A judge decides about one resource.
type judge func(ctx context.Context, n *Nodes, node string, a Attributes) (bool, string)

var nodeJudges = map[string]judge{
	"secrets": reading(usesSecret),
	"configmaps": reading(func(_ context.Context, _ *Nodes, p *corev1.Pod, a Attributes) bool {
		return p.Namespace == a.Namespace && usesConfigMap(p, a.Name)
	}),
	"persistentvolumeclaims": claimJudge,
	"persistentvolumes":      getting(usesVolume),
	"resourceclaims.resource.k8s.io": getting(func(_ context.Context, _ *Nodes, p *corev1.Pod, a Attributes) bool {
		return p.Namespace == a.Namespace && usesResourceClaim(p, a.Name)
	}),
	"volumeattachments.storage.k8s.io": attachmentJudge,
	"serviceaccounts":                  accountJudge,
	"leases.coordination.k8s.io":       leaseJudge,
	"csinodes.storage.k8s.io":          ownNamed,
	"resourceslices.resource.k8s.io":   sliceJudge,
	"nodes":                            nodeJudge,
	"pods":                             podJudge,
}

// A uses says whether a pod needs what the attributes name.
type uses func(ctx context.Context, n *Nodes, p *corev1.Pod, a Attributes) bool

// reading allows get, list and watch of one object in a namespace that a pod of the node uses.
func reading(by uses) judge {
	return func(ctx context.Context, n *Nodes, node string, a Attributes) (bool, string) {
		switch {
		case !slices.Contains([]string{"get", "list", "watch"}, a.Verb):
			return false, "can only read resources of this type"
		case a.Sub != "":
			return false, "cannot read subresource"
		case a.Namespace == "":
			return false, "can only read namespaced object of this type"
		}
		return n.related(ctx, node, a, by)
	}
}

// getting allows get of one object that a pod of the node uses.
func getting(by uses) judge {
	return func(ctx context.Context, n *Nodes, node string, a Attributes) (bool, string) {
		switch {
		case a.Verb != "get":
			return false, "can only get individual resources of this type"
		case a.Sub != "":
			return false, "cannot get subresource"
		}
		return n.related(ctx, node, a, by)
	}
}

func (n *Nodes) related(ctx context.Context, node string, a Attributes, by uses) (bool, string) {
	if a.Name == "" {
		return false, "No Object name found"
	}
	for _, p := range n.pods(ctx, node, "") {
		if by(ctx, n, p, a) {
			return true, ""
		}
	}
	return false, noRelation(node)
}

func noRelation(node string) string {
	return fmt.Sprintf("no relationship found between node '%s' and this object", node)
}

// pods are the pods bound to a node that have not ended.
func (n *Nodes) pods(ctx context.Context, node, ns string) (out []*corev1.Pod) {
	all, err := core.Pod.List(ctx, n.Handler, ns, api.WithField("spec.nodeName", node))
	if err != nil {
		return nil
	}
	for _, p := range all {
		if !core.PodFinished(p) {
			out = append(out, p)
		}
	}
	return out
}

func claimJudge(ctx context.Context, n *Nodes, node string, a Attributes) (bool, string) {
	by := func(_ context.Context, _ *Nodes, p *corev1.Pod, a Attributes) bool {
		return p.Namespace == a.Namespace && slices.Contains(claimsOf(p), a.Name)
	}
	if a.Sub != "status" {
		return getting(by)(ctx, n, node, a)
	}
	if a.Verb != "update" && a.Verb != "patch" {
		return false, "can only get/update/patch this type"
	}
	return n.related(ctx, node, a, by)
}

func attachmentJudge(ctx context.Context, n *Nodes, node string, a Attributes) (bool, string) {
	if a.Verb != "get" || a.Sub != "" || a.Name == "" {
		return false, "can only get individual resources of this type"
	}
	v, err := attachment(ctx, n.Handler, a.Name)
	if err != nil || v.Spec.NodeName != node {
		return false, noRelation(node)
	}
	return true, ""
}

func accountJudge(ctx context.Context, n *Nodes, node string, a Attributes) (bool, string) {
	runs := func(_ context.Context, _ *Nodes, p *corev1.Pod, a Attributes) bool {
		return p.Namespace == a.Namespace && p.Spec.ServiceAccountName == a.Name
	}
	switch {
	case a.Sub == "":
		return getting(runs)(ctx, n, node, a)
	case a.Sub != "token" || a.Verb != "create":
		return false, "can only create tokens for individual service accounts"
	}
	return n.related(ctx, node, a, runs)
}

func leaseJudge(_ context.Context, _ *Nodes, node string, a Attributes) (bool, string) {
	switch {
	case !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, a.Verb):
		return false, "can only get, create, update, patch, or delete a node lease"
	case a.Namespace != corev1.NamespaceNodeLease:
		return false, fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	case a.Verb != "create" && a.Name != node:
		return false, "can only access node lease with the same name as the requesting node"
	}
	return true, ""
}

// ownNamed allows all but listing of the object that is named like the node.
func ownNamed(_ context.Context, _ *Nodes, node string, a Attributes) (bool, string) {
	switch {
	case !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, a.Verb):
		return false, "can only get, create, update, patch, or delete a CSINode"
	case a.Sub != "":
		return false, "cannot authorize CSINode subresources"
	case a.Verb != "create" && a.Name != node:
		return false, "can only access CSINode with the same name as the requesting node"
	}
	return true, ""
}

func sliceJudge(_ context.Context, _ *Nodes, node string, a Attributes) (bool, string) {
	if a.Sub != "" {
		return false, "cannot authorize ResourceSlice subresources"
	}
	switch a.Verb {
	case "create":
		return true, "" // whose it is, NodeRestriction looks at
	case "list", "watch", "deletecollection":
		if a.field("spec.nodeName") == node {
			return true, ""
		}
		return false, "can only list/watch/deletecollection resourceslices with nodeName field selector"
	}
	return false, noRelation(node)
}

func nodeJudge(_ context.Context, _ *Nodes, node string, a Attributes) (bool, string) {
	switch {
	case a.Sub == "" && a.Verb == "create":
		return true, "" // which one, NodeRestriction looks at
	case a.Sub == "" && slices.Contains([]string{"get", "list", "watch", "update", "patch"}, a.Verb),
		a.Sub == "status" && (a.Verb == "update" || a.Verb == "patch"):
		if a.Name == node {
			return true, ""
		}
		return false, fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, a.Name)
	}
	return false, ""
}

func podJudge(ctx context.Context, n *Nodes, node string, a Attributes) (bool, string) {
	mine := func() (bool, string) {
		if p, err := core.Pod.Get(ctx, n.Handler, a.Namespace, a.Name); err == nil && p.Spec.NodeName == node {
			return true, ""
		}
		return false, noRelation(node)
	}
	switch {
	case a.Sub == "" && a.Verb == "create", a.Sub == "" && a.Verb == "delete":
		return true, "" // which ones, NodeRestriction looks at
	case a.Sub == "" && a.Verb == "get":
		return mine()
	case a.Sub == "" && (a.Verb == "list" || a.Verb == "watch"):
		if a.field("spec.nodeName") == node {
			return true, ""
		}
		if a.Name != "" {
			return mine()
		}
		return false, "can only list/watch pods with spec.nodeName field selector"
	case a.Sub == "status" && (a.Verb == "update" || a.Verb == "patch"):
		return true, "" // which ones, NodeRestriction looks at
	case a.Sub == "eviction" && a.Verb == "create":
		return mine()
	}
	return false, ""
}

// nodeRules is what every node may do besides.
func nodeRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule("create", "authentication.k8s.io", "tokenreviews"),
		rule("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
		rule(reads, "core", "services"),
		rule("create patch update", "core events.k8s.io", "events"),
		rule(reads, "node.k8s.io", "runtimeclasses"),
		rule(reads, "storage.k8s.io", "csidrivers"),
		rule("create "+reads, "certificates.k8s.io", "certificatesigningrequests podcertificaterequests"),
		rule(reads, "certificates.k8s.io", "clustertrustbundles"),
		rule("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
		rule("create", "authentication.k8s.io", "selfsubjectreviews"),
	}
}
