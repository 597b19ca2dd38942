package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/apiextensions"
)

// DefinitionCleanup deletes the objects of a custom resource whose definition is
// being deleted, and lets go of the definition when they are gone.
func DefinitionCleanup(kinds control.Kinds) *control.Sweep {
	u := &cleanup{waiting: map[schema.GroupResource]string{}, kinds: catalog{kinds: kinds, keep: func(r *api.Resource) bool {
		return r.Family != nil || r == apiextensions.CustomResourceDefinition.Def()
	}}, all: catalog{kinds: kinds}}
	return &control.Sweep{Name: "customresource-cleanup", Kinds: u.kinds.all, Slim: true, Bare: true, Changed: u.changed, Reconcile: u.reconcile}
}

type cleanup struct {
	kinds, all catalog

	mu      sync.Mutex
	waiting map[schema.GroupResource]string // definitions that wait for their last objects, by what they define
}

// changed is told of definitions that are being deleted, and of objects that
// have gone for which one waits.
func (u *cleanup) changed(_ *control.Cluster, kind *api.Resource, _, new api.Object) []control.Key {
	if kind.Family != nil {
		if new != nil {
			return nil
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		if name, ok := u.waiting[kind.GroupResource()]; ok {
			return []control.Key{{Name: name}}
		}
		return nil
	}
	if new == nil || new.GetDeletionTimestamp() == nil || !has(new, apiextensions.Finalizer) {
		return nil
	}
	return []control.Key{control.KeyOf(new)}
}

func (u *cleanup) reconcile(ctx context.Context, c *control.Cluster, key control.Key) (time.Duration, error) {
	d, err := apiextensions.CustomResourceDefinition.Get(ctx, c, "", key.Name)
	if err != nil || d.DeletionTimestamp == nil || !has(d, apiextensions.Finalizer) {
		return 0, ignoreNotFound(err)
	}
	switch own := u.all.named(d.Spec.Group, d.Spec.Names.Plural); {
	case own != nil && own.Family == nil:
		return 0, letGo(ctx, c, d, "OverlappingBuiltInResource", "instances overlap with built-in resources in storage")
	case !apiextensions.True(d, apiextensionsv1.Established):
		return 0, letGo(ctx, c, d, "NeverEstablished", "resource was never established")
	}
	r := resourceOf(&u.all, d)
	u.wait(r, d.Name)
	left, err := deleteInstances(ctx, c, r)
	switch {
	case err != nil:
		if failed := terminating(ctx, c, d, apiextensionsv1.ConditionTrue, "InstanceDeletionFailed", err.Error(), false); failed != nil {
			c.Log.Warn("what keeps a definition is not told", "name", d.Name, "err", failed)
		}
		return 0, err
	case left > 0: // finalizers hold them
		return time.Second, terminating(ctx, c, d, apiextensionsv1.ConditionTrue, "InstanceDeletionInProgress", "CustomResource deletion is in progress", false)
	}
	u.wait(r, "")
	return 0, letGo(ctx, c, d, "InstanceDeletionCompleted", "removed all instances")
}

// wait notes which definition waits for the objects of a resource; none if empty.
func (u *cleanup) wait(r *api.Resource, definition string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if definition == "" {
		delete(u.waiting, r.GroupResource())
	} else {
		u.waiting[r.GroupResource()] = definition
	}
}

// resourceOf is the resource of a definition, whether or not it is served now.
func resourceOf(kinds *catalog, d *apiextensionsv1.CustomResourceDefinition) *api.Resource {
	if r := kinds.named(d.Spec.Group, d.Spec.Names.Plural); r != nil {
		return r
	}
	version := apiextensions.StorageVersion(d)
	return &api.Resource{
		GroupVersionResource: schema.GroupVersionResource{Group: d.Spec.Group, Version: version, Resource: d.Spec.Names.Plural},
		Kind:                 d.Spec.Names.Kind, ListKind: d.Spec.Names.ListKind, Verbs: api.AllVerbs,
		Scope: d.Spec.Scope == apiextensionsv1.NamespaceScoped,
		New: func() api.Object {
			return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: d.Spec.Group + "/" + version, Kind: d.Spec.Names.Kind}}
		},
	}
}

// deleteInstances deletes all objects of a resource, and says how many are left.
func deleteInstances(ctx context.Context, c *control.Cluster, r *api.Resource) (left int, err error) {
	k := api.Untyped(r)
	all, err := k.List(ctx, c, "", api.Selectors{})
	if err != nil {
		return 0, fmt.Errorf("could not list instances: %w", err)
	}
	if len(all) == 0 {
		return 0, nil
	}
	var places []string
	for _, o := range all {
		if ns := o.GetNamespace(); !slices.Contains(places, ns) {
			places = append(places, ns)
		}
	}
	var failed []string
	for _, ns := range places {
		if _, err = c.Handle(ctx, &api.Request{Verb: api.DeleteCollection, Resource: r, Namespace: ns}); ignoreNotFound(err) != nil {
			failed = append(failed, err.Error())
		}
	}
	if len(failed) > 0 {
		return 0, fmt.Errorf("could not issue all deletes: %s", strings.Join(failed, ", "))
	}
	if all, err = k.List(ctx, c, "", api.Selectors{}); err != nil {
		return 0, fmt.Errorf("could not list instances: %w", err)
	}
	return len(all), nil
}

// letGo tells why nothing keeps a definition any more, and takes the finalizer off.
func letGo(ctx context.Context, c *control.Cluster, d *apiextensionsv1.CustomResourceDefinition, reason, message string) error {
	return terminating(ctx, c, d, apiextensionsv1.ConditionFalse, reason, message, true)
}

func terminating(ctx context.Context, c *control.Cluster, d *apiextensionsv1.CustomResourceDefinition, s apiextensionsv1.ConditionStatus, reason, message string, done bool) error {
	have := apiextensions.Condition(d, apiextensionsv1.Terminating)
	if !done && have != nil && have.Status == s && have.Reason == reason && have.Message == message {
		return nil
	}
	next := *d // the spec is shared: a write of the status leaves it alone
	next.Status = *d.Status.DeepCopy()
	apiextensions.SetCondition(&next, apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: s, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(c.Now()).Rfc3339Copy()})
	if done {
		next.Finalizers = slices.DeleteFunc(slices.Clone(d.Finalizers), func(f string) bool { return f == apiextensions.Finalizer })
	}
	_, err := apiextensions.CustomResourceDefinition.UpdateStatus(ctx, c, &next)
	return ignoreNotFound(err)
}
