package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	smdtyped "sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
)

// Server-side apply (KEP-555), by the library. It takes longer than all the rest
// of a write; who owns which field after other writes is settled in own.go.

// owners holds a server's field managers, made when they are first needed: the
// schema behind them takes tens of megabytes.
type owners struct {
	schema func() (managedfields.TypeConverter, error)
	by     sync.Map // ownerKey → *managedfields.FieldManager
}

type ownerKey struct {
	t   *table
	res *api.Resource // in whose version: the table's, or a view of it
	sub string
}

func newOwners(tables []*table) *owners {
	return &owners{schema: sync.OnceValues(func() (managedfields.TypeConverter, error) {
		text, err := unpackTypes()
		if err != nil {
			return nil, err
		}
		parser, err := smdtyped.NewParser(text)
		if err != nil {
			return nil, fmt.Errorf("read the types for applies: %w", err)
		}
		scheme := runtime.NewScheme()
		for _, t := range tables {
			for _, res := range t.versions() {
				scheme.AddKnownTypeWithName(res.GVK(), res.New())
			}
		}
		return managedfields.NewSchemeTypeConverter(scheme, parser), nil
	})}
}

func (o *owners) of(t *table, res *api.Resource, sub string) (*managedfields.FieldManager, error) {
	if res.Family != nil {
		return ofCustom(t, res, sub)
	}
	if m, ok := o.by.Load(ownerKey{t, res, sub}); ok {
		return m.(*managedfields.FieldManager), nil
	}
	types, err := o.types(t)
	if err != nil {
		return nil, err
	}
	m, err := managedfields.NewDefaultFieldManager(types, typed{t}, typed{t}, typed{t},
		res.GVK(), t.res.GroupVersion(), sub, notOwned(t, sub))
	if err == nil {
		o.by.Store(ownerKey{t, res, sub}, m)
	}
	return m, err
}

// ofCustom is the field manager of a custom resource, which is the table's: it
// goes with the definition.
func ofCustom(t *table, res *api.Resource, sub string) (*managedfields.FieldManager, error) {
	key := ownerKey{res: res, sub: sub}
	if m, ok := t.managers.Load(key); ok {
		return m.(*managedfields.FieldManager), nil
	}
	types, err := res.Family.Merge()
	if err != nil {
		return nil, err
	}
	filter := map[fieldpath.APIVersion]fieldpath.Filter{}
	for _, v := range res.Family.Versions {
		var none []string
		switch {
		case sub == "status":
			none = []string{"metadata", "spec"}
		case v.HasStatus:
			none = []string{"status"}
		}
		set := fieldpath.NewSet()
		for _, field := range none {
			set.Insert(fieldpath.MakePathOrDie(field))
		}
		filter[fieldpath.APIVersion(v.GroupVersion().String())] = fieldpath.NewExcludeSetFilter(set)
	}
	m, err := managedfields.NewDefaultCRDFieldManager(types, typed{t}, typed{t}, typed{t}, res.GVK(), res.GroupVersion(), sub, filter)
	if err == nil {
		t.managers.Store(key, m)
	}
	return m, err
}

// types tells fields apart: by the kind's own schema, if it has one.
func (o *owners) types(t *table) (managedfields.TypeConverter, error) {
	if t.res.Types == "" {
		return o.schema()
	}
	parser, err := smdtyped.NewParser(smdtyped.YAMLObject(t.res.Types))
	if err != nil {
		return nil, fmt.Errorf("read the schema of %s: %w", t.res.Kind, err)
	}
	scheme := runtime.NewScheme()
	for _, res := range t.versions() {
		scheme.AddKnownTypeWithName(res.GVK(), res.New())
	}
	return managedfields.NewSchemeTypeConverter(scheme, parser), nil
}

// notOwned names the fields that a write to sub does not change.
func notOwned(t *table, sub string) map[fieldpath.APIVersion]fieldpath.Filter {
	if !t.res.HasStatus {
		return nil
	}
	field := "status"
	if sub == "status" {
		field = "spec"
	}
	out := map[fieldpath.APIVersion]fieldpath.Filter{}
	for _, res := range t.versions() {
		out[fieldpath.APIVersion(res.GroupVersion().String())] = fieldpath.NewExcludeSetFilter(fieldpath.NewSet(fieldpath.MakePathOrDie(field)))
	}
	return out
}

// sameOwners compares all but the times, so that writing the same again is no change.
func sameOwners(a, b []metav1.ManagedFieldsEntry) bool {
	return slices.EqualFunc(a, b, func(x, y metav1.ManagedFieldsEntry) bool {
		if x.FieldsV1 == nil || y.FieldsV1 == nil {
			return x.FieldsV1 == y.FieldsV1
		}
		return x.Manager == y.Manager && x.Operation == y.Operation && x.APIVersion == y.APIVersion && x.FieldsType == y.FieldsType &&
			x.Subresource == y.Subresource && x.FieldsV1.GetRawString() == y.FieldsV1.GetRawString()
	})
}

func byApply(e metav1.ManagedFieldsEntry) bool {
	return e.Operation == metav1.ManagedFieldsOperationApply
}

// applyPatch answers an apply patch.
func (s *Server) applyPatch(ctx context.Context, t *table, r *api.Request) (*api.Response, error) {
	intent, warnings, err := applied(t.asked(r), r)
	if err != nil {
		return nil, err
	}
	m, err := s.owners.of(t, t.asked(r), r.Sub)
	if err != nil {
		return nil, err
	}
	merge := func(live api.Object) (api.Object, error) {
		owners := t.res.Owners(live)
		live.SetManagedFields(owners)
		out, err := m.Apply(live, intent.DeepCopy(), r.Options.FieldManager, r.Options.Force)
		if err != nil {
			return nil, applyError(err)
		}
		obj := out.(api.Object)
		if owners == nil && !slices.ContainsFunc(obj.GetManagedFields(), byApply) {
			obj.SetManagedFields(nil) // an intent of a name alone owns nothing, and says nothing of who owns the rest
		}
		obj.GetObjectKind().SetGroupVersionKind(t.terms(r).GVK())
		return obj, nil
	}
	w := s.writing(t, r)
	for try := 0; ; try++ {
		if r.Sub == "" && s.item(t, w.key) == nil {
			item, err := w.applyNew(ctx, merge)
			if err == nil {
				w.warnings = append(warnings, w.warnings...)
				return w.response(http.StatusCreated, item, false), nil
			}
			if !apierrors.IsAlreadyExists(err) || try == retries {
				return nil, err
			}
		}
		item, gone, err := w.edit(ctx, func(old *api.Item) (api.Object, error) { return merge(api.Clone(old.Object())) }, w.replace)
		switch {
		case err == nil:
			w.warnings = append(warnings, w.warnings...)
			return w.response(http.StatusOK, item, gone), nil
		case r.Sub != "" || !apierrors.IsNotFound(err) || s.item(t, w.key) != nil || try == retries:
			return nil, err
		}
	}
}

// applyNew makes the object that an apply found missing.
func (w *writing) applyNew(ctx context.Context, merge func(api.Object) (api.Object, error)) (*api.Item, error) {
	live := w.res.New()
	live.SetName(w.r.Name)
	live.SetNamespace(w.r.Namespace)
	obj, err := merge(live)
	if err != nil {
		return nil, err
	}
	if obj.GetUID() != "" {
		return nil, apierrors.NewConflict(w.r.Resource.GroupResource(), w.r.Name, fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", obj.GetUID()))
	}
	if obj.GetResourceVersion() != "" {
		return nil, apierrors.NewNotFound(w.r.Resource.GroupResource(), w.r.Name)
	}
	return w.insert(ctx, obj)
}

// applied reads what the caller wants the object to be, and what to warn him of.
func applied(res *api.Resource, r *api.Request) (u *unstructured.Unstructured, warnings []string, err error) {
	if r.Options.FieldManager == "" {
		return nil, nil, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "PatchOptions"}, "",
			field.ErrorList{field.Required(field.NewPath("fieldManager"), "is required for apply patch")})
	}
	d, err := newDecoder(res.GVK(), r.Options)
	if err != nil {
		return nil, nil, err
	}
	form, err := yaml.YAMLToJSON(r.Body)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
	}
	if d.mode != validateIgnore {
		if _, twice := yaml.YAMLToJSONStrict(r.Body); twice != nil {
			if d.mode == validateStrict {
				return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error strict decoding YAML: %v", twice))
			}
			warnings = append(warnings, twice.Error())
		}
	}
	u = &unstructured.Unstructured{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(form, &u.Object); err != nil || u.Object == nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: an object is needed: %v", err))
	}
	return u, warnings, meant(res, r, u)
}

// meant checks that an intent is about the object that the request names.
func meant(res *api.Resource, r *api.Request, u *unstructured.Unstructured) error {
	if gvk := u.GroupVersionKind(); gvk != res.GVK() {
		return apierrors.NewBadRequest(fmt.Sprintf("Incorrect version specified in apply patch. Specified patch version: %s, kind: %s; expected: %s, %s", gvk.GroupVersion(), gvk.Kind, res.GroupVersion(), res.Kind))
	}
	if u.GetName() == "" {
		u.SetName(r.Name)
	}
	if u.GetNamespace() == "" && res.Scope == api.Namespaced {
		u.SetNamespace(r.Namespace)
	}
	switch {
	case u.GetName() != r.Name:
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", u.GetName(), r.Name))
	case u.GetNamespace() != r.Namespace:
		return apierrors.NewBadRequest(fmt.Sprintf("the namespace of the object (%s) does not match the namespace on the request (%s)", u.GetNamespace(), r.Namespace))
	}
	return nil
}

// applyError gives the library's plain errors, which are about the patch, a status.
func applyError(err error) error {
	if _, ok := err.(apierrors.APIStatus); ok {
		return err
	}
	return apierrors.NewBadRequest(err.Error())
}
