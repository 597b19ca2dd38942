// Package storage declares the kinds of storage.k8s.io/v1.
package storage

import (
	"iter"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
)

// DefaultClass is the annotation that makes a storage class the default.
const DefaultClass = "storageclass.kubernetes.io/is-default-class"

// IsDefault says whether claims that name no class get this one.
func IsDefault(s *storagev1.StorageClass) bool {
	return s.Annotations[DefaultClass] == "true" || s.Annotations["storageclass.beta.kubernetes.io/is-default-class"] == "true"
}

// DefaultOf is the class that claims get which name none: the newest of those that
// are marked so, of several made at once the first by name; nil if there is none.
func DefaultOf(all iter.Seq[*storagev1.StorageClass]) (best *storagev1.StorageClass) {
	for s := range all {
		if !IsDefault(s) {
			continue
		}
		if best == nil || best.CreationTimestamp.Before(&s.CreationTimestamp) ||
			best.CreationTimestamp.Equal(&s.CreationTimestamp) && s.Name < best.Name {
			best = s
		}
	}
	return best
}

// StorageClass describes how volumes of some kind are made.
var StorageClass = &api.Kind[*storagev1.StorageClass]{
	API: "storage.k8s.io/v1", Resource: "storageclasses", Scope: api.Cluster, Short: []string{"sc"},
	Whole: true,
	Columns: []api.Column[*storagev1.StorageClass]{
		column.Name(func(s *storagev1.StorageClass) string {
			if IsDefault(s) {
				return s.Name + " (default)"
			}
			return s.Name
		}),
		api.Col("Provisioner", func(s *storagev1.StorageClass) string { return s.Provisioner }),
		api.Col("ReclaimPolicy", func(s *storagev1.StorageClass) string {
			if s.ReclaimPolicy == nil {
				return string(corev1.PersistentVolumeReclaimDelete)
			}
			return string(*s.ReclaimPolicy)
		}),
		api.Col("VolumeBindingMode", func(s *storagev1.StorageClass) string {
			if s.VolumeBindingMode == nil {
				return string(storagev1.VolumeBindingImmediate)
			}
			return string(*s.VolumeBindingMode)
		}),
		api.Col("AllowVolumeExpansion", func(s *storagev1.StorageClass) bool {
			return s.AllowVolumeExpansion != nil && *s.AllowVolumeExpansion
		}),
		column.Age[*storagev1.StorageClass](),
	},
	Default: func(s *storagev1.StorageClass) {
		fill.Nil(&s.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
		fill.Nil(&s.VolumeBindingMode, storagev1.VolumeBindingImmediate)
	},
	Validate: validateStorageClass,
	Warn:     warnStorageClass,
}
