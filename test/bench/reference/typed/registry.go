package main

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/client-go/tools/cache"
)

// strategy does with a Pod what Kubernetes does, but for defaults and
// validation, which cannot be imported.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
}

func (strategy) NamespaceScoped() bool { return true }
func (strategy) PrepareForCreate(_ context.Context, obj runtime.Object) {
	p := obj.(*pod)
	p.Generation = 1
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBurstable}
}
func (strategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	obj.(*pod).Status = old.(*pod).Status
}
func (strategy) Validate(context.Context, runtime.Object) field.ErrorList { return nil }
func (strategy) ValidateUpdate(context.Context, runtime.Object, runtime.Object) field.ErrorList {
	return nil
}
func (strategy) WarningsOnCreate(context.Context, runtime.Object) []string { return nil }
func (strategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}
func (strategy) Canonicalize(runtime.Object)                   {}
func (strategy) AllowCreateOnUpdate(context.Context) bool      { return false }
func (strategy) AllowUnconditionalUpdate(context.Context) bool { return true }

var errNoPod = errors.New("not a pod")

// attributes are what selectors of pods may ask for.
func attributes(obj runtime.Object) (labels.Set, fields.Set, error) {
	p, ok := obj.(*pod)
	if !ok {
		return nil, nil, errNoPod
	}
	f := fields.Set{"spec.nodeName": p.Spec.NodeName, "spec.restartPolicy": string(p.Spec.RestartPolicy),
		"spec.schedulerName": p.Spec.SchedulerName, "status.phase": string(p.Status.Phase)}
	return p.Labels, generic.AddObjectMetaFieldsSet(f, &p.ObjectMeta, true), nil
}

func nodeName(obj runtime.Object) string { return obj.(*pod).Spec.NodeName }

// newStore is the storage of pods, with the index of nodes that Kubernetes
// has, and one of schedulers, by which the benchmarks select.
func newStore(getter generic.RESTOptionsGetter) (*registry.Store, error) {
	s := strategy{scheme, names.SimpleNameGenerator}
	store := &registry.Store{
		NewFunc:                   func() runtime.Object { return new(pod) },
		NewListFunc:               func() runtime.Object { return new(podList) },
		DefaultQualifiedResource:  corev1.Resource("pods"),
		SingularQualifiedResource: corev1.Resource("pod"),
		CreateStrategy:            s, UpdateStrategy: s, DeleteStrategy: s,
		PredicateFunc: func(l labels.Selector, f fields.Selector) storage.SelectionPredicate {
			return storage.SelectionPredicate{Label: l, Field: f, GetAttrs: attributes, IndexFields: []string{"spec.nodeName", "spec.schedulerName"}}
		},
		TableConvertor: rest.NewDefaultTableConvertor(corev1.Resource("pods")),
	}
	index := func(get func(*pod) string) cache.IndexFunc {
		return func(obj any) ([]string, error) {
			p, ok := obj.(*pod)
			if !ok {
				return nil, errNoPod
			}
			return []string{get(p)}, nil
		}
	}
	indexers := cache.Indexers{
		storage.FieldIndex("spec.nodeName"):      index(func(p *pod) string { return p.Spec.NodeName }),
		storage.FieldIndex("spec.schedulerName"): index(func(p *pod) string { return p.Spec.SchedulerName }),
	}
	return store, store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: getter, AttrFunc: attributes,
		TriggerFunc: storage.IndexerFuncs{"spec.nodeName": nodeName}, Indexers: &indexers})
}
