package controllers

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
)

const (
	defaultAccount = "default"
	rootCAName     = "kube-root-ca.crt"
	rootCAKey      = "ca.crt"
	rootCANote     = "kubernetes.io/description"
	rootCAText     = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)

// namespaceOf is the namespace that an object of that name is in.
func namespaceOf[T api.Object](name string) func(*control.Cluster, T) []control.Key {
	return func(_ *control.Cluster, o T) []control.Key {
		if o.GetName() != name {
			return nil
		}
		return []control.Key{{Name: o.GetNamespace()}}
	}
}

// ServiceAccount sees to it that every namespace has an account named default.
var ServiceAccount = &control.Controller[*corev1.Namespace]{
	Name:    "serviceaccount",
	For:     core.Namespace,
	Watches: []control.Watch{control.On(core.ServiceAccount, namespaceOf[*corev1.ServiceAccount](defaultAccount))},
	Writes:  []api.Definition{core.ServiceAccount},
	Reconcile: func(ctx context.Context, c *control.Cluster, n *corev1.Namespace) (time.Duration, error) {
		if n.DeletionTimestamp != nil {
			return 0, nil
		}
		if _, ok := control.Get(c, core.ServiceAccount, n.Name, defaultAccount); ok {
			return 0, nil
		}
		_, err := core.ServiceAccount.Create(ctx, c, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: n.Name, Name: defaultAccount}})
		return 0, made(err)
	},
}

// RootCA publishes the authority that signs the API server's certificate in
// every namespace, in the ConfigMap kube-root-ca.crt.
func RootCA(pem string) *control.Controller[*corev1.Namespace] {
	return &control.Controller[*corev1.Namespace]{
		Name: "root-ca-certificate-publisher",
		For:  core.Namespace,
		// There are many others, which nobody here reads.
		Watches: []control.Watch{{Kind: core.ConfigMap, Keys: namespaceOf[api.Object](rootCAName), Slim: true}},
		Writes:  []api.Definition{core.ConfigMap},
		Reconcile: func(ctx context.Context, c *control.Cluster, n *corev1.Namespace) (time.Duration, error) {
			if n.DeletionTimestamp != nil || pem == "" {
				return 0, nil
			}
			m, err := core.ConfigMap.Get(ctx, c, n.Name, rootCAName)
			switch {
			case apierrors.IsNotFound(err):
				_, err := core.ConfigMap.Create(ctx, c, &corev1.ConfigMap{
					ObjectMeta: metav1.ObjectMeta{Namespace: n.Name, Name: rootCAName, Annotations: map[string]string{rootCANote: rootCAText}},
					Data:       map[string]string{rootCAKey: pem},
				})
				return 0, made(err)
			case err != nil:
				return 0, err
			case len(m.Data) == 1 && m.Data[rootCAKey] == pem && m.Annotations[rootCANote] == rootCAText:
				return 0, nil
			}
			next := api.Clone(m)
			next.Data = map[string]string{rootCAKey: pem}
			if next.Annotations == nil {
				next.Annotations = map[string]string{}
			}
			next.Annotations[rootCANote] = rootCAText
			_, err = core.ConfigMap.Update(ctx, c, next)
			return 0, ignoreNotFound(err)
		},
	}
}

// made overlooks that something is there already, or can not be made because its namespace goes.
func made(err error) error {
	if apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}
