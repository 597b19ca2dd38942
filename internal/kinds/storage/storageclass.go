// Package storage declares the kinds of storage.k8s.io/v1.
package storage

import (
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
