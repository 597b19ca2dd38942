package apiserver

import (
	"context"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
)

// nameTries is how many random names a create with generateName tries.
const nameTries = 8

func (s *Server) create(ctx context.Context, t *table, r *api.Request) (*api.Response, error) {
	obj, warnings, err := t.sent(r)
	if err != nil {
		return nil, err
	}
	if err := placed(t, r, obj); err != nil {
		return nil, err
	}
	if obj.GetResourceVersion() != "" {
		return nil, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	w := s.writing(t, r)
	generate := obj.GetName() == "" && obj.GetGenerateName() != ""
	for try := 1; ; try++ {
		if generate {
			obj.SetName(s.generated(obj.GetGenerateName()))
		}
		w.warnings = w.warnings[:0]
		item, err := w.insert(ctx, obj)
		if err == nil {
			w.warnings = append(warnings, w.warnings...)
			return w.response(http.StatusCreated, item, false), nil
		}
		switch {
		case !generate || !apierrors.IsAlreadyExists(err):
			return nil, err
		case try == nameTries:
			return nil, apierrors.NewGenerateNameConflict(r.Resource.GroupResource(), obj.GetName(), 1)
		}
	}
}

// generated makes a name that fits a DNS label.
func (s *Server) generated(prefix string) string {
	const random = 5
	if most := 63 - random; len(prefix) > most {
		prefix = prefix[:most]
	}
	return prefix + s.suffix(random)
}

// placed makes an object's namespace and name agree with the request's.
func placed(t *table, r *api.Request, obj api.Object) error {
	switch ns := obj.GetNamespace(); {
	case t.res.Scope == api.Cluster:
		obj.SetNamespace("")
	case ns == "":
		obj.SetNamespace(r.Namespace)
	case ns != r.Namespace && r.Namespace == "":
		return apierrors.NewBadRequest("an empty namespace may not be set during creation")
	case ns != r.Namespace:
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	if t.res.Scope == api.Namespaced && obj.GetNamespace() == "" {
		return apierrors.NewBadRequest("an empty namespace may not be set during creation")
	}
	switch name := obj.GetName(); {
	case r.Name == "" || name == r.Name:
	case name == "" && r.Verb == api.Create:
		obj.SetName(r.Name)
	case name == "":
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s based on URL) was undeterminable: name must be provided", r.Name))
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", name, r.Name))
	}
	return nil
}

func (s *Server) update(ctx context.Context, t *table, r *api.Request) (*api.Response, error) {
	obj, warnings, err := t.sent(r)
	if err != nil {
		return nil, err
	}
	if err := placed(t, r, obj); err != nil {
		return nil, err
	}
	w := s.writing(t, r)
	bound := obj.GetResourceVersion() != "" && obj.GetResourceVersion() != "0"
	if r.Sub == "" && t.res.CreateOnUpdate && s.item(t, w.key) == nil && !bound && obj.GetUID() == "" {
		item, err := w.insert(ctx, api.Clone(obj))
		if err == nil {
			w.warnings = append(warnings, w.warnings...)
			return w.response(http.StatusCreated, item, false), nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, err
		}
	}
	if !bound && r.Sub == "" && t.res.Conditional {
		if s.item(t, w.key) == nil {
			return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
		}
		gk := schema.GroupKind{Group: r.Resource.Group, Kind: r.Resource.Resource}
		return nil, apierrors.NewInvalid(gk, r.Name, field.ErrorList{
			field.Invalid(metadata.Child("resourceVersion"), uint64(0), "must be specified for an update")})
	}
	tried := false
	item, gone, err := w.edit(ctx, func(*api.Item) (api.Object, error) {
		switch {
		case !bound && t.res.Versioned:
			return nil, w.invalid(r.Name, field.ErrorList{field.Invalid(metadata.Child("resourceVersion"), 0, "must be specified for an update")})
		case !bound:
			return api.Clone(obj), nil
		case tried: // and the version will not be the same again
			return nil, conflict(r.Resource, r.Name)
		}
		tried = true
		return obj, nil
	}, w.replace)
	if err != nil {
		return nil, err
	}
	w.warnings = append(warnings, w.warnings...)
	return w.response(http.StatusOK, item, gone), nil
}
