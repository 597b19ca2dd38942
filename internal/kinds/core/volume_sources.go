package core

import (
	"path"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

// validateVolumeSource checks where a PersistentVolume is.
func validateVolumeSource(v *corev1.PersistentVolume) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	s := &v.Spec
	if h := s.HostPath; h != nil {
		add(podspec.ValidateHostPath(h, specPath.Child("hostPath"))...)
		if path.Clean(h.Path) == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
			add(field.Forbidden(specPath.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
		}
	}
	if l := s.Local; l != nil {
		at := specPath.Child("local")
		add(validate.Given(l.Path, at.Child("path"))...)
		add(validate.NoBacksteps(l.Path, at.Child("path"))...)
		if s.NodeAffinity == nil || s.NodeAffinity.Required == nil {
			add(field.Required(field.NewPath("metadata", "annotations"), "Local volume requires node affinity"))
		}
	}
	if n := s.NFS; n != nil {
		add(podspec.ValidateNFS(n, specPath.Child("nfs"))...)
	}
	if c := s.CSI; c != nil {
		add(ValidateCSIVolume(c, specPath.Child("csi"))...)
	}
	if _, ok := v.Annotations[corev1.MountOptionAnnotation]; ok && (s.HostPath != nil || s.Local != nil || s.FC != nil || s.FlexVolume != nil ||
		s.Flocker != nil || s.PhotonPersistentDisk != nil || s.PortworxVolume != nil || s.ScaleIO != nil) {
		add(field.Forbidden(field.NewPath("metadata", "annotations").Key(corev1.MountOptionAnnotation), "may not specify mount options for this volume type"))
	}
	add(validateSharedDriver(&s.PersistentVolumeSource)...)
	return append(errs, validateOldDriver(&s.PersistentVolumeSource, v.Name)...)
}

// secretOf checks a reference to a secret in a namespace: that both are named.
func secretOf(r *corev1.SecretReference, at *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	return append(validate.Given(r.Name, at.Child("name")), validate.Given(r.Namespace, at.Child("namespace"))...)
}

// ValidateCSIVolume checks a volume of a CSI driver, of a PersistentVolume or one
// that a pod brought itself.
func ValidateCSIVolume(c *corev1.CSIPersistentVolumeSource, at *field.Path) field.ErrorList {
	errs := podspec.CSIDriver(c.Driver, at.Child("driver"))
	errs = append(errs, validate.Given(c.VolumeHandle, at.Child("volumeHandle"))...)
	for _, s := range []struct {
		name string
		ref  *corev1.SecretReference
	}{{"controllerPublishSecretRef", c.ControllerPublishSecretRef}, {"controllerExpandSecretRef", c.ControllerExpandSecretRef},
		{"nodePublishSecretRef", c.NodePublishSecretRef}, {"nodeExpandSecretRef", c.NodeExpandSecretRef}} {
		if s.ref == nil {
			continue
		}
		p := at.Child(s.name)
		errs = append(errs, secretOf(s.ref, p)...)
		if s.ref.Name != "" {
			errs = append(errs, validate.Subdomain(s.ref.Name, p.Child("name"))...)
		}
		if s.ref.Namespace != "" {
			errs = append(errs, validate.Label(s.ref.Namespace, p.Child("namespace"))...)
		}
	}
	return errs
}

// validateSharedDriver checks the sources that pods describe by the same types.
func validateSharedDriver(s *corev1.PersistentVolumeSource) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	if d := s.GCEPersistentDisk; d != nil {
		add(podspec.ValidateGCEDisk(d, specPath.Child("gcePersistentDisk"))...)
	}
	if d := s.AWSElasticBlockStore; d != nil {
		add(podspec.ValidateEBS(d, specPath.Child("awsElasticBlockStore"))...)
	}
	if d := s.FC; d != nil {
		add(podspec.ValidateFC(d, specPath.Child("fc"))...)
	}
	if d := s.Flocker; d != nil {
		add(podspec.ValidateFlocker(d, specPath.Child("flocker"))...)
	}
	if d := s.VsphereVolume; d != nil {
		add(podspec.ValidateVsphere(d, specPath.Child("vsphereVolume"))...)
	}
	if d := s.Quobyte; d != nil {
		add(podspec.ValidateQuobyte(d, specPath.Child("quobyte"))...)
	}
	if d := s.AzureDisk; d != nil {
		add(podspec.ValidateAzureDisk(d, specPath.Child("azureDisk"))...)
	}
	if d := s.PhotonPersistentDisk; d != nil {
		add(podspec.ValidatePhoton(d, specPath.Child("photonPersistentDisk"))...)
	}
	if d := s.PortworxVolume; d != nil {
		add(podspec.ValidatePortworx(d, specPath.Child("portworxVolume"))...)
	}
	return errs
}

// validateOldDriver checks the sources whose types differ from those of pods,
// mostly in that their secrets have a namespace.
func validateOldDriver(s *corev1.PersistentVolumeSource, volume string) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	if d := s.ISCSI; d != nil {
		same := &corev1.ISCSIVolumeSource{TargetPortal: d.TargetPortal, IQN: d.IQN, Lun: d.Lun, InitiatorName: d.InitiatorName,
			DiscoveryCHAPAuth: d.DiscoveryCHAPAuth, SessionCHAPAuth: d.SessionCHAPAuth}
		if d.SecretRef != nil {
			same.SecretRef = &corev1.LocalObjectReference{Name: d.SecretRef.Name}
		}
		at := specPath.Child("iscsi")
		add(podspec.ValidateISCSI(same, at)...)
		// This path is in lower case in Kubernetes.
		add(podspec.ISCSITooLong(same, volume, d.TargetPortal, at.Child("targetportal"))...)
	}
	if d, at := s.Glusterfs, specPath.Child("glusterfs"); d != nil {
		add(podspec.ValidateGlusterfs(d.EndpointsName, d.Path, at)...)
		if ns := d.EndpointsNamespace; ns != nil && *ns == "" {
			add(field.Invalid(at.Child("endpointsNamespace"), *ns, "if the endpointnamespace is set, it must be a valid namespace name"))
		} else if ns != nil {
			add(validate.Label(*ns, at.Child("endpointsNamespace"))...)
		}
	}
	if d := s.RBD; d != nil {
		add(podspec.ValidateRBD(d.CephMonitors, d.RBDImage, specPath.Child("rbd"))...)
	}
	if d := s.CephFS; d != nil {
		add(podspec.ValidateCephFS(d.Monitors, specPath.Child("cephfs"))...)
	}
	if d, at := s.Cinder, specPath.Child("cinder"); d != nil {
		add(podspec.ValidateCinder(d.VolumeID, at)...)
		add(secretOf(d.SecretRef, at.Child("secretRef"))...)
	}
	if d := s.FlexVolume; d != nil {
		add(podspec.ValidateFlex(d.Driver, d.Options, specPath.Child("flexVolume"))...)
	}
	if d, at := s.AzureFile, specPath.Child("azureFile"); d != nil {
		add(podspec.ValidateAzureFile(d.SecretName, d.ShareName, at)...)
		if d.SecretNamespace != nil {
			add(validate.Given(*d.SecretNamespace, at.Child("secretNamespace"))...)
		}
	}
	if d := s.ScaleIO; d != nil {
		add(podspec.ValidateScaleIO(d.Gateway, d.System, d.VolumeName, specPath.Child("scaleIO"))...)
	}
	if d, at := s.StorageOS, specPath.Child("storageos"); d != nil {
		add(podspec.ValidateStorageOS(d.VolumeName, d.VolumeNamespace, at)...)
		if r := d.SecretRef; r != nil {
			add(secretOf(&corev1.SecretReference{Name: r.Name, Namespace: r.Namespace}, at.Child("secretRef"))...)
		}
	}
	return errs
}
