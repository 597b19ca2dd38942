// Package apiextensions declares the kinds of apiextensions.k8s.io/v1: with
// their objects users declare kinds of their own.
package apiextensions

import (
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"proa/internal/api"
	"proa/internal/kinds/column"
)

// Finalizer keeps a definition that is being deleted until its objects are gone.
const Finalizer = "customresourcecleanup.apiextensions.k8s.io"

// CustomResourceDefinition declares a custom resource in all its versions.
var CustomResourceDefinition = &api.Kind[*apiextensionsv1.CustomResourceDefinition]{
	API: "apiextensions.k8s.io/v1", Resource: "customresourcedefinitions", Scope: api.Cluster,
	Short: []string{"crd", "crds"}, Categories: []string{"api-extensions"},
	Whole: true,
	Columns: []api.Column[*apiextensionsv1.CustomResourceDefinition]{
		column.Name(column.Plain[*apiextensionsv1.CustomResourceDefinition]),
		column.Doc(api.Col("Scope", func(d *apiextensionsv1.CustomResourceDefinition) string { return string(d.Spec.Scope) }), "Cluster/Namespaced"),
		column.Doc(api.Col("Versions", servedVersions), "Served versions"),
		column.CreatedAt[*apiextensionsv1.CustomResourceDefinition](),
		column.Doc(api.Wide("Group", func(d *apiextensionsv1.CustomResourceDefinition) string { return d.Spec.Group }), "API group"),
		column.Doc(api.Wide("Kind", func(d *apiextensionsv1.CustomResourceDefinition) string { return d.Spec.Names.Kind }), "CustomResource kind"),
		column.Doc(api.Wide("ShortNames", func(d *apiextensionsv1.CustomResourceDefinition) string {
			return strings.Join(d.Spec.Names.ShortNames, ",")
		}), "Short names"),
		column.Doc(api.Wide("Established", func(d *apiextensionsv1.CustomResourceDefinition) bool {
			return True(d, apiextensionsv1.Established)
		}), "Established status"),
	},
	Default:        apiextensionsv1.SetObjectDefaults_CustomResourceDefinition,
	Prepare:        prepareDefinition,
	Tidy:           true,
	Validate:       validateDefinition,
	Warn:           warnDefinition,
	Status:         true,
	ValidateStatus: validateDefinitionStatus,
	Deleting:       deletingDefinition,
	Versioned:      true,
	Types:          types,
}

// servedVersions lists the versions that are served, and says which is stored.
func servedVersions(d *apiextensionsv1.CustomResourceDefinition) string {
	var out []string
	for i := range d.Spec.Versions {
		switch v := &d.Spec.Versions[i]; {
		case v.Served && v.Storage:
			out = append(out, v.Name+"(storage)")
		case v.Served:
			out = append(out, v.Name)
		}
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// Condition returns the condition of a type, or nil.
func Condition(d *apiextensionsv1.CustomResourceDefinition, t apiextensionsv1.CustomResourceDefinitionConditionType) *apiextensionsv1.CustomResourceDefinitionCondition {
	for i := range d.Status.Conditions {
		if d.Status.Conditions[i].Type == t {
			return &d.Status.Conditions[i]
		}
	}
	return nil
}

// True says whether a definition has a condition, and it is true.
func True(d *apiextensionsv1.CustomResourceDefinition, t apiextensionsv1.CustomResourceDefinitionConditionType) bool {
	c := Condition(d, t)
	return c != nil && c.Status == apiextensionsv1.ConditionTrue
}

// SetCondition puts a condition into the status of d, which the caller may
// change. Its time stays if only its reason or its message changes.
func SetCondition(d *apiextensionsv1.CustomResourceDefinition, c apiextensionsv1.CustomResourceDefinitionCondition) {
	have := Condition(d, c.Type)
	if have == nil {
		d.Status.Conditions = append(slices.Clip(d.Status.Conditions), c)
		return
	}
	if have.Status == c.Status && !have.LastTransitionTime.IsZero() {
		c.LastTransitionTime = have.LastTransitionTime
	}
	*have = c
}

// StorageVersion is the name of the version that objects are stored in.
func StorageVersion(d *apiextensionsv1.CustomResourceDefinition) string {
	for i := range d.Spec.Versions {
		if d.Spec.Versions[i].Storage {
			return d.Spec.Versions[i].Name
		}
	}
	return ""
}

// prepareDefinition keeps the status, and notes there in which versions there
// may be stored objects: every one that was the storage version once.
func prepareDefinition(d, old *apiextensionsv1.CustomResourceDefinition) {
	d.Status = apiextensionsv1.CustomResourceDefinitionStatus{}
	if old != nil {
		d.Status = old.Status
	}
	if v := StorageVersion(d); v != "" && !slices.Contains(d.Status.StoredVersions, v) {
		d.Status.StoredVersions = append(slices.Clip(d.Status.StoredVersions), v)
	}
}

// deletingDefinition marks a definition whose objects are to be deleted first.
// The spec is as it was, and so is the generation.
func deletingDefinition(d *apiextensionsv1.CustomResourceDefinition) {
	d.DeletionGracePeriodSeconds = nil
	d.Generation--
	if !slices.Contains(d.Finalizers, Finalizer) {
		d.Finalizers = append(slices.Clip(d.Finalizers), Finalizer)
	}
	d.Status.Conditions = slices.Clone(d.Status.Conditions) // others may share them
	SetCondition(d, apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue, LastTransitionTime: *d.DeletionTimestamp,
		Reason:  "InstanceDeletionPending",
		Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
	})
}
