package core

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
	"proa/internal/kinds/podspec"
)

// PersistentVolume is storage that outlives pods.
var PersistentVolume = &api.Kind[*corev1.PersistentVolume]{
	API: "v1", Resource: "persistentvolumes", Scope: api.Cluster, Short: []string{"pv"},
	Whole: true,
	Columns: []api.Column[*corev1.PersistentVolume]{
		column.Name(column.Plain[*corev1.PersistentVolume]),
		api.Col("Capacity", func(v *corev1.PersistentVolume) string { return storageOf(v.Spec.Capacity) }),
		api.Col("Access Modes", func(v *corev1.PersistentVolume) string { return accessModes(v.Spec.AccessModes) }),
		api.Col("Reclaim Policy", func(v *corev1.PersistentVolume) string { return string(v.Spec.PersistentVolumeReclaimPolicy) }),
		api.Col("Status", func(v *corev1.PersistentVolume) string {
			if v.DeletionTimestamp != nil {
				return "Terminating"
			}
			return string(v.Status.Phase)
		}),
		api.Col("Claim", func(v *corev1.PersistentVolume) string {
			if r := v.Spec.ClaimRef; r != nil {
				return r.Namespace + "/" + r.Name
			}
			return ""
		}),
		api.Col("StorageClass", func(v *corev1.PersistentVolume) string {
			if c, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
				return c
			}
			return v.Spec.StorageClassName
		}),
		api.Col("VolumeAttributesClass", func(v *corev1.PersistentVolume) string { return orUnset(v.Spec.VolumeAttributesClassName) }),
		api.Col("Reason", func(v *corev1.PersistentVolume) string { return v.Status.Reason }),
		column.Age[*corev1.PersistentVolume](),
		api.Wide("VolumeMode", func(v *corev1.PersistentVolume) string { return orUnset(v.Spec.VolumeMode) }),
	},
	Default: defaultPersistentVolume,
	Prepare: func(v, old *corev1.PersistentVolume) {
		v.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending}
		if old != nil {
			v.Status = old.Status
		}
	},
	Validate:      validatePersistentVolume,
	Warn:          func(v, _ *corev1.PersistentVolume) []string { return warnClass(v.Annotations) },
	Status:        true,
	PrepareStatus: func(v, old *corev1.PersistentVolume) { v.Spec = old.Spec },
	Ungenerated:   true,
}

// warnClass warns about the annotation that a field has replaced.
func warnClass(annotations map[string]string) []string {
	if _, ok := annotations[corev1.BetaStorageClassAnnotation]; !ok {
		return nil
	}
	return []string{"metadata.annotations[" + corev1.BetaStorageClassAnnotation + "]: deprecated since v1.8; use \"storageClassName\" attribute instead"}
}

func orUnset[S ~string](s *S) string {
	if s == nil {
		return "<unset>"
	}
	return string(*s)
}

func storageOf(l corev1.ResourceList) string {
	q := l[corev1.ResourceStorage]
	return q.String()
}

// accessModes is the short form of a set of access modes: RWO,ROX,RWX,RWOP.
func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	short := []struct {
		mode corev1.PersistentVolumeAccessMode
		name string
	}{{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"}}
	var out []string
	for _, s := range short {
		for _, m := range modes {
			if m == s.mode {
				out = append(out, s.name)
				break
			}
		}
	}
	return strings.Join(out, ",")
}

func defaultPersistentVolume(v *corev1.PersistentVolume) {
	fill.Zero(&v.Status.Phase, corev1.VolumePending)
	fill.Zero(&v.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	fill.Nil(&v.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	if h := v.Spec.HostPath; h != nil {
		fill.Nil(&h.Type, corev1.HostPathUnset)
	}
	if s := v.Spec.ISCSI; s != nil {
		fill.Zero(&s.ISCSIInterface, "default")
	}
	if s := v.Spec.RBD; s != nil {
		fill.Zero(&s.RBDPool, "rbd")
		fill.Zero(&s.RadosUser, "admin")
		fill.Zero(&s.Keyring, "/etc/ceph/keyring")
	}
	if s := v.Spec.ScaleIO; s != nil {
		fill.Zero(&s.StorageMode, "ThinProvisioned")
		fill.Zero(&s.FSType, "xfs")
	}
	if s := v.Spec.AzureDisk; s != nil {
		podspec.DefaultAzureDisk(s)
	}
	podspec.RoundResources(v.Spec.Capacity)
}
