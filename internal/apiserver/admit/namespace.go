package admit

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
)

// immortal are the namespaces that a cluster cannot be without.
var immortal = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease}

// namespaceLifecycle lets nothing be made in a namespace that is not there or
// is being deleted.
var namespaceLifecycle = &Step{
	Name: "NamespaceLifecycle", For: []string{"*"}, Verbs: []api.Verb{api.Create, api.Delete},
	Admit: func(_ context.Context, a *Attributes) error {
		gr := corev1.Resource("namespaces")
		if a.Verb == api.Delete {
			if a.Resource.GroupResource() == gr && slices.Contains(immortal, a.Name) {
				return forbidden(a, errors.New("this namespace may not be deleted"))
			}
			return nil
		}
		name := a.New.GetNamespace()
		if name == "" {
			return nil
		}
		ns := a.State.Get(gr, "", name)
		if ns == nil {
			return apierrors.NewNotFound(gr, name)
		}
		if ns.GetDeletionTimestamp() == nil {
			return nil
		}
		err := forbidden(a, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", name))
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
			Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", name), Field: "metadata.namespace"})
		return err
	},
}
