package storage

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

// The limits of what a driver reports about a node.
const (
	maxNodeID           = 192
	maxHealthConditions = 16
	maxHealthReason     = 256
	maxHealthMessage    = 1024
)

// CSINode lists the CSI drivers of a node, whose name it has.
var CSINode = &api.Kind[*storagev1.CSINode]{
	API: "storage.k8s.io/v1", Resource: "csinodes", Scope: api.Cluster,
	Conditional: true,
	Columns: []api.Column[*storagev1.CSINode]{
		column.Doc(api.Col("Drivers", func(n *storagev1.CSINode) int { return len(n.Spec.Drivers) }),
			"Drivers indicates the number of CSI drivers registered on the node"),
	},
	Prepare: func(n, old *storagev1.CSINode) {
		n.Status = storagev1.CSINodeStatus{}
		if old != nil {
			n.Status = old.Status
		}
	},
	Validate:       validateCSINode,
	Status:         true,
	PrepareStatus:  func(n, old *storagev1.CSINode) { n.Spec = old.Spec },
	ValidateStatus: validateCSINodeStatus,
	Ungenerated:    true,
}

func validateCSINode(n, old *storagev1.CSINode) (errs field.ErrorList) {
	path, seen := field.NewPath("spec", "drivers"), map[string]bool{}
	for i := range n.Spec.Drivers {
		d, at := &n.Spec.Drivers[i], path.Index(i)
		errs = append(errs, validateNodeDriver(d, at)...)
		if seen[d.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), d.Name))
		}
		seen[d.Name] = true
	}
	if old == nil {
		return errs
	}
	for _, was := range old.Spec.Drivers {
		for _, is := range n.Spec.Drivers {
			if is.Name == was.Name {
				is.Allocatable, was.Allocatable = nil, nil // copies: what may change
				errs = append(errs, validate.Same(is, was, path)...)
			}
		}
	}
	return errs
}

func validateNodeDriver(d *storagev1.CSINodeDriver, at *field.Path) (errs field.ErrorList) {
	errs = append(errs, podspec.CSIDriver(d.Name, at.Child("name"))...)
	errs = append(errs, validate.Given(d.NodeID, at.Child("nodeID"))...)
	if len(d.NodeID) > maxNodeID {
		errs = append(errs, field.Invalid(at.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", maxNodeID)))
	}
	if d.Allocatable != nil {
		errs = append(errs, validate.CountOf(d.Allocatable.Count, at.Child("allocatable", "count"))...)
	}
	seen := map[string]bool{}
	for _, key := range d.TopologyKeys {
		errs = append(errs, validate.Given(key, at)...)
		if seen[key] {
			errs = append(errs, field.Duplicate(at, key))
		}
		seen[key] = true
		errs = append(errs, metavalidation.ValidateLabelName(key, at)...)
	}
	return errs
}

// validateCSINodeStatus checks what drivers report about their backends.
func validateCSINodeStatus(n, _ *storagev1.CSINode) (errs field.ErrorList) {
	path, seen := field.NewPath("status", "storageHealth"), map[string]bool{}
	for i, h := range n.Status.StorageHealth {
		at := path.Index(i)
		errs = append(errs, podspec.CSIDriver(h.Name, at.Child("name"))...)
		if seen[h.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), h.Name))
		}
		seen[h.Name] = true
		if len(h.HealthConditions) > maxHealthConditions {
			errs = append(errs, field.TooMany(at.Child("healthConditions"), len(h.HealthConditions), maxHealthConditions))
		}
		for j := range h.HealthConditions {
			errs = append(errs, validateHealth(&h.HealthConditions[j], at.Child("healthConditions").Index(j))...)
		}
	}
	return errs
}

func validateHealth(c *storagev1.StorageHealthCondition, at *field.Path) (errs field.ErrorList) {
	errs = append(errs, validate.OneOf(c.Status, at.Child("status"), storagev1.StorageDegraded, storagev1.StorageUnreachable)...)
	errs = append(errs, validate.Given(c.Reason, at.Child("reason"))...)
	errs = append(errs, validate.AtMost(c.Reason, at.Child("reason"), maxHealthReason)...)
	errs = append(errs, validate.AtMost(c.Message, at.Child("message"), maxHealthMessage)...)
	if m := c.AccessMode; m != nil {
		errs = append(errs, validate.Known(*m, at.Child("accessMode"),
			corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)...)
	}
	if m := c.VolumeMode; m != nil {
		errs = append(errs, validate.Known(*m, at.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	return errs
}
