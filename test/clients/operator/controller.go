package main

import (
	"context"
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	v1 "proa/test/clients/operator/api/v1"
)

const (
	finalizer = "sites.example.com/finish"
	ready     = "Ready"
)

// reconciler makes a config map and a deployment of every website.
type reconciler struct {
	client.Client
	events events.EventRecorder
	bare   bool // the server has custom resources and nothing else
}

// SetupWithManager says what the controller watches.
func (r *reconciler) SetupWithManager(mgr ctrl.Manager) error {
	b := ctrl.NewControllerManagedBy(mgr).For(&v1.Website{}, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, predicate.LabelChangedPredicate{})))
	if !r.bare {
		b = b.Owns(&appsv1.Deployment{}).Owns(&corev1.ConfigMap{}, builder.OnlyMetadata)
	}
	return b.Complete(r)
}

// Reconcile brings one website about.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var w v1.Website
	if err := r.Get(ctx, req.NamespacedName, &w); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !w.DeletionTimestamp.IsZero() {
		if controllerutil.RemoveFinalizer(&w, finalizer) {
			return ctrl.Result{}, r.Update(ctx, &w)
		}
		return ctrl.Result{}, nil
	}
	if controllerutil.AddFinalizer(&w, finalizer) {
		if err := r.Update(ctx, &w); err != nil {
			return ctrl.Result{}, err
		}
	}
	have := *w.Spec.Replicas
	if !r.bare {
		d, err := r.children(ctx, &w)
		if err != nil {
			return ctrl.Result{}, err
		}
		have = d.Status.ReadyReplicas
	}
	return ctrl.Result{}, r.status(ctx, &w, have)
}

// children makes what belongs to a website.
func (r *reconciler) children(ctx context.Context, w *v1.Website) (*appsv1.Deployment, error) {
	at := metav1.ObjectMeta{Namespace: w.Namespace, Name: w.Name}
	pages := &corev1.ConfigMap{ObjectMeta: at}
	_, err := controllerutil.CreateOrUpdate(ctx, r.Client, pages, func() error {
		pages.Data = maps.Clone(w.Spec.Pages)
		return controllerutil.SetControllerReference(w, pages, r.Scheme())
	})
	if err != nil {
		return nil, fmt.Errorf("config map: %w", err)
	}
	d := &appsv1.Deployment{ObjectMeta: at}
	_, err = controllerutil.CreateOrPatch(ctx, r.Client, d, func() error {
		labels := map[string]string{"site": w.Name}
		d.Spec.Replicas = w.Spec.Replicas
		d.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
		d.Spec.Template.Labels = labels
		d.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64(0))
		if len(d.Spec.Template.Spec.Containers) == 0 {
			d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "serve", Args: []string{"serve", "-name", w.Name}}}
		}
		d.Spec.Template.Spec.Containers[0].Image = w.Spec.Image
		return controllerutil.SetControllerReference(w, d, r.Scheme())
	})
	if err != nil {
		return nil, fmt.Errorf("deployment: %w", err)
	}
	return d, nil
}

// status says what there is, if that is news.
func (r *reconciler) status(ctx context.Context, w *v1.Website, have int32) error {
	before := w.DeepCopy()
	c := metav1.Condition{Type: ready, Status: metav1.ConditionFalse, Reason: "Starting", ObservedGeneration: w.Generation,
		Message: fmt.Sprintf("%d of %d replicas are ready", have, *w.Spec.Replicas)}
	if have == *w.Spec.Replicas {
		c.Status, c.Reason = metav1.ConditionTrue, "Serving"
	}
	changed := meta.SetStatusCondition(&w.Status.Conditions, c)
	if !changed && before.Status.Replicas == have && before.Status.ObservedGeneration == w.Generation {
		return nil
	}
	w.Status.Replicas, w.Status.ObservedGeneration, w.Status.Selector = have, w.Generation, "site="+w.Name
	if err := r.Status().Update(ctx, w); err != nil {
		return err
	}
	if !r.bare && c.Status == metav1.ConditionTrue && changed {
		r.events.Eventf(w, nil, corev1.EventTypeNormal, "Serving", "Reconcile", "%s", c.Message)
	}
	return nil
}
