package access

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/component-helpers/auth/rbac/validation"

	"proa/internal/api"
	"proa/internal/apiserver/admit"
)

// Some writes cannot be judged by their path alone: an update or an apply that
// turns out to create, and a role or binding, by which nobody may give a right
// that he does not hold. The admission steps of [RBAC.Steps] judge these, where
// old and new object are known. They judge what [Authorize] let pass, and
// nothing else: what runs in the server's process is not judged.

type judgedKey struct{}

// A judged is a request that passed Authorize.
type judged struct {
	r  *api.Request
	by Authorizer
}

// Steps returns the admission steps that judge by the object.
func (r *RBAC) Steps() []*admit.Step {
	return append([]*admit.Step{
		{Name: "CreatePermission", For: []string{"*"}, Verbs: []api.Verb{api.Create}, Admit: mayCreate},
		nodeRestriction,
		{Name: "RBACEscalation", For: kindsOfGrants, Verbs: []api.Verb{api.Create, api.Update}, Validate: r.mayGrant},
	}, signerSteps()...)
}

var kindsOfGrants = []string{
	"roles.rbac.authorization.k8s.io", "clusterroles.rbac.authorization.k8s.io",
	"rolebindings.rbac.authorization.k8s.io", "clusterrolebindings.rbac.authorization.k8s.io",
}

// mayCreate asks for the verb create when another verb creates.
func mayCreate(ctx context.Context, a *admit.Attributes) error {
	j, ok := ctx.Value(judgedKey{}).(judged)
	if !ok || j.r.Verb == api.Create && j.r.Resource == a.Resource && j.r.Sub == "" {
		return nil
	}
	q := Attributes{User: a.User, Verb: string(api.Create), Group: a.Resource.Group, Resource: a.Resource.Resource,
		Namespace: a.Namespace, Name: a.Name}
	if ok, reason := j.by.Authorize(ctx, q); !ok {
		return q.forbidden(reason)
	}
	return nil
}

// authority is what an aggregation rule asks for, because it may gather anything.
var authority = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

// mayGrant refuses a role or binding that gives rights which its writer does not
// hold, unless he holds the verb escalate on the role, or bind on the role bound
// (kubernetes.io/docs/reference/access-authn-authz/rbac).
func (r *RBAC) mayGrant(ctx context.Context, a *admit.Attributes) error {
	j, ok := ctx.Value(judgedKey{}).(judged)
	if !ok || a.User.In(api.GroupMasters) || sameGrant(a.Old, a.New) {
		return nil
	}
	q := Attributes{User: a.User, Group: rbacv1.GroupName, Namespace: a.Namespace}
	var rules []rbacv1.PolicyRule
	switch o := a.New.(type) {
	case *rbacv1.Role:
		q.Verb, q.Resource, q.Name, rules = "escalate", "roles", o.Name, o.Rules
	case *rbacv1.ClusterRole:
		q.Verb, q.Resource, q.Name, rules = "escalate", "clusterroles", o.Name, o.Rules
		old, _ := a.Old.(*rbacv1.ClusterRole)
		if o.AggregationRule != nil || old != nil && old.AggregationRule != nil {
			rules = slices.Concat(rules, authority)
		}
	case *rbacv1.RoleBinding:
		q.Verb, q.Name = "bind", o.RoleRef.Name
		q.Resource = "clusterroles"
		if o.RoleRef.Kind == "Role" {
			q.Resource = "roles"
		}
	case *rbacv1.ClusterRoleBinding:
		q.Verb, q.Resource, q.Name = "bind", "clusterroles", o.RoleRef.Name
	default:
		return apierrors.NewInternalError(fmt.Errorf("judge a grant by a %T", a.New))
	}
	if ok, _ := j.by.Authorize(ctx, q); ok {
		return nil
	}
	if q.Verb == "bind" {
		var err error
		if rules, err = bindable(a, q.Resource, q.Name); err != nil {
			return err
		}
	}
	held, missing := validation.Covers(r.Rules(a.User, a.Namespace), rules)
	if held {
		return nil
	}
	return apierrors.NewForbidden(a.Resource.GroupResource(), a.Name, fmt.Errorf(
		"user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s", a.User.Name, a.User.Groups, inWords(missing)))
}

// bindable returns the rules of a role that is to be bound.
func bindable(a *admit.Attributes, resource, name string) ([]rbacv1.PolicyRule, error) {
	gr, ns := schema.GroupResource{Group: rbacv1.GroupName, Resource: resource}, ""
	if resource == "roles" {
		ns = a.Namespace
	}
	switch o := a.State.Get(gr, ns, name).(type) {
	case *rbacv1.Role:
		return o.Rules, nil
	case *rbacv1.ClusterRole:
		return o.Rules, nil
	}
	return nil, apierrors.NewNotFound(gr, name)
}

// sameGrant says whether an update leaves alone what is granted and to whom.
// Labels count: by them rules are gathered into other roles.
func sameGrant(old, new api.Object) bool {
	switch n := new.(type) {
	case *rbacv1.Role:
		o, ok := old.(*rbacv1.Role)
		return ok && equality.Semantic.DeepEqual(o.Rules, n.Rules)
	case *rbacv1.ClusterRole:
		o, ok := old.(*rbacv1.ClusterRole)
		return ok && equality.Semantic.DeepEqual(o.Rules, n.Rules) && equality.Semantic.DeepEqual(o.Labels, n.Labels) &&
			equality.Semantic.DeepEqual(o.AggregationRule, n.AggregationRule)
	case *rbacv1.RoleBinding:
		o, ok := old.(*rbacv1.RoleBinding)
		return ok && o.RoleRef == n.RoleRef && equality.Semantic.DeepEqual(o.Subjects, n.Subjects)
	case *rbacv1.ClusterRoleBinding:
		o, ok := old.(*rbacv1.ClusterRoleBinding)
		return ok && o.RoleRef == n.RoleRef && equality.Semantic.DeepEqual(o.Subjects, n.Subjects)
	}
	return false
}

// inWords lists rules the way kubectl's users know them.
func inWords(rules []rbacv1.PolicyRule) string {
	var lines []string
	for i := range rules {
		var parts []string
		for _, p := range []struct {
			name string
			list []string
		}{
			{"APIGroups", rules[i].APIGroups}, {"Resources", rules[i].Resources}, {"ResourceNames", rules[i].ResourceNames},
			{"NonResourceURLs", rules[i].NonResourceURLs}, {"Verbs", rules[i].Verbs},
		} {
			if len(p.list) > 0 {
				parts = append(parts, fmt.Sprintf("%s:%q", p.name, p.list))
			}
		}
		lines = append(lines, "{"+strings.Join(parts, ", ")+"}")
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "\n")
}

// upgradeVerb is the further verb that some reads need: a WebSocket into a pod
// begins with a GET, and is yet no reading.
func upgradeVerb(a Attributes) (Attributes, bool) {
	into := a.Verb == string(api.Get) && a.Group == "" && a.Resource == "pods" && (a.Sub == "exec" || a.Sub == "attach" || a.Sub == "portforward")
	a.Verb = string(api.Create)
	return a, into
}
