package apiserver

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
	"proa/internal/store/planted"
)

// returned lists the kinds whose removal is answered with the object that is
// gone; all others answer with a Status.
var returned = []string{"pods", "services", "serviceaccounts", "persistentvolumes", "persistentvolumeclaims", "podtemplates", "resourcequotas"}

func (s *Server) delete(ctx context.Context, t *table, r *api.Request) (*api.Response, error) {
	w := s.writing(t, r)
	if p := r.Options.Propagation; p != nil && !slices.Contains([]metav1.DeletionPropagation{
		metav1.DeletePropagationForeground, metav1.DeletePropagationBackground, metav1.DeletePropagationOrphan}, *p) {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("propagationPolicy: Unsupported value: %q: supported values: \"Background\", \"Foreground\", \"Orphan\"", *p))
	}
	item, gone, err := w.edit(ctx, func(old *api.Item) (api.Object, error) { return w.deleting(ctx, old) }, w.swapDeleted)
	if err != nil {
		return nil, err
	}
	if !gone || t.res.Group == "" && slices.Contains(returned, t.res.Resource) {
		return w.response(0, item, gone), nil
	}
	o := item.Object()
	return &api.Response{Deleted: true, Warnings: w.warnings, Status: &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusSuccess,
		Details:  &metav1.StatusDetails{Name: o.GetName(), Group: r.Resource.Group, Kind: r.Resource.Resource, UID: o.GetUID()},
	}}, nil
}

// swapDeleted is swap for what deleting returns. An object that goes at once is
// answered as it was.
func (w *writing) swapDeleted(ctx context.Context, was *api.Item, obj api.Object) (*api.Item, bool, error) {
	item, gone, err := w.swap(ctx, was, obj)
	if err == nil && gone && was.Object().GetDeletionTimestamp() == nil {
		item = was
	}
	return item, gone, err
}

// deleting returns the object as a delete leaves it: marked, if anything still
// holds it.
func (w *writing) deleting(ctx context.Context, was *api.Item) (api.Object, error) {
	res, old := w.res, was.Object()
	if err := w.preconditions(old); err != nil {
		return nil, err
	}
	a := w.attributes(api.Delete, nil, old)
	a.Name = old.GetName()
	if err := w.admit(ctx, a); err != nil {
		return nil, err
	}
	if err := w.permit(ctx, a); err != nil {
		return nil, err
	}
	obj := api.Shallow(old) // what is replaced below is metadata; the rest they share
	if res.Family != nil {
		obj = api.Clone(old) // whose metadata is in a map
	}
	obj.SetFinalizers(w.propagate(old.GetFinalizers()))
	if old.GetDeletionTimestamp() != nil {
		w.shorten(obj)
		w.unowned(obj, old)
		return obj, nil
	}
	grace := int64(0)
	if res.Grace != nil {
		grace = res.Grace(old, w.r.Options.GracePeriod)
	}
	end := metav1.NewTime(w.s.clock.Now().Add(time.Duration(grace) * time.Second)).Rfc3339Copy()
	obj.SetDeletionTimestamp(&end)
	obj.SetDeletionGracePeriodSeconds(&grace)
	if obj.GetGeneration() > 0 {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
	res.Deleting(obj)
	if done(res, obj) {
		return obj, nil // whose the fields are is nobody's question any more
	}
	if part := w.r.Options.Parting; part != nil {
		part(obj)
	}
	w.unowned(obj, old)
	return obj, nil
}

func (w *writing) preconditions(old api.Object) error {
	o := w.r.Options
	gr := schema.GroupResource{Group: w.r.Resource.Group, Resource: w.r.Resource.Kind} // as Kubernetes names it here
	if o.UID != nil && *o.UID != old.GetUID() {
		return apierrors.NewConflict(gr, w.r.Name, fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *o.UID, old.GetUID()))
	}
	if o.ResourceVersion != nil && *o.ResourceVersion != old.GetResourceVersion() && !planted.Is("api-delete-unconditional") {
		return apierrors.NewConflict(gr, w.r.Name, fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *o.ResourceVersion, old.GetResourceVersion()))
	}
	return nil
}

// propagate returns the finalizers that say what becomes of the dependents.
func (w *writing) propagate(have []string) []string {
	policy := w.res.Propagation
	switch p := w.r.Options.Propagation; {
	case p != nil:
		policy = *p
	case slices.Contains(have, metav1.FinalizerOrphanDependents):
		policy = metav1.DeletePropagationOrphan
	case slices.Contains(have, metav1.FinalizerDeleteDependents):
		policy = metav1.DeletePropagationForeground
	}
	out := slices.DeleteFunc(slices.Clone(have), func(f string) bool {
		return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
	})
	switch policy {
	case metav1.DeletePropagationOrphan:
		out = append(out, metav1.FinalizerOrphanDependents)
	case metav1.DeletePropagationForeground:
		out = append(out, metav1.FinalizerDeleteDependents)
	}
	return out
}

// shorten moves the end of an object that is being deleted nearer, if the caller asks so.
func (w *writing) shorten(obj api.Object) {
	have, asked := obj.GetDeletionGracePeriodSeconds(), w.r.Options.GracePeriod
	if have == nil || *have == 0 || asked == nil || w.res.Grace == nil {
		return
	}
	grace := w.res.Grace(obj, asked)
	if grace >= *have {
		return
	}
	end := metav1.NewTime(obj.GetDeletionTimestamp().Add(time.Duration(grace-*have) * time.Second))
	obj.SetDeletionTimestamp(&end)
	obj.SetDeletionGracePeriodSeconds(&grace)
}

// deleteWorkers is how many objects of a collection are deleted at a time, so
// that they share the store's syncs.
const deleteWorkers = 32

func (s *Server) deleteCollection(ctx context.Context, t *table, r *api.Request) (*api.Response, error) {
	q := *r
	q.Verb = api.List
	listed, err := s.list(ctx, t, &q)
	if err != nil {
		return nil, err
	}
	items := listed.List.Items
	var wg sync.WaitGroup
	errs := make(chan error, len(items))
	slots := make(chan struct{}, deleteWorkers)
	for i, item := range items {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			d := *r
			d.Verb, d.Namespace, d.Name = api.Delete, item.Object().GetNamespace(), item.Object().GetName()
			resp, err := s.delete(ctx, t, &d)
			switch {
			case err == nil && resp.Item != nil:
				items[i] = resp.Item
			case err != nil && !apierrors.IsNotFound(err):
				errs <- err
			}
		})
		if s.inTurn {
			wg.Wait()
		}
	}
	wg.Wait()
	select {
	case err := <-errs:
		return nil, err
	default:
		return listed, nil
	}
}
