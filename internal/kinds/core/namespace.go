// Package core declares the kinds of the core group, v1.
package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
)

// Namespace holds namespaced objects; deleting it deletes them first.
var Namespace = &api.Kind[*corev1.Namespace]{
	API: "v1", Resource: "namespaces", Scope: api.Cluster, Short: []string{"ns"},
	Columns: []api.Column[*corev1.Namespace]{
		api.Col("Status", func(n *corev1.Namespace) string { return string(n.Status.Phase) }),
	},
	Fields: map[string]func(*corev1.Namespace) string{
		"status.phase": func(n *corev1.Namespace) string { return string(n.Status.Phase) },
		"name":         func(n *corev1.Namespace) string { return n.Name },
	},
	Name:           validation.NameIsDNSLabel,
	Default:        defaultNamespace,
	Prepare:        prepareNamespace,
	Validate:       validateNamespace,
	Status:         true,
	PrepareStatus:  prepareNamespaceStatus,
	ValidateStatus: validateNamespaceStatus,
	Ungenerated:    true,
	Sub:            map[string]*api.Sub{"finalize": finalizeNamespace},
	Deleting:       func(n *corev1.Namespace) { n.Status.Phase = corev1.NamespaceTerminating },
	Held:           func(n *corev1.Namespace) bool { return len(n.Spec.Finalizers) > 0 },
	Verbs:          []api.Verb{api.Create, api.Delete, api.Get, api.List, api.Patch, api.Update, api.Watch},
}

// namespaceNameLabel always holds the namespace's name.
const namespaceNameLabel = corev1.LabelMetadataName

func defaultNamespace(n *corev1.Namespace) {
	if n.Name == "" { // it will come from generateName
		return
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[namespaceNameLabel] = n.Name
}

func prepareNamespace(n, old *corev1.Namespace) {
	defaultNamespace(n)
	if old != nil {
		n.Spec.Finalizers, n.Status = old.Spec.Finalizers, old.Status
		return
	}
	n.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
		n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}

func prepareNamespaceStatus(n, old *corev1.Namespace) { n.Spec = old.Spec }

func validateNamespace(n, _ *corev1.Namespace) field.ErrorList {
	return validateNamespaceFinalizers(n)
}

// validateNamespaceFinalizers checks spec.finalizers, whose names are qualified
// unless they are "kubernetes" or "orphan".
func validateNamespaceFinalizers(n *corev1.Namespace) (errs field.ErrorList) {
	path := field.NewPath("spec", "finalizers")
	for _, f := range n.Spec.Finalizers {
		errs = append(errs, validation.ValidateFinalizerName(string(f), path)...)
		if !strings.Contains(string(f), "/") && f != corev1.FinalizerKubernetes && string(f) != metav1.FinalizerOrphanDependents {
			errs = append(errs, field.Invalid(path, string(f), "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}

// validateNamespaceStatus ties the phase to the deletion.
func validateNamespaceStatus(n, _ *corev1.Namespace) (errs field.ErrorList) {
	path := field.NewPath("status", "Phase")
	if n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceActive {
		errs = append(errs, field.Invalid(path, n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty"))
	}
	if !n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceTerminating {
		errs = append(errs, field.Invalid(path, n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty"))
	}
	return errs
}

// finalizeNamespace changes spec.finalizers and nothing else.
var finalizeNamespace = &api.Sub{
	Verbs: []api.Verb{api.Update},
	Part: api.PartOf(func(n, old *corev1.Namespace) {
		n.Status = old.Status
	}, func(n, _ *corev1.Namespace) field.ErrorList { return validateNamespaceFinalizers(n) }),
}
