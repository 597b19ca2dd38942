package apiserver

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
)

// typed is what the library of field ownership wants to know of a table's versions.
type typed struct{ t *table }

// in is the table's resource, or the view of it, of a group and version.
func (c typed) in(gv schema.GroupVersion) *api.Resource {
	for _, res := range c.t.versions() {
		if res.GroupVersion() == gv {
			return res
		}
	}
	return nil
}

func (c typed) kinds() (out []schema.GroupVersionKind) {
	for _, res := range c.t.versions() {
		out = append(out, res.GVK())
	}
	return out
}

// unknown is an error that the library takes for a version that is no longer
// served, whose entries in managedFields it drops.
func (c typed) unknown(gvk schema.GroupVersionKind) error {
	return runtime.NewNotRegisteredErrForKind(c.t.res.Resource, gvk)
}

// New makes an empty object.
func (c typed) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	if res := c.in(gvk.GroupVersion()); res != nil {
		return res.New(), nil
	}
	return nil, c.unknown(gvk)
}

// Default fills in what was left out.
func (c typed) Default(o runtime.Object) {
	switch res := c.in(o.GetObjectKind().GroupVersionKind().GroupVersion()); {
	case res == nil:
	case res.Hub != nil:
		res.Hub.Default(o.(api.Object))
	default:
		res.Default(o.(api.Object))
	}
}

// Convert is not called by the library.
func (c typed) Convert(_, _, _ any) error {
	return fmt.Errorf("%s is converted to versions only", c.t.res.Kind)
}

// ConvertFieldLabel is not called by the library.
func (c typed) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

// ConvertToVersion makes a typed object of one version of an untyped one, or of
// one of another version.
func (c typed) ConvertToVersion(in runtime.Object, to runtime.GroupVersioner) (runtime.Object, error) {
	from := c.in(in.GetObjectKind().GroupVersionKind().GroupVersion())
	if from == nil {
		return nil, c.unknown(in.GetObjectKind().GroupVersionKind())
	}
	target, ok := to.KindForGroupVersionKinds(c.kinds())
	if !ok {
		return nil, c.unknown(schema.GroupVersionKind{Version: to.Identifier(), Kind: from.Kind})
	}
	obj, err := typedForm(from, in)
	if err != nil || target == from.GVK() {
		return obj, err
	}
	if f := from.Family; f != nil {
		ctx, cancel := context.WithTimeout(context.Background(), conversionTimeout)
		defer cancel()
		out, err := f.Convert(ctx, []api.Object{obj}, c.in(target.GroupVersion()))
		if err != nil {
			return nil, err
		}
		return out[0], nil
	}
	if from.Hub != nil {
		obj = from.Hub.To(api.Clone(obj))
	}
	if res := c.in(target.GroupVersion()); res.Hub != nil {
		obj = res.Hub.From(obj)
	}
	return obj, nil
}

// typedForm is in as the Go type of its version.
func typedForm(res *api.Resource, in runtime.Object) (api.Object, error) {
	u, ok := in.(*unstructured.Unstructured)
	if !ok {
		return in.(api.Object), nil
	}
	out := res.New()
	if x, ok := out.(selfReader); ok {
		if err := x.SetContent(runtime.DeepCopyJSON(u.Object)); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return out, nil
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, out); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", res.Kind, res.Version, res.Kind, err))
	}
	out.GetObjectKind().SetGroupVersionKind(res.GVK())
	return out, nil
}
