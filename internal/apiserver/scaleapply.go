package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	smd "sigs.k8s.io/structured-merge-diff/v6/typed"

	"proa/internal/api"
	"proa/internal/api/owned"
)

// A Scale has the managedFields of its parent that are about the replicas, in its
// own version: what the scale's spec.replicas is in the parent is found at
// replicasPath there.

var (
	replicasPath = fieldpath.MakePathOrDie("spec", "replicas") // in all built-in kinds
	scaleTable   = &table{res: scaleResource}
)

// scaleSchema is what an apply needs to know of a Scale: the published schema of
// applies has none. Its metadata is what it looks like.
const scaleSchema = `types:
- name: io.k8s.api.autoscaling.v1.Scale
  map:
    fields:
    - {name: apiVersion, type: {scalar: string}}
    - {name: kind, type: {scalar: string}}
    - {name: metadata, type: {namedType: deduced}}
    - {name: spec, type: {namedType: spec}, default: {}}
    - {name: status, type: {namedType: status}, default: {}}
- name: spec
  map:
    fields:
    - {name: replicas, type: {scalar: numeric}}
- name: status
  map:
    fields:
    - {name: replicas, type: {scalar: numeric}, default: 0}
    - {name: selector, type: {scalar: string}}
- name: atomic
  scalar: untyped
  list:
    elementType: {namedType: atomic}
    elementRelationship: atomic
  map:
    elementType: {namedType: atomic}
    elementRelationship: atomic
- name: deduced
  scalar: untyped
  list:
    elementType: {namedType: atomic}
    elementRelationship: atomic
  map:
    elementType: {namedType: deduced}
    elementRelationship: separable
`

// scaleManager applies scales.
var scaleManager = sync.OnceValues(func() (*managedfields.FieldManager, error) {
	parser, err := smd.NewParser(scaleSchema)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	scheme.AddKnownTypeWithName(scaleKind, scaleResource.New())
	c := typed{scaleTable}
	return managedfields.NewDefaultFieldManager(managedfields.NewSchemeTypeConverter(scheme, parser), c, c, c, scaleKind, scaleKind.GroupVersion(), "scale", nil)
})

// scaleHandler converts the entries of a parent and of its scale.
func scaleHandler(t *table, res *api.Resource, entries []metav1.ManagedFieldsEntry) *managedfields.ScaleHandler {
	if res.Family != nil {
		return managedfields.NewScaleHandler(entries, res.GroupVersion(), res.Family.Replicas)
	}
	paths := managedfields.ResourcePathMappings{}
	for _, res := range t.versions() {
		paths[res.GroupVersion().String()] = replicasPath
	}
	return managedfields.NewScaleHandler(entries, t.res.GroupVersion(), paths)
}

// scaleIn is scaleOf with the entries.
func scaleIn(t *table, res *api.Resource, o api.Object) *autoscalingv1.Scale {
	sc := scaleOf(res, o)
	if entries, err := scaleHandler(t, res, res.Owners(o)).ToSubresource(); err == nil {
		sc.ManagedFields = entries
	}
	return sc
}

// applyScale answers an apply patch of a scale.
func (s *Server) applyScale(ctx context.Context, t *table, r *api.Request) (*api.Response, error) {
	intent, warnings, err := applied(scaleResource, r)
	if err != nil {
		return nil, err
	}
	m, err := scaleManager()
	if err != nil {
		return nil, err
	}
	q := *r
	q.Sub = ""
	w := s.writing(t, &q)
	w.scaling = true
	item, _, err := w.edit(ctx, func(was *api.Item) (api.Object, error) {
		old := was.Object()
		out, err := m.Apply(scaleIn(t, w.res, old), intent.DeepCopy(), r.Options.FieldManager, r.Options.Force)
		if err != nil {
			return nil, applyError(err)
		}
		sc, ok := out.(*autoscalingv1.Scale)
		if !ok {
			return nil, fmt.Errorf("an applied scale is a %T", out)
		}
		entries, err := scaleHandler(t, w.res, w.res.Owners(old)).ToParent(sc.ManagedFields)
		if err != nil {
			return nil, err
		}
		now := metav1.NewTime(s.clock.Now()).Rfc3339Copy()
		for i := range entries {
			if entries[i].Time == nil { // the library leaves out when the scale's new owner came
				entries[i].Time = &now
			}
		}
		owned.Arrange(entries)
		obj, err := scaled(w.res, old, sc)
		if err == nil {
			obj.SetManagedFields(entries)
		}
		return obj, err
	}, w.replace)
	if err == nil {
		item, err = s.inVersion(ctx, item, w.res)
	}
	if err != nil {
		return nil, err
	}
	return &api.Response{Code: http.StatusOK, Object: scaleIn(t, w.res, item.Object()), Warnings: append(warnings, w.warnings...)}, nil
}
