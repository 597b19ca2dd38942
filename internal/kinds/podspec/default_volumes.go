package podspec

import (
	corev1 "k8s.io/api/core/v1"

	"proa/internal/kinds/fill"
)

func defaultVolume(v *corev1.Volume) {
	if v.VolumeSource == (corev1.VolumeSource{}) {
		v.EmptyDir = new(corev1.EmptyDirVolumeSource)
	}
	if h := v.HostPath; h != nil {
		fill.Nil(&h.Type, corev1.HostPathUnset)
	}
	if s := v.Secret; s != nil {
		fill.Nil(&s.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	}
	if s := v.ConfigMap; s != nil {
		fill.Nil(&s.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	}
	if s := v.DownwardAPI; s != nil {
		fill.Nil(&s.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		defaultDownward(s.Items)
	}
	if s := v.Projected; s != nil {
		fill.Nil(&s.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
		for i := range s.Sources {
			if d := s.Sources[i].DownwardAPI; d != nil {
				defaultDownward(d.Items)
			}
			if t := s.Sources[i].ServiceAccountToken; t != nil {
				fill.Nil(&t.ExpirationSeconds, 3600)
			}
			if c := s.Sources[i].PodCertificate; c != nil {
				fill.Nil(&c.MaxExpirationSeconds, 86400)
			}
		}
	}
	if e := v.Ephemeral; e != nil && e.VolumeClaimTemplate != nil {
		fill.Nil(&e.VolumeClaimTemplate.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	}
	if i := v.Image; i != nil && i.PullPolicy == "" {
		i.PullPolicy = corev1.PullIfNotPresent
		if latest(i.Reference) {
			i.PullPolicy = corev1.PullAlways
		}
	}
	defaultOldVolume(v)
}

func defaultDownward(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		if f := items[i].FieldRef; f != nil {
			fill.Zero(&f.APIVersion, "v1")
		}
	}
}

// defaultOldVolume fills in the volumes of drivers that CSI has replaced.
func defaultOldVolume(v *corev1.Volume) {
	if s := v.ISCSI; s != nil {
		fill.Zero(&s.ISCSIInterface, "default")
	}
	if s := v.RBD; s != nil {
		fill.Zero(&s.RBDPool, "rbd")
		fill.Zero(&s.RadosUser, "admin")
		fill.Zero(&s.Keyring, "/etc/ceph/keyring")
	}
	if s := v.ScaleIO; s != nil {
		fill.Zero(&s.StorageMode, "ThinProvisioned")
		fill.Zero(&s.FSType, "xfs")
	}
	if s := v.AzureDisk; s != nil {
		DefaultAzureDisk(s)
	}
}

// DefaultAzureDisk fills in an Azure data disk, of a pod or a PersistentVolume.
func DefaultAzureDisk(s *corev1.AzureDiskVolumeSource) {
	fill.Nil(&s.CachingMode, corev1.AzureDataDiskCachingReadWrite)
	fill.Nil(&s.Kind, corev1.AzureSharedBlobDisk)
	fill.Nil(&s.FSType, "ext4")
	fill.Nil(&s.ReadOnly, false)
}
