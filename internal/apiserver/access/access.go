// Package access decides who asks and what they may do: it authenticates client
// certificates and service account tokens, evaluates RBAC, answers the review
// kinds, issues tokens, and holds Kubernetes' default roles.
package access

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
)

// Attributes is what a decision looks at: one verb on one resource, or on one path.
type Attributes struct {
	User      api.User
	Verb      string
	Namespace string
	Group     string
	Resource  string
	Sub       string
	Name      string
	Path      string // of a non-resource request; then Resource is empty

	Fields fields.Selector // of a list, watch or deletecollection; may be nil
	Labels labels.Selector // likewise
}

// field is the one value that the field selector lets a field have, or empty.
func (a *Attributes) field(name string) string {
	if a.Fields == nil {
		return ""
	}
	v, _ := a.Fields.RequiresExactMatch(name)
	return v
}

// An Authorizer decides. The reason is for the user, and may be empty.
type Authorizer interface {
	Authorize(ctx context.Context, a Attributes) (allowed bool, reason string)
}

// Authorize returns a Handler that passes on to h what may be done and answers
// everything else with 403. What depends on the object is judged later, by
// [RBAC.Steps].
func Authorize(h api.Handler, by Authorizer) api.Handler {
	return api.HandlerFunc(func(ctx context.Context, r *api.Request) (*api.Response, error) {
		a := AttributesOf(r)
		if ok, reason := by.Authorize(ctx, a); !ok {
			return nil, a.forbidden(reason)
		}
		if a, into := upgradeVerb(a); into {
			if ok, reason := by.Authorize(ctx, a); !ok {
				return nil, a.forbidden(reason)
			}
		}
		if r.Verb.Writes() {
			ctx = context.WithValue(ctx, judgedKey{}, judged{r, by})
		}
		return h.Handle(ctx, r)
	})
}

// AttributesOf is what a request is judged by.
func AttributesOf(r *api.Request) Attributes {
	a := Attributes{User: r.User, Verb: string(r.Verb), Path: r.Path}
	if r.Resource == nil {
		return a
	}
	a.Path, a.Namespace, a.Name, a.Sub = "", r.Namespace, r.Name, r.Sub
	a.Group, a.Resource = r.Resource.Group, r.Resource.Resource
	if a.Resource == "namespaces" && a.Group == "" && a.Namespace == "" {
		a.Namespace = r.Name // a role inside a namespace may be about the namespace itself
	}
	if r.Verb == api.Create && r.Sub == "" {
		// The name in a body is not known to those who judge by path.
		a.Name = ""
		if a.Resource == "namespaces" {
			a.Namespace = ""
		}
	}
	if r.Verb == api.List || r.Verb == api.Watch || r.Verb == api.DeleteCollection {
		a.Fields, a.Labels = r.Select.Fields, r.Select.Labels
		if a.Name == "" {
			a.Name = a.field("metadata.name")
		}
	}
	return a
}

func (a Attributes) forbidden(reason string) error {
	var msg string
	gr := schema.GroupResource{Group: a.Group, Resource: a.Resource}
	resource := a.Resource
	if a.Sub != "" {
		resource += "/" + a.Sub
	}
	switch {
	case a.Resource == "":
		msg = fmt.Sprintf("User %q cannot %s path %q", a.User.Name, a.Verb, a.Path)
	case a.Namespace != "":
		msg = fmt.Sprintf("User %q cannot %s resource %q in API group %q in the namespace %q",
			a.User.Name, a.Verb, resource, a.Group, a.Namespace)
	default:
		msg = fmt.Sprintf("User %q cannot %s resource %q in API group %q at the cluster scope",
			a.User.Name, a.Verb, resource, a.Group)
	}
	if reason != "" {
		msg += ": " + reason
	}
	return apierrors.NewForbidden(gr, a.Name, errors.New(msg))
}
