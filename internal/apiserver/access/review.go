package access

import (
	"context"
	"fmt"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
)

// Subs answers the access reviews, in the form the API server takes them.
func (r *RBAC) Subs() map[string]api.SubFunc {
	return map[string]api.SubFunc{
		"subjectaccessreviews.authorization.k8s.io":      r.subjectAccess,
		"localsubjectaccessreviews.authorization.k8s.io": r.localAccess,
		"selfsubjectaccessreviews.authorization.k8s.io":  r.selfAccess,
		"selfsubjectrulesreviews.authorization.k8s.io":   r.selfRules,
	}
}

func (r *RBAC) subjectAccess(ctx context.Context, _ api.Env, q *api.Request) (*api.Response, error) {
	in, ok := q.Object.(*authorizationv1.SubjectAccessReview)
	if !ok {
		return nil, wrongBody("SubjectAccessReview", q)
	}
	out := in.DeepCopy()
	status, err := r.decide(ctx, "SubjectAccessReview", &out.Spec)
	out.Status = status
	return &api.Response{Code: 201, Object: out}, err
}

func (r *RBAC) localAccess(ctx context.Context, _ api.Env, q *api.Request) (*api.Response, error) {
	in, ok := q.Object.(*authorizationv1.LocalSubjectAccessReview)
	if !ok {
		return nil, wrongBody("LocalSubjectAccessReview", q)
	}
	out := in.DeepCopy()
	switch a := out.Spec.ResourceAttributes; {
	case a == nil:
		return nil, invalid("LocalSubjectAccessReview", field.Invalid(field.NewPath("spec", "resourceAttributes"), nil, "must be specified: nonResourceAttributes are not local"))
	case a.Namespace == "":
		a.Namespace = q.Namespace
	case a.Namespace != q.Namespace:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("spec.resourceAttributes.namespace must match namespace: %v", q.Namespace))
	}
	status, err := r.decide(ctx, "LocalSubjectAccessReview", &out.Spec)
	out.Status = status
	return &api.Response{Code: 201, Object: out}, err
}

func (r *RBAC) selfAccess(ctx context.Context, _ api.Env, q *api.Request) (*api.Response, error) {
	in, ok := q.Object.(*authorizationv1.SelfSubjectAccessReview)
	if !ok {
		return nil, wrongBody("SelfSubjectAccessReview", q)
	}
	out := in.DeepCopy()
	spec := authorizationv1.SubjectAccessReviewSpec{
		ResourceAttributes: in.Spec.ResourceAttributes, NonResourceAttributes: in.Spec.NonResourceAttributes,
		User: q.User.Name, Groups: q.User.Groups, UID: q.User.UID, Extra: map[string]authorizationv1.ExtraValue{},
	}
	for k, v := range q.User.Extra {
		spec.Extra[k] = v
	}
	status, err := r.decide(ctx, "SelfSubjectAccessReview", &spec)
	out.Status = status
	return &api.Response{Code: 201, Object: out}, err
}

func (r *RBAC) decide(ctx context.Context, kind string, s *authorizationv1.SubjectAccessReviewSpec) (st authorizationv1.SubjectAccessReviewStatus, err error) {
	path := field.NewPath("spec")
	switch {
	case s.ResourceAttributes != nil && s.NonResourceAttributes != nil:
		return st, invalid(kind, field.Invalid(path.Child("nonResourceAttributes"), s.NonResourceAttributes, "cannot be specified in combination with resourceAttributes"))
	case s.ResourceAttributes == nil && s.NonResourceAttributes == nil:
		return st, invalid(kind, field.Invalid(path.Child("resourceAttributes"), s.ResourceAttributes, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	case s.User == "" && len(s.Groups) == 0:
		return st, invalid(kind, field.Invalid(path.Child("user"), s.User, "at least one of user or group must be specified"))
	}
	a := Attributes{User: api.User{Name: s.User, UID: s.UID, Groups: s.Groups, Extra: map[string][]string{}}}
	for k, v := range s.Extra {
		a.User.Extra[strings.ToLower(k)] = v
	}
	if x := s.ResourceAttributes; x != nil {
		a.Verb, a.Namespace, a.Group, a.Resource, a.Sub, a.Name = x.Verb, x.Namespace, x.Group, x.Resource, x.Subresource, x.Name
		if st.EvaluationError, err = a.selectors(x); err != nil {
			return st, err
		}
	} else {
		a.Verb, a.Path = s.NonResourceAttributes.Verb, s.NonResourceAttributes.Path
	}
	st.Allowed, st.Reason = r.judge().Authorize(ctx, a)
	return st, nil
}

// selectors takes over the selectors that a review is about. What cannot be
// understood of them narrows nothing, and is told.
func (a *Attributes) selectors(x *authorizationv1.ResourceAttributes) (problem string, err error) {
	if f := x.FieldSelector; f != nil {
		if f.RawSelector != "" {
			if a.Fields, err = fields.ParseSelector(f.RawSelector); err != nil {
				return err.Error(), nil
			}
		}
		var all []fields.Selector
		for _, q := range f.Requirements {
			switch {
			case q.Operator == metav1.FieldSelectorOpIn && len(q.Values) == 1:
				all = append(all, fields.OneTermEqualSelector(q.Key, q.Values[0]))
			case q.Operator == metav1.FieldSelectorOpNotIn && len(q.Values) == 1:
				all = append(all, fields.OneTermNotEqualSelector(q.Key, q.Values[0]))
			default:
				problem = fmt.Sprintf("fieldSelector.requirements: operator %q with %d values is not supported", q.Operator, len(q.Values))
			}
		}
		if len(all) > 0 {
			a.Fields = fields.AndSelectors(all...)
		}
	}
	if l := x.LabelSelector; l != nil {
		if l.RawSelector != "" {
			if a.Labels, err = labels.Parse(l.RawSelector); err != nil {
				return err.Error(), nil
			}
		}
		if len(l.Requirements) > 0 {
			sel, err := metav1.LabelSelectorAsSelector(&metav1.LabelSelector{MatchExpressions: l.Requirements})
			if err != nil {
				return err.Error(), nil
			}
			a.Labels = sel
		}
	}
	return problem, nil
}

// judge is who decides: all authorizers, if the server was told of more than the roles.
func (r *RBAC) judge() Authorizer {
	if r.All != nil {
		return r.All
	}
	return r
}

func (r *RBAC) selfRules(_ context.Context, _ api.Env, q *api.Request) (*api.Response, error) {
	in, ok := q.Object.(*authorizationv1.SelfSubjectRulesReview)
	if !ok {
		return nil, wrongBody("SelfSubjectRulesReview", q)
	}
	if in.Spec.Namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	out := in.DeepCopy()
	out.Status = authorizationv1.SubjectRulesReviewStatus{
		ResourceRules:    []authorizationv1.ResourceRule{},
		NonResourceRules: []authorizationv1.NonResourceRule{},
	}
	if _, is := nodeName(q.User); is {
		out.Status.Incomplete, out.Status.EvaluationError = true, "node authorizer does not support user rule resolution"
	}
	for _, rule := range r.Rules(q.User, in.Spec.Namespace) {
		addRule(&out.Status, rule)
	}
	return &api.Response{Code: 201, Object: out}, nil
}

func addRule(st *authorizationv1.SubjectRulesReviewStatus, rule rbacv1.PolicyRule) {
	if len(rule.Resources) > 0 {
		st.ResourceRules = append(st.ResourceRules, authorizationv1.ResourceRule{
			Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames})
	}
	if len(rule.NonResourceURLs) > 0 {
		st.NonResourceRules = append(st.NonResourceRules, authorizationv1.NonResourceRule{
			Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
	}
}

func invalid(kind string, err *field.Error) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: "authorization.k8s.io", Kind: kind}, "", field.ErrorList{err})
}

func wrongBody(kind string, q *api.Request) error {
	return apierrors.NewBadRequest(fmt.Sprintf("the body must be a %s, not %T", kind, q.Object))
}
