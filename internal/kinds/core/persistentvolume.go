package core

import (
	"fmt"
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
		api.Col("StorageClass", VolumeClass),
		api.Col("VolumeAttributesClass", func(v *corev1.PersistentVolume) string { return orUnset(v.Spec.VolumeAttributesClassName) }),
		api.Col("Reason", func(v *corev1.PersistentVolume) string { return v.Status.Reason }),
		column.Age[*corev1.PersistentVolume](),
		api.Wide("VolumeMode", func(v *corev1.PersistentVolume) string { return orUnset(v.Spec.VolumeMode) }),
	},
	Default: defaultPersistentVolume,
	Prepare: func(v, old *corev1.PersistentVolume) {
		if old != nil {
			v.Status = old.Status
			return
		}
		v.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: v.CreationTimestamp.DeepCopy()}
	},
	Validate:      validatePersistentVolume,
	Warn:          warnPersistentVolume,
	Status:        true,
	PrepareStatus: func(v, old *corev1.PersistentVolume) { v.Spec = old.Spec },
	Ungenerated:   true,
}

// warnPersistentVolume warns about what a PersistentVolume should not have any more.
func warnPersistentVolume(v, _ *corev1.PersistentVolume) []string {
	out := warnClass(v.Annotations)
	if _, ok := v.Annotations[corev1.MountOptionAnnotation]; ok {
		out = append(out, "metadata.annotations["+corev1.MountOptionAnnotation+"]: deprecated since v1.31; use \"mountOptions\" attribute instead")
	}
	s := &v.Spec
	if s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		out = append(out, "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if a := s.NodeAffinity; a != nil && a.Required != nil {
		terms := specPath.Child("nodeAffinity", "required", "nodeSelectorTerms")
		for i, t := range a.Required.NodeSelectorTerms {
			for j, r := range t.MatchExpressions {
				if msg := podspec.OldNodeLabel(r.Key); msg != "" {
					out = append(out, fmt.Sprintf("%s: %s is %s", terms.Index(i).Child("matchExpressions").Index(j).Child("key"), r.Key, msg))
				}
			}
		}
	}
	for _, d := range []struct {
		set         bool
		name, since string
	}{
		{s.CephFS != nil, "cephfs", "deprecated in v1.28, non-functional in v1.31+"},
		{s.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
		{s.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
		{s.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
		{s.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
		{s.RBD != nil, "rbd", "deprecated in v1.28, non-functional in v1.31+"},
	} {
		if d.set {
			out = append(out, "spec."+d.name+": "+d.since)
		}
	}
	return out
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
