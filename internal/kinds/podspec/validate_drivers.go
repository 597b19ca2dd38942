package podspec

import (
	"net"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// This file checks the volumes of drivers that CSI has replaced. Pods and
// PersistentVolumes describe them by types that are the same or nearly so: where
// they differ, a function takes the fields that it needs.

// A need is a field that must be given.
type need struct{ name, value string }

func required(at *field.Path, needs ...need) (errs field.ErrorList) {
	for _, n := range needs {
		errs = append(errs, validate.Given(n.value, at.Child(n.name))...)
	}
	return errs
}

// within checks that n is between low and high, both inclusive.
func within(n, low, high int32, at *field.Path) field.ErrorList {
	if n < low || n > high {
		return field.ErrorList{field.Invalid(at, n, validation.InclusiveRangeError(int(low), int(high)))}
	}
	return nil
}

// partition checks the number of a disk's partition; 0 is the whole disk.
func partition(n int32, at *field.Path) field.ErrorList {
	if n < 0 || n > 255 {
		return field.ErrorList{field.Invalid(at, n, validation.InclusiveRangeError(1, 255))}
	}
	return nil
}

// ValidateGCEDisk checks a disk of Google Compute Engine.
func ValidateGCEDisk(s *corev1.GCEPersistentDiskVolumeSource, at *field.Path) field.ErrorList {
	return append(required(at, need{"pdName", s.PDName}), partition(s.Partition, at.Child("partition"))...)
}

// ValidateEBS checks a volume of AWS Elastic Block Store.
func ValidateEBS(s *corev1.AWSElasticBlockStoreVolumeSource, at *field.Path) field.ErrorList {
	return append(required(at, need{"volumeID", s.VolumeID}), partition(s.Partition, at.Child("partition"))...)
}

// ValidateVsphere checks a vSphere volume.
func ValidateVsphere(s *corev1.VsphereVirtualDiskVolumeSource, at *field.Path) field.ErrorList {
	return required(at, need{"volumePath", s.VolumePath})
}

// ValidatePhoton checks a disk of a Photon controller.
func ValidatePhoton(s *corev1.PhotonPersistentDiskVolumeSource, at *field.Path) field.ErrorList {
	return required(at, need{"pdID", s.PdID})
}

// ValidatePortworx checks a Portworx volume.
func ValidatePortworx(s *corev1.PortworxVolumeSource, at *field.Path) field.ErrorList {
	return required(at, need{"volumeID", s.VolumeID})
}

// ValidateGlusterfs checks a Gluster volume: the Endpoints that lead to it, and its path.
func ValidateGlusterfs(endpoints, path string, at *field.Path) field.ErrorList {
	return required(at, need{"endpoints", endpoints}, need{"path", path})
}

// ValidateCinder checks an OpenStack volume.
func ValidateCinder(volumeID string, at *field.Path) field.ErrorList {
	return required(at, need{"volumeID", volumeID})
}

// ValidateAzureFile checks an Azure file share.
func ValidateAzureFile(secretName, shareName string, at *field.Path) field.ErrorList {
	return required(at, need{"secretName", secretName}, need{"shareName", shareName})
}

// ValidateScaleIO checks a ScaleIO volume.
func ValidateScaleIO(gateway, system, volumeName string, at *field.Path) field.ErrorList {
	return required(at, need{"gateway", gateway}, need{"system", system}, need{"volumeName", volumeName})
}

func monitors(list []string, at *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(at.Child("monitors"), "")}
	}
	return nil
}

// ValidateCephFS checks a CephFS mount.
func ValidateCephFS(mons []string, at *field.Path) field.ErrorList { return monitors(mons, at) }

// ValidateRBD checks a Ceph block device.
func ValidateRBD(mons []string, image string, at *field.Path) field.ErrorList {
	return append(monitors(mons, at), required(at, need{"image", image})...)
}

// ValidateStorageOS checks a StorageOS volume.
func ValidateStorageOS(name, namespace string, at *field.Path) (errs field.ErrorList) {
	if name == "" {
		errs = required(at, need{"volumeName", name})
	} else {
		errs = validate.Label(name, at.Child("volumeName"))
	}
	if namespace != "" {
		errs = append(errs, validate.Label(namespace, at.Child("volumeNamespace"))...)
	}
	return errs
}

// ValidateFlex checks a volume of an exec-based driver. Option names of
// Kubernetes' own domains are for what the kubelet tells the driver.
func ValidateFlex(driver string, options map[string]string, at *field.Path) field.ErrorList {
	errs := required(at, need{"driver", driver})
	for k := range options {
		domain, _, _ := strings.Cut(k, "/")
		domain = "." + strings.ToLower(domain)
		if strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io") {
			errs = append(errs, field.Invalid(at.Child("options").Key(k), k, "kubernetes.io and k8s.io namespaces are reserved"))
		}
	}
	return errs
}

// ValidateFlocker checks a Flocker dataset, known by its name or its UUID.
func ValidateFlocker(s *corev1.FlockerVolumeSource, at *field.Path) (errs field.ErrorList) {
	if s.DatasetName == "" && s.DatasetUUID == "" {
		errs = append(errs, field.Required(at, "one of datasetName and datasetUUID is required"))
	}
	if s.DatasetName != "" && s.DatasetUUID != "" {
		errs = append(errs, field.Invalid(at, "resource", "datasetName and datasetUUID can not be specified simultaneously"))
	}
	if strings.Contains(s.DatasetName, "/") {
		errs = append(errs, field.Invalid(at.Child("datasetName"), s.DatasetName, "must not contain '/'"))
	}
	return errs
}

// ValidateFC checks a Fibre Channel volume: found by target and LUN, or by its world wide identifiers.
func ValidateFC(s *corev1.FCVolumeSource, at *field.Path) (errs field.ErrorList) {
	wwns := at.Child("targetWWNs")
	switch {
	case len(s.TargetWWNs)+len(s.WWIDs) == 0:
		return append(errs, field.Required(wwns, "must specify either targetWWNs or wwids, but not both"))
	case len(s.TargetWWNs) == 0:
		return nil
	case len(s.WWIDs) > 0:
		errs = append(errs, field.Invalid(wwns, s.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously"))
	}
	if s.Lun == nil {
		return append(errs, field.Required(at.Child("lun"), "lun is required if targetWWNs is specified"))
	}
	return append(errs, within(*s.Lun, 0, 255, at.Child("lun"))...)
}

// ValidateQuobyte checks a Quobyte volume.
func ValidateQuobyte(s *corev1.QuobyteVolumeSource, at *field.Path) (errs field.ErrorList) {
	const pairs = "must be a host:port pair or multiple pairs separated by commas"
	notPair := func(s string) bool { _, _, err := net.SplitHostPort(s); return err != nil }
	switch registry := at.Child("registry"); {
	case s.Registry == "":
		errs = append(errs, field.Required(registry, pairs))
	case len(s.Tenant) > 64:
		errs = append(errs, field.Required(at.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters"))
	default:
		for _, p := range strings.Split(s.Registry, ",") {
			if notPair(p) {
				errs = append(errs, field.Invalid(registry, s.Registry, pairs))
			}
		}
	}
	return append(errs, required(at, need{"volume", s.Volume})...)
}

// ValidateAzureDisk checks an Azure data disk. The form of its URI is that of its kind.
func ValidateAzureDisk(s *corev1.AzureDiskVolumeSource, at *field.Path) field.ErrorList {
	errs := required(at, need{"diskName", s.DiskName}, need{"diskURI", s.DataDiskURI})
	if c := s.CachingMode; c != nil {
		errs = append(errs, validate.Known(*c, at.Child("cachingMode"),
			corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)...)
	}
	if s.Kind == nil {
		return errs
	}
	errs = append(errs, validate.Known(*s.Kind, at.Child("kind"),
		corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)...)
	start, form := "https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
	if *s.Kind == corev1.AzureManagedDisk {
		start, form = "/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
	}
	if !strings.HasPrefix(s.DataDiskURI, start) {
		errs = append(errs, field.NotSupported(at.Child("diskURI"), s.DataDiskURI, []string{form}))
	}
	return errs
}

// The names of iSCSI nodes (RFC 3720, 3.2.6.3): by domain, by EUI-64, by NAA.
var iscsiNames = []struct {
	prefix string
	form   *regexp.Regexp
}{
	{"iqn", regexp.MustCompile(`^iqn\.\d{4}-\d{2}\.([[:alnum:].-]+)(:[^,;*&$|\s]+)$`)},
	{"eui", regexp.MustCompile(`^eui.[[:alnum:]]{16}$`)},
	{"naa", regexp.MustCompile(`^naa.[[:alnum:]]{32}$`)},
}

// iscsiName checks the name of an iSCSI node; strange is said of one that has
// none of the known prefixes.
func iscsiName(name, strange string, at *field.Path) field.ErrorList {
	for _, n := range iscsiNames {
		if strings.HasPrefix(name, n.prefix) {
			if n.form.MatchString(name) {
				return nil
			}
			strange = "must be valid format"
			break
		}
	}
	return field.ErrorList{field.Invalid(at, name, strange)}
}

// ISCSITooLong checks the length of what a node calls the disk of a volume with
// an initiator; the error is about value, at a path.
func ISCSITooLong(s *corev1.ISCSIVolumeSource, volume, value string, at *field.Path) field.ErrorList {
	if s.InitiatorName == nil || len(volume+":"+s.TargetPortal) <= 64 {
		return nil
	}
	return field.ErrorList{field.Invalid(at, value,
		"Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.")}
}

// ValidateISCSI checks an iSCSI disk. Of a PersistentVolume's secret only the
// name is looked at here.
func ValidateISCSI(s *corev1.ISCSIVolumeSource, at *field.Path) field.ErrorList {
	errs := required(at, need{"targetPortal", s.TargetPortal}, need{"iqn", s.IQN})
	if s.IQN != "" {
		errs = append(errs, iscsiName(s.IQN, "must be valid format starting with iqn, eui, or naa", at.Child("iqn"))...)
	}
	errs = append(errs, within(s.Lun, 0, 255, at.Child("lun"))...)
	if s.SecretRef == nil && (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) {
		errs = append(errs, field.Required(at.Child("secretRef"), ""))
	}
	if s.SecretRef != nil {
		errs = append(errs, validate.Given(s.SecretRef.Name, at.Child("secretRef", "name"))...)
	}
	if s.InitiatorName == nil {
		return errs
	}
	// This path is in lower case in Kubernetes.
	return append(errs, iscsiName(*s.InitiatorName, "must be valid format", at.Child("initiatorname"))...)
}

// oldSources checks those of a pod's sources that CSI has replaced.
func (v *checker) oldSources(o *corev1.Volume, c *sourceCount) {
	at := c.at
	if s := o.GitRepo; c.first(s != nil, "gitRepo") {
		v.given(s.Repository, at.Child("gitRepo"), "repository")
		v.add(validate.RelativePath(s.Directory, at.Child("gitRepo", "directory"))...)
	}
	if s := o.GCEPersistentDisk; c.first(s != nil, "gcePersistentDisk") {
		v.add(ValidateGCEDisk(s, at.Child("persistentDisk"))...) // so Kubernetes calls it
	}
	if s := o.AWSElasticBlockStore; c.first(s != nil, "awsElasticBlockStore") {
		v.add(ValidateEBS(s, at.Child("awsElasticBlockStore"))...)
	}
	if s := o.ISCSI; c.first(s != nil, "iscsi") {
		v.add(ValidateISCSI(s, at.Child("iscsi"))...)
		v.add(ISCSITooLong(s, o.Name, o.Name, at.Child("name"))...)
	}
	if s := o.Glusterfs; c.first(s != nil, "glusterfs") {
		v.add(ValidateGlusterfs(s.EndpointsName, s.Path, at.Child("glusterfs"))...)
	}
	if s := o.Flocker; c.first(s != nil, "flocker") {
		v.add(ValidateFlocker(s, at.Child("flocker"))...)
	}
	if s := o.RBD; c.first(s != nil, "rbd") {
		v.add(ValidateRBD(s.CephMonitors, s.RBDImage, at.Child("rbd"))...)
	}
	if s := o.Cinder; c.first(s != nil, "cinder") {
		v.add(ValidateCinder(s.VolumeID, at.Child("cinder"))...)
		v.secretRef(s.SecretRef, at, "cinder")
	}
	if s := o.CephFS; c.first(s != nil, "cephfs") {
		v.add(ValidateCephFS(s.Monitors, at.Child("cephfs"))...)
	}
	if s := o.Quobyte; c.first(s != nil, "quobyte") {
		v.add(ValidateQuobyte(s, at.Child("quobyte"))...)
	}
	if s := o.FC; c.first(s != nil, "fc") {
		v.add(ValidateFC(s, at.Child("fc"))...)
	}
	if s := o.FlexVolume; c.first(s != nil, "flexVolume") {
		v.add(ValidateFlex(s.Driver, s.Options, at.Child("flexVolume"))...)
	}
	if s := o.AzureFile; c.first(s != nil, "azureFile") {
		v.add(ValidateAzureFile(s.SecretName, s.ShareName, at.Child("azureFile"))...)
	}
	if s := o.AzureDisk; c.first(s != nil, "azureDisk") {
		v.add(ValidateAzureDisk(s, at.Child("azureDisk"))...)
	}
	if s := o.VsphereVolume; c.first(s != nil, "vsphereVolume") {
		v.add(ValidateVsphere(s, at.Child("vsphereVolume"))...)
	}
	if s := o.PhotonPersistentDisk; c.first(s != nil, "photonPersistentDisk") {
		v.add(ValidatePhoton(s, at.Child("photonPersistentDisk"))...)
	}
	if s := o.PortworxVolume; c.first(s != nil, "portworxVolume") {
		v.add(ValidatePortworx(s, at.Child("portworxVolume"))...)
	}
	if s := o.StorageOS; c.first(s != nil, "storageos") {
		v.add(ValidateStorageOS(s.VolumeName, s.VolumeNamespace, at.Child("storageos"))...)
		v.secretRef(s.SecretRef, at, "storageos")
	}
	if s := o.ScaleIO; c.first(s != nil, "scaleIO") {
		v.add(ValidateScaleIO(s.Gateway, s.System, s.VolumeName, at.Child("scaleIO"))...)
	}
}

func (v *checker) secretRef(r *corev1.LocalObjectReference, at *field.Path, driver string) {
	if r != nil {
		v.given(r.Name, at.Child(driver, "secretRef"), "name")
	}
}
