// Command manager is an operator as people write them with controller-runtime:
// a manager with leader election and a cache; a controller that keeps a Secret for
// every ConfigMap that asks for one, owns it, writes status into an annotation by
// server-side apply, finds by a field index, and finishes through a finalizer.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

const (
	ns        = "manager"
	wanted    = "example.com/secret"
	finalizer = "example.com/finish"
	byWanted  = "wanted"
)

// mirror is the reconciler.
type mirror struct{ client.Client }

// Reconcile makes the secret that a config map asks for.
func (m *mirror) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var from corev1.ConfigMap
	if err := m.Get(ctx, req.NamespacedName, &from); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	name := from.Annotations[wanted]
	if name == "" {
		return ctrl.Result{}, nil
	}
	if !from.DeletionTimestamp.IsZero() {
		controllerutil.RemoveFinalizer(&from, finalizer)
		return ctrl.Result{}, m.Update(ctx, &from)
	}
	if controllerutil.AddFinalizer(&from, finalizer) {
		return ctrl.Result{}, m.Update(ctx, &from)
	}
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: from.Namespace, Name: name}}
	result, err := controllerutil.CreateOrUpdate(ctx, m.Client, s, func() error {
		s.StringData = from.Data
		return controllerutil.SetControllerReference(&from, s, m.Scheme())
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	done := coreapply.ConfigMap(from.Name, from.Namespace).WithAnnotations(map[string]string{"example.com/result": string(result)})
	if result == controllerutil.OperationResultNone {
		return ctrl.Result{}, nil
	}
	return ctrl.Result{}, m.Apply(ctx, done, client.FieldOwner("mirror"), client.ForceOwnership)
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 80*time.Second)
	defer cancel()
	log.SetLogger(zap.New(zap.WriteTo(os.Stderr)))
	if err := run(ctx); err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
	fmt.Println("ok manager")
}

func run(ctx context.Context) error {
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	direct, err := client.New(config, client.Options{})
	if err != nil {
		return err
	}
	if err := direct.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
		return err
	}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		LeaderElection: true, LeaderElectionID: "mirror", LeaderElectionNamespace: ns, LeaderElectionReleaseOnCancel: true,
		Metrics: server.Options{BindAddress: "0"},
	})
	if err != nil {
		return err
	}
	err = mgr.GetFieldIndexer().IndexField(ctx, &corev1.ConfigMap{}, byWanted, func(o client.Object) []string {
		return []string{o.GetAnnotations()[wanted]}
	})
	if err != nil {
		return err
	}
	err = ctrl.NewControllerManagedBy(mgr).For(&corev1.ConfigMap{}).Owns(&corev1.Secret{}).Complete(&mirror{mgr.GetClient()})
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(running) }()
	err = play(ctx, direct, mgr.GetClient())
	stop()
	if e := <-ended; err == nil {
		err = e
	}
	return err
}

// play asks for a secret, destroys it, changes it, and takes the wish back.
func play(ctx context.Context, direct, cached client.Client) error {
	from := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "wish", Annotations: map[string]string{wanted: "granted"}}, Data: map[string]string{"k": "1"}}
	if err := direct.Create(ctx, from); err != nil {
		return err
	}
	var s corev1.Secret
	at := client.ObjectKey{Namespace: ns, Name: "granted"}
	holds := func(value string, not string) func() (bool, error) {
		return func() (bool, error) {
			err := direct.Get(ctx, at, &s)
			return err == nil && string(s.Data["k"]) == value && string(s.UID) != not, client.IgnoreNotFound(err)
		}
	}
	if err := until(ctx, "the secret is made", holds("1", "")); err != nil {
		return err
	}
	first := string(s.UID)
	if err := direct.Delete(ctx, &s); err != nil {
		return err
	}
	if err := until(ctx, "the secret is made again", holds("1", first)); err != nil {
		return err
	}
	if err := direct.Patch(ctx, from, client.RawPatch("application/merge-patch+json", []byte(`{"data":{"k":"2"}}`))); err != nil {
		return err
	}
	if err := until(ctx, "the secret follows", holds("2", "")); err != nil {
		return err
	}
	if err := until(ctx, "the index finds it", func() (bool, error) {
		var l corev1.ConfigMapList
		err := cached.List(ctx, &l, client.InNamespace(ns), client.MatchingFields{byWanted: "granted"})
		return len(l.Items) == 1 && l.Items[0].Data["k"] == "2", err
	}); err != nil {
		return err
	}
	if err := direct.Delete(ctx, from); err != nil {
		return err
	}
	if err := until(ctx, "the wish ends", func() (bool, error) {
		err := direct.Get(ctx, client.ObjectKeyFromObject(from), from)
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	}); err != nil {
		return err
	}
	return until(ctx, "the secret is collected", func() (bool, error) {
		err := direct.Get(ctx, at, &s)
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
}

func until(ctx context.Context, what string, holds func() (bool, error)) error {
	for {
		ok, err := holds()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if ok {
			fmt.Println("ok", what)
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
	}
}
