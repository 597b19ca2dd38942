package admit

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/kinds/storage"
)

// storageInUse keeps claims and volumes there as long as they are used: its
// finalizers are taken off by the controllers pvc-protection and pv-protection.
var storageInUse = &Step{
	Name: "StorageObjectInUseProtection", For: []string{"persistentvolumeclaims", "persistentvolumes"}, Verbs: []api.Verb{api.Create},
	Mutate: func(_ context.Context, a *Attributes) error {
		name := core.VolumeProtection
		if _, ok := a.New.(*corev1.PersistentVolumeClaim); ok {
			name = core.ClaimProtection
		}
		if have := a.New.GetFinalizers(); !slices.Contains(have, name) {
			a.New.SetFinalizers(append(slices.Clip(have), name))
		}
		return nil
	},
}

// defaultStorageClass gives a claim that names no storage class the default one.
var defaultStorageClass = &Step{
	Name: "DefaultStorageClass", For: []string{"persistentvolumeclaims"}, Verbs: []api.Verb{api.Create},
	Mutate: func(_ context.Context, a *Attributes) error {
		p, ok := a.New.(*corev1.PersistentVolumeClaim)
		if !ok || core.ClaimNamesClass(p) {
			return nil
		}
		class := storage.DefaultOf(func(yield func(*storagev1.StorageClass) bool) {
			for o := range a.State.Objects(storagev1.Resource("storageclasses"), "") {
				if s, ok := o.(*storagev1.StorageClass); ok && !yield(s) {
					return
				}
			}
		})
		if class != nil {
			p.Spec.StorageClassName = new(class.Name) // the class is shared
		}
		return nil
	},
}
