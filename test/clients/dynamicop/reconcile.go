package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

func garden(name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": gardens.GroupVersion().String(), "kind": "Garden", "metadata": map[string]any{"name": name}, "spec": spec}}
}

func (w *world) gardens() dynamic.ResourceInterface { return w.dynamic.Resource(gardens).Namespace(ns) }
func (w *world) plants() dynamic.ResourceInterface  { return w.dynamic.Resource(plants).Namespace(ns) }

// gardener keeps as many plants as a garden has beds.
type gardener struct {
	*world
	gardenOf, plantsOf cache.GenericLister
	queue              workqueue.TypedRateLimitingInterface[string]
}

// start starts a gardener; stop ends it.
func (w *world) start(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(w.dynamic, 0, ns, nil)
	g := &gardener{world: w, gardenOf: factory.ForResource(gardens).Lister(), plantsOf: factory.ForResource(plants).Lister(),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](5*time.Millisecond, time.Second))}
	add := func(name string) { g.queue.Add(name) }
	_, err1 := factory.ForResource(gardens).Informer().AddEventHandler(each(func(o *unstructured.Unstructured) { add(o.GetName()) }))
	_, err2 := factory.ForResource(plants).Informer().AddEventHandler(each(func(o *unstructured.Unstructured) { add(o.GetLabels()["garden"]) }))
	if err := errors.Join(err1, err2); err != nil {
		cancel()
		return nil, err
	}
	factory.Start(ctx.Done())
	for r, ok := range factory.WaitForCacheSync(ctx.Done()) {
		if !ok {
			cancel()
			return nil, fmt.Errorf("the informer of %s did not come", r.Resource)
		}
	}
	go func() {
		for g.next(ctx) {
		}
	}()
	return func() {
		cancel()
		g.queue.ShutDown()
		factory.Shutdown()
	}, nil
}

// each calls f with whatever is added, changed or removed.
func each(f func(*unstructured.Unstructured)) cache.ResourceEventHandler {
	got := func(o any) {
		if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = d.Obj
		}
		f(o.(*unstructured.Unstructured))
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: got, UpdateFunc: func(_, o any) { got(o) }, DeleteFunc: got}
}

func (g *gardener) next(ctx context.Context) bool {
	name, shut := g.queue.Get()
	if shut {
		return false
	}
	defer g.queue.Done(name)
	if err := g.tend(ctx, name); err != nil {
		g.queue.AddRateLimited(name)
	} else {
		g.queue.Forget(name)
	}
	return true
}

// tend plants and pulls, and says in the status what stands.
func (g *gardener) tend(ctx context.Context, name string) error {
	o, err := g.gardenOf.ByNamespace(ns).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	of := o.(*unstructured.Unstructured)
	if of.GetDeletionTimestamp() != nil {
		return nil
	}
	beds, _, err := unstructured.NestedInt64(of.Object, "spec", "beds")
	if err != nil {
		return err
	}
	have, err := g.plantsOf.ByNamespace(ns).List(labels.SelectorFromSet(labels.Set{"garden": name}))
	if err != nil {
		return err
	}
	for i := int64(len(have)); i < beds; i++ {
		if _, err := g.plants().Create(ctx, plant(of, fmt.Sprintf("%s-%d", name, i)), metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	for i := beds; i < int64(len(have)); i++ {
		if err := g.plants().Delete(ctx, fmt.Sprintf("%s-%d", name, i), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return g.report(ctx, of, int64(len(have)))
}

func (g *gardener) report(ctx context.Context, of *unstructured.Unstructured, have int64) error {
	if was, ok, _ := unstructured.NestedInt64(of.Object, "status", "planted"); ok && was == have {
		return nil
	}
	status := garden(of.GetName(), nil)
	delete(status.Object, "spec")
	status.Object["status"] = map[string]any{"planted": have, "selector": "garden=" + of.GetName()}
	_, err := g.gardens().ApplyStatus(ctx, of.GetName(), status, metav1.ApplyOptions{FieldManager: "gardener", Force: true})
	return err
}

func plant(of *unstructured.Unstructured, name string) *unstructured.Unstructured {
	kind, _, _ := unstructured.NestedString(of.Object, "spec", "kind")
	p := &unstructured.Unstructured{Object: map[string]any{"apiVersion": plants.GroupVersion().String(), "kind": "Plant", "spec": map[string]any{"kind": kind}}}
	p.SetName(name)
	p.SetLabels(map[string]string{"garden": of.GetName()})
	p.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: of.GetAPIVersion(), Kind: of.GetKind(), Name: of.GetName(), UID: of.GetUID(), Controller: new(true), BlockOwnerDeletion: new(true)}})
	return p
}

// planted waits until a garden says that so much stands in it.
func (w *world) planted(ctx context.Context, name string, want int64) error {
	return until(ctx, fmt.Sprintf("%d plants in %s", want, name), func() (bool, error) {
		g, err := w.gardens().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		n, _, err := unstructured.NestedInt64(g.Object, "status", "planted")
		if err != nil {
			return false, err
		}
		l, err := w.plants().List(ctx, metav1.ListOptions{LabelSelector: "garden=" + name})
		return err == nil && n == want && int64(len(l.Items)) == want, err
	})
}

func (w *world) reconcile(ctx context.Context) error {
	stop, err := w.start(ctx)
	if err != nil {
		return err
	}
	defer stop()
	made, err := w.gardens().Create(ctx, garden("roses", map[string]any{"kind": "rose", "notes": map[string]any{"free": []any{"form", int64(1), 1.5, true}}}), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if beds, _, err := unstructured.NestedInt64(made.Object, "spec", "beds"); beds != 2 || err != nil || made.GetGeneration() != 1 || made.GetUID() == "" {
		return fmt.Errorf("made %v: %w", made, err)
	}
	if free, _, err := unstructured.NestedSlice(made.Object, "spec", "notes", "free"); fmt.Sprint(free) != "[form 1 1.5 true]" || err != nil {
		return fmt.Errorf("notes are %v: %w", free, err)
	}
	if err := w.planted(ctx, "roses", 2); err != nil {
		return err
	}
	if err := w.plants().Delete(ctx, "roses-1", metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := w.planted(ctx, "roses", 2); err != nil {
		return err
	}
	if _, err := w.setBeds(ctx, "roses", 5); err != nil {
		return err
	}
	if err := w.planted(ctx, "roses", 5); err != nil {
		return err
	}
	if _, err := w.setBeds(ctx, "roses", 1); err != nil {
		return err
	}
	return w.planted(ctx, "roses", 1)
}
