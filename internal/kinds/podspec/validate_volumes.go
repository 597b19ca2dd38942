package podspec

import (
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// validateVolumes checks volumes and answers them by name.
func validateVolumes(list []corev1.Volume, path *field.Path) (vols map[string]*corev1.VolumeSource, errs field.ErrorList) {
	vols = map[string]*corev1.VolumeSource{}
	for i := range list {
		v, at := &list[i], path.Index(i)
		errs = append(errs, validateSource(v, at)...)
		name := at.Child("name")
		switch {
		case v.Name == "":
			errs = append(errs, field.Required(name, ""))
		case vols[v.Name] != nil:
			errs = append(errs, field.Duplicate(name, v.Name))
		default:
			errs = append(errs, validate.Label(v.Name, name)...)
		}
		vols[v.Name] = &v.VolumeSource
	}
	return vols, errs
}

// given names the sources that are set, by their JSON names, in the order of
// the API type.
func given(source any) (names []string) {
	v := reflect.ValueOf(source).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			names = append(names, name)
		}
	}
	return names
}

// OneSource checks that exactly one of the pointers in source, which points to
// a struct of them, is set.
func OneSource(source any, at *field.Path) (errs field.ErrorList) {
	names := given(source)
	if len(names) == 0 {
		return append(errs, field.Required(at, "must specify a volume type"))
	}
	for _, n := range names[1:] {
		errs = append(errs, field.Forbidden(at.Child(n), "may not specify more than 1 volume type"))
	}
	return errs
}

func validateSource(v *corev1.Volume, at *field.Path) (errs field.ErrorList) {
	errs = OneSource(&v.VolumeSource, at)
	add := func(e field.ErrorList) { errs = append(errs, e...) }
	if s := v.EmptyDir; s != nil && s.SizeLimit != nil && s.SizeLimit.Sign() < 0 {
		errs = append(errs, field.Forbidden(at.Child("emptyDir", "sizeLimit"), "SizeLimit field must be a valid resource quantity"))
	}
	if s := v.HostPath; s != nil {
		add(ValidateHostPath(s, at.Child("hostPath")))
	}
	if s, p := v.Secret, at.Child("secret"); s != nil {
		add(validate.Given(s.SecretName, p.Child("secretName")))
		add(fileMode(s.DefaultMode, p.Child("defaultMode")))
		add(keyPaths(s.Items, p.Child("items")))
	}
	if s, p := v.ConfigMap, at.Child("configMap"); s != nil {
		add(validate.Given(s.Name, p.Child("name")))
		add(fileMode(s.DefaultMode, p.Child("defaultMode")))
		add(keyPaths(s.Items, p.Child("items")))
	}
	if s, p := v.DownwardAPI, at.Child("downwardAPI"); s != nil {
		add(fileMode(s.DefaultMode, p.Child("defaultMode")))
		add(downward(s.Items, p))
	}
	if s := v.Projected; s != nil {
		add(projected(s, at.Child("projected")))
	}
	if s := v.PersistentVolumeClaim; s != nil {
		add(validate.Given(s.ClaimName, at.Child("persistentVolumeClaim", "claimName")))
	}
	if s := v.NFS; s != nil {
		add(ValidateNFS(s, at.Child("nfs")))
	}
	if s, p := v.Image, at.Child("image"); s != nil {
		add(validate.Given(s.Reference, p.Child("reference")))
		add(validate.OneOf(s.PullPolicy, p.Child("pullPolicy"), corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever))
	}
	if s, p := v.CSI, at.Child("csi"); s != nil {
		add(CSIDriver(s.Driver, p.Child("driver")))
		if r := s.NodePublishSecretRef; r != nil {
			add(validate.Given(r.Name, p.Child("nodePublishSecretRef", "name")))
		}
	}
	if s, p := v.Ephemeral, at.Child("ephemeral"); s != nil {
		if s.VolumeClaimTemplate == nil {
			errs = append(errs, field.Required(p.Child("volumeClaimTemplate"), ""))
		} else {
			add(ValidateClaimSpec(&s.VolumeClaimTemplate.Spec, p.Child("volumeClaimTemplate", "spec")))
		}
	}
	return append(errs, oldSource(v, at)...)
}

// oldSource checks the volumes of drivers that CSI has replaced.
func oldSource(v *corev1.Volume, at *field.Path) (errs field.ErrorList) {
	add := func(e field.ErrorList) { errs = append(errs, e...) }
	secret := func(r *corev1.LocalObjectReference, driver string) {
		if r != nil {
			add(validate.Given(r.Name, at.Child(driver, "secretRef", "name")))
		}
	}
	if s := v.GCEPersistentDisk; s != nil {
		add(ValidateGCEDisk(s, at.Child("gcePersistentDisk")))
	}
	if s := v.AWSElasticBlockStore; s != nil {
		add(ValidateEBS(s, at.Child("awsElasticBlockStore")))
	}
	if s := v.GitRepo; s != nil {
		add(validate.Given(s.Repository, at.Child("gitRepo", "repository")))
		add(localPath(s.Directory, at.Child("gitRepo", "directory")))
	}
	if s := v.ISCSI; s != nil {
		add(ValidateISCSI(s, v.Name, at.Child("iscsi")))
	}
	if s := v.Glusterfs; s != nil {
		add(ValidateGlusterfs(s.EndpointsName, s.Path, at.Child("glusterfs")))
	}
	if s := v.Flocker; s != nil {
		add(ValidateFlocker(s, at.Child("flocker")))
	}
	if s := v.RBD; s != nil {
		add(ValidateRBD(s.CephMonitors, s.RBDImage, at.Child("rbd")))
	}
	if s := v.CephFS; s != nil {
		add(ValidateCephFS(s.Monitors, at.Child("cephfs")))
	}
	if s := v.Cinder; s != nil {
		add(ValidateCinder(s.VolumeID, at.Child("cinder")))
		secret(s.SecretRef, "cinder")
	}
	if s := v.FC; s != nil {
		add(ValidateFC(s, at.Child("fc")))
	}
	if s := v.FlexVolume; s != nil {
		add(ValidateFlex(s.Driver, s.Options, at.Child("flexVolume")))
	}
	if s := v.AzureFile; s != nil {
		add(ValidateAzureFile(s.SecretName, s.ShareName, at.Child("azureFile")))
	}
	if s := v.AzureDisk; s != nil {
		add(ValidateAzureDisk(s, at.Child("azureDisk")))
	}
	if s := v.VsphereVolume; s != nil {
		add(ValidateVsphere(s, at.Child("vsphereVolume")))
	}
	if s := v.PhotonPersistentDisk; s != nil {
		add(ValidatePhoton(s, at.Child("photonPersistentDisk")))
	}
	if s := v.PortworxVolume; s != nil {
		add(ValidatePortworx(s, at.Child("portworxVolume")))
	}
	if s := v.Quobyte; s != nil {
		add(ValidateQuobyte(s, at.Child("quobyte")))
	}
	if s := v.ScaleIO; s != nil {
		add(ValidateScaleIO(s.Gateway, s.System, s.VolumeName, at.Child("scaleIO")))
	}
	if s := v.StorageOS; s != nil {
		add(ValidateStorageOS(s.VolumeName, s.VolumeNamespace, at.Child("storageos")))
		secret(s.SecretRef, "storageos")
	}
	return errs
}

// ValidateHostPath checks a path on the host.
func ValidateHostPath(s *corev1.HostPathVolumeSource, at *field.Path) (errs field.ErrorList) {
	if s.Path == "" {
		return append(errs, field.Required(at.Child("path"), ""))
	}
	errs = validate.NoBacksteps(s.Path, at.Child("path"))
	if s.Type != nil && *s.Type != corev1.HostPathUnset {
		errs = append(errs, validate.Known(*s.Type, at.Child("type"), corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev,
			corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)...)
	}
	return errs
}

// ValidateNFS checks an NFS share.
func ValidateNFS(s *corev1.NFSVolumeSource, at *field.Path) (errs field.ErrorList) {
	errs = validate.Given(s.Server, at.Child("server"))
	errs = append(errs, validate.Given(s.Path, at.Child("path"))...)
	if !strings.HasPrefix(s.Path, "/") {
		errs = append(errs, field.Invalid(at.Child("path"), s.Path, "must be an absolute path"))
	}
	return errs
}

// CSIDriver checks the name of a CSI driver.
func CSIDriver(name string, at *field.Path) (errs field.ErrorList) {
	if name == "" {
		return append(errs, field.Required(at, ""))
	}
	if len(name) > 63 {
		errs = append(errs, field.TooLongCharacters(at, name, 63))
	}
	return append(errs, validate.Subdomain(strings.ToLower(name), at)...)
}

func fileMode(mode *int32, at *field.Path) field.ErrorList {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		return field.ErrorList{field.Invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive")}
	}
	return nil
}

// localPath checks a path inside a volume: below it, and not among the names
// that the node keeps for itself there.
func localPath(p string, at *field.Path) field.ErrorList {
	errs := validate.RelativePath(p, at)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") && p != ".." {
		errs = append(errs, field.Invalid(at, p, "must not start with '..'"))
	}
	return errs
}

func keyPaths(items []corev1.KeyToPath, at *field.Path) (errs field.ErrorList) {
	for i, k := range items {
		p := at.Index(i)
		errs = append(errs, validate.Given(k.Key, p.Child("key"))...)
		errs = append(errs, validate.Given(k.Path, p.Child("path"))...)
		errs = append(errs, localPath(k.Path, p.Child("path"))...)
		errs = append(errs, fileMode(k.Mode, p.Child("mode"))...)
	}
	return errs
}

func downward(items []corev1.DownwardAPIVolumeFile, at *field.Path) (errs field.ErrorList) {
	var v checker
	for i := range items {
		f := &items[i]
		errs = append(errs, validate.Given(f.Path, at.Child("path"))...)
		errs = append(errs, localPath(f.Path, at.Child("path"))...)
		switch {
		case f.FieldRef != nil:
			errs = append(errs, fieldRef(f.FieldRef, fileFields, at.Child("fieldRef"))...)
			if f.ResourceFieldRef != nil {
				errs = append(errs, field.Invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
			}
		case f.ResourceFieldRef != nil:
			errs = append(errs, v.resourceRef(f.ResourceFieldRef, at.Child("resourceFieldRef"), true)...)
		default:
			errs = append(errs, field.Required(at, "one of fieldRef and resourceFieldRef is required"))
		}
		errs = append(errs, fileMode(f.Mode, at.Child("mode"))...)
	}
	return errs
}

func projected(s *corev1.ProjectedVolumeSource, at *field.Path) (errs field.ErrorList) {
	errs = fileMode(s.DefaultMode, at.Child("defaultMode"))
	paths := sets.New[string]()
	claim := func(path string, where *field.Path) {
		if path != "" && paths.Has(path) {
			errs = append(errs, field.Invalid(where, path, "conflicting duplicate paths"))
		}
		paths.Insert(path)
	}
	for i := range s.Sources {
		src, p := &s.Sources[i], at.Child("sources").Index(i)
		names := given(src)
		if len(names) == 0 {
			errs = append(errs, field.Required(p, "must specify a source"))
			continue
		}
		for _, n := range names[1:] {
			errs = append(errs, field.Forbidden(p.Child(n), "may not specify more than 1 volume type"))
		}
		if x, q := src.Secret, p.Child("secret"); x != nil {
			errs = append(errs, validate.Given(x.Name, q.Child("name"))...)
			errs = append(errs, keyPaths(x.Items, q.Child("items"))...)
			for _, k := range x.Items {
				claim(k.Path, at)
			}
		}
		if x, q := src.ConfigMap, p.Child("configMap"); x != nil {
			errs = append(errs, validate.Given(x.Name, q.Child("name"))...)
			errs = append(errs, keyPaths(x.Items, q.Child("items"))...)
			for _, k := range x.Items {
				claim(k.Path, at)
			}
		}
		if x := src.DownwardAPI; x != nil {
			errs = append(errs, downward(x.Items, p.Child("downwardAPI"))...)
			for _, f := range x.Items {
				claim(f.Path, at)
			}
		}
		if x, q := src.ServiceAccountToken, p.Child("serviceAccountToken"); x != nil {
			errs = append(errs, tokenSeconds(x.ExpirationSeconds, q.Child("expirationSeconds"))...)
			errs = append(errs, validate.Given(x.Path, q.Child("path"))...)
			errs = append(errs, localPath(x.Path, q.Child("path"))...)
			claim(x.Path, at)
		}
		if x, q := src.ClusterTrustBundle, p.Child("clusterTrustBundle"); x != nil {
			if (x.Name == nil) == (x.SignerName == nil) {
				errs = append(errs, field.Required(q, "either name or signerName must be specified"))
			}
			errs = append(errs, validate.Given(x.Path, q.Child("path"))...)
			errs = append(errs, localPath(x.Path, q.Child("path"))...)
			claim(x.Path, at)
		}
	}
	return errs
}

func tokenSeconds(n *int64, at *field.Path) (errs field.ErrorList) {
	switch {
	case n == nil:
		errs = append(errs, field.Required(at, ""))
	case *n < 10*60:
		errs = append(errs, field.Invalid(at, *n, "may not specify a duration less than 10 minutes"))
	case *n > 1<<32:
		errs = append(errs, field.Invalid(at, *n, "may not specify a duration larger than 2^32 seconds"))
	}
	return errs
}
