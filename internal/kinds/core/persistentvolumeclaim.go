package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/kinds/fill"
	"proa/internal/kinds/podspec"
)

// PersistentVolumeClaim asks for storage, and holds what it got.
var PersistentVolumeClaim = &api.Kind[*corev1.PersistentVolumeClaim]{
	API: "v1", Resource: "persistentvolumeclaims", Scope: api.Namespaced, Short: []string{"pvc"},
	Columns: []api.Column[*corev1.PersistentVolumeClaim]{
		api.Col("Status", func(c *corev1.PersistentVolumeClaim) string {
			if c.DeletionTimestamp != nil {
				return "Terminating"
			}
			return string(c.Status.Phase)
		}),
		api.Col("Volume", func(c *corev1.PersistentVolumeClaim) string { return c.Spec.VolumeName }),
		api.Col("Capacity", func(c *corev1.PersistentVolumeClaim) string {
			if c.Spec.VolumeName == "" {
				return ""
			}
			return storageOf(c.Status.Capacity)
		}),
		api.Col("Access Modes", func(c *corev1.PersistentVolumeClaim) string {
			if c.Spec.VolumeName == "" {
				return ""
			}
			return accessModes(c.Status.AccessModes)
		}),
		api.Col("StorageClass", func(c *corev1.PersistentVolumeClaim) string {
			if s, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
				return s
			}
			if c.Spec.StorageClassName != nil {
				return *c.Spec.StorageClassName
			}
			return ""
		}),
		api.Col("VolumeAttributesClass", func(c *corev1.PersistentVolumeClaim) string { return orUnset(c.Spec.VolumeAttributesClassName) }),
		api.Wide("VolumeMode", func(c *corev1.PersistentVolumeClaim) string { return orUnset(c.Spec.VolumeMode) }),
	},
	Default: func(c *corev1.PersistentVolumeClaim) {
		fill.Zero(&c.Status.Phase, corev1.ClaimPending)
		DefaultClaimSpec(&c.Spec)
	},
	Prepare: func(c, old *corev1.PersistentVolumeClaim) {
		c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
		var was *corev1.PersistentVolumeClaimSpec
		if old != nil {
			c.Status, was = old.Status, &old.Spec
		}
		prepareDataSource(&c.Spec, was)
	},
	Validate:       validateClaim,
	Warn:           warnClaim,
	Status:         true,
	PrepareStatus:  func(c, old *corev1.PersistentVolumeClaim) { c.Spec = old.Spec },
	ValidateStatus: validateClaimStatus,
	Ungenerated:    true,
}

func warnClaim(c, _ *corev1.PersistentVolumeClaim) []string {
	out := warnClass(c.Annotations)
	if q := c.Spec.Resources.Requests[corev1.ResourceStorage]; q.MilliValue()%1000 != 0 {
		out = append(out, fmt.Sprintf("spec.resources.requests[storage]: fractional byte value %q is invalid, must be an integer", q.String()))
	}
	return out
}

// DefaultClaimSpec fills in a claim's spec, also the one inside a StatefulSet.
func DefaultClaimSpec(s *corev1.PersistentVolumeClaimSpec) {
	fill.Nil(&s.VolumeMode, corev1.PersistentVolumeFilesystem)
	podspec.RoundResources(s.Resources.Limits)
	podspec.RoundResources(s.Resources.Requests)
}

// prepareDataSource makes the older dataSource and the newer dataSourceRef say
// the same. The older one never named anything but claims and snapshots: other
// values are dropped, and so is a source in another namespace, which is not to be
// had (KEP-3294 is not on). An update keeps what was there.
func prepareDataSource(s, old *corev1.PersistentVolumeClaimSpec) {
	abroad := func(s *corev1.PersistentVolumeClaimSpec) bool {
		return s != nil && s.DataSourceRef != nil && s.DataSourceRef.Namespace != nil && *s.DataSourceRef.Namespace != ""
	}
	if abroad(s) && !abroad(old) {
		s.DataSourceRef = nil
	}
	if d := s.DataSource; d != nil && (old == nil || old.DataSource == nil && old.DataSourceRef == nil) {
		group := ""
		if d.APIGroup != nil {
			group = *d.APIGroup
		}
		if (d.Kind != "PersistentVolumeClaim" || group != "") && (d.Kind != "VolumeSnapshot" || group != "snapshot.storage.k8s.io") {
			s.DataSource = nil
		}
	}
	switch {
	case s.DataSource != nil && s.DataSourceRef == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: s.DataSource.APIGroup, Kind: s.DataSource.Kind, Name: s.DataSource.Name}
	case s.DataSource == nil && s.DataSourceRef != nil && !abroad(s) && (old == nil || old.DataSource != nil || old.DataSourceRef == nil):
		s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: s.DataSourceRef.APIGroup, Kind: s.DataSourceRef.Kind, Name: s.DataSourceRef.Name}
	}
}
