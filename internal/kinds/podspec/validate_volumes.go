package podspec

import (
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// allVolumes checks volumes and notes those that are sound, which containers can mount.
func (v *checker) allVolumes(list []corev1.Volume, path *field.Path) {
	for i := range list {
		o, at, before := &list[i], path.Index(i), len(v.errs)
		v.source(o, at)
		if o.Name == "" {
			v.add(field.Required(at.Child("name"), ""))
		} else if !validate.IsLabel(o.Name) {
			v.add(validate.Label(o.Name, at.Child("name"))...)
		}
		if v.volume(o.Name) != nil {
			v.add(field.Duplicate(at.Child("name"), o.Name))
		}
		if len(v.errs) == before {
			v.volumes = append(v.volumes, o)
		}
		if c := o.PersistentVolumeClaim; c != nil && v.pod != nil && v.pod.Name != "" && c.ClaimName != "" {
			for j := range list {
				if list[j].Ephemeral != nil && claimName(v.pod, list[j].Name) == c.ClaimName {
					v.add(field.Invalid(at.Child("persistentVolumeClaim", "claimName"), c.ClaimName,
						"must not reference a PVC that gets created for an ephemeral volume"))
				}
			}
		}
	}
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

// OneSource checks that exactly one of the sources in a struct of pointers is there.
func OneSource(source any, at *field.Path) (errs field.ErrorList) {
	names := given(source)
	if len(names) == 0 {
		errs = append(errs, field.Required(at, "must specify a volume type"))
	}
	for _, n := range names[min(1, len(names)):] {
		errs = append(errs, field.Forbidden(at.Child(n), "may not specify more than 1 volume type"))
	}
	return errs
}

// A sourceCount counts the sources of a volume.
type sourceCount struct {
	v  *checker
	at *field.Path
	n  int
}

// first says whether a source is there, and the only one up to now.
func (c *sourceCount) first(there bool, name string) bool {
	if !there {
		return false
	}
	if c.n++; c.n > 1 {
		c.v.add(field.Forbidden(c.at.Child(name), "may not specify more than 1 volume type"))
	}
	return c.n == 1
}

// source checks where a volume comes from. What is there besides the first
// source is not looked at any further.
func (v *checker) source(o *corev1.Volume, at *field.Path) {
	c := &sourceCount{v: v, at: at}
	if s := o.EmptyDir; c.first(s != nil, "emptyDir") {
		v.emptyDir(s, at)
	}
	if s := o.HostPath; c.first(s != nil, "hostPath") {
		v.add(ValidateHostPath(s, at.Child("hostPath"))...)
	}
	v.oldSources(o, c)
	if s := o.Secret; c.first(s != nil, "secret") {
		v.keyed(s.SecretName, "secretName", s.DefaultMode, s.DefaultUser, s.Items, at.Child("secret"))
	}
	if s := o.NFS; c.first(s != nil, "nfs") {
		v.add(ValidateNFS(s, at.Child("nfs"))...)
	}
	if s := o.PersistentVolumeClaim; c.first(s != nil, "persistentVolumeClaim") && s.ClaimName == "" {
		v.add(field.Required(at.Child("persistentVolumeClaim", "claimName"), ""))
	}
	if s := o.DownwardAPI; c.first(s != nil, "downwardAPI") {
		p := at.Child("downwardAPI")
		v.fileMode(s.DefaultMode, p, "defaultMode")
		v.userID(s.DefaultUser, p, "defaultUser")
		for i := range s.Items {
			v.downward(&s.Items[i], p)
		}
	}
	if s := o.ConfigMap; c.first(s != nil, "configMap") {
		v.keyed(s.Name, "name", s.DefaultMode, s.DefaultUser, s.Items, at.Child("configMap"))
	}
	if s := o.Projected; c.first(s != nil, "projected") {
		v.projected(s, at.Child("projected"))
	}
	if s := o.CSI; c.first(s != nil, "csi") {
		v.csi(s, at.Child("csi"))
	}
	if s := o.Ephemeral; c.first(s != nil, "ephemeral") {
		v.ephemeral(o.Name, s, at)
	}
	if s := o.Image; c.first(s != nil, "image") {
		if v.pod != nil {
			v.given(s.Reference, at.Child("image"), "reference")
		}
		oneOf(v, s.PullPolicy, at.Child("image"), "pullPolicy", corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	}
	if c.n == 0 {
		v.add(field.Required(at, "must specify a volume type"))
	}
}

func (v *checker) emptyDir(s *corev1.EmptyDirVolumeSource, at *field.Path) {
	if s.SizeLimit != nil && s.SizeLimit.Sign() < 0 {
		v.add(field.Forbidden(at.Child("emptyDir", "sizeLimit"), "SizeLimit field must be a valid resource quantity"))
	}
	if m := s.Mode; m != nil && (*m < 0 || *m > 0o1777) {
		v.add(field.Invalid(at.Child("emptyDir", "mode"), *m, "must be a number between 0 and 01777 (octal), both inclusive"))
	}
}

// keyed checks a volume made of the keys of a secret or a config map.
func (v *checker) keyed(name, field string, mode *int32, user *int64, items []corev1.KeyToPath, at *field.Path) {
	v.given(name, at, field)
	v.fileMode(mode, at, "defaultMode")
	v.userID(user, at, "defaultUser")
	v.keyPaths(items, at)
}

func (v *checker) csi(s *corev1.CSIVolumeSource, at *field.Path) {
	v.add(CSIDriver(s.Driver, at.Child("driver"))...)
	if r := s.NodePublishSecretRef; r != nil {
		if v.given(r.Name, at.Child("nodePublishSecretRef"), "name"); r.Name != "" {
			v.add(validate.Subdomain(r.Name, at.Child("name"))...)
		}
	}
}

func (v *checker) ephemeral(name string, s *corev1.EphemeralVolumeSource, at *field.Path) {
	p := at.Child("ephemeral", "volumeClaimTemplate")
	if s.VolumeClaimTemplate == nil {
		v.add(field.Required(p, ""))
	} else {
		v.add(templateMeta(&s.VolumeClaimTemplate.ObjectMeta, p.Child("metadata"))...)
		v.add(ValidateClaimSpec(&s.VolumeClaimTemplate.Spec, p.Child("spec"))...)
	}
	if v.pod == nil || v.pod.Name == "" || name == "" {
		return
	}
	claim := claimName(v.pod, name)
	for _, e := range validate.Subdomain(claim, nil) {
		v.add(field.Invalid(at.Child("name"), name, "PVC name \""+claim+"\": "+e.Detail))
	}
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
		errs = append(errs, field.Required(at, ""))
	}
	if len(name) > 63 {
		errs = append(errs, field.TooLong(at, "", 63))
	}
	for _, e := range validate.Subdomain(strings.ToLower(name), at) {
		errs = append(errs, field.Invalid(at, name, e.Detail))
	}
	return errs
}

func (v *checker) fileMode(mode *int32, at *field.Path, name string) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		v.add(field.Invalid(at.Child(name), *mode, "must be a number between 0 and 0777 (octal), both inclusive"))
	}
}

// localPath checks a path inside a volume: below it, and not among the names
// that the node keeps for itself there.
func localPath(p string, at *field.Path) field.ErrorList {
	errs := validate.RelativePath(p, at)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") {
		errs = append(errs, field.Invalid(at, p, "must not start with '..'"))
	}
	return errs
}

func (v *checker) keyPaths(items []corev1.KeyToPath, parent *field.Path) {
	for i := range items {
		k, at := &items[i], parent.Child("items").Index(i)
		v.given(k.Key, at, "key")
		v.given(k.Path, at, "path")
		v.add(localPath(k.Path, at.Child("path"))...)
		v.fileMode(k.Mode, at, "mode")
		v.userID(k.User, at, "user")
	}
}

func (v *checker) downward(f *corev1.DownwardAPIVolumeFile, at *field.Path) {
	v.given(f.Path, at, "path")
	v.add(localPath(f.Path, at.Child("path"))...)
	switch {
	case f.FieldRef != nil:
		v.fieldRef(f.FieldRef, fileFields, at)
		if f.ResourceFieldRef != nil {
			v.add(field.Invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		}
	case f.ResourceFieldRef != nil:
		v.resourceRef(f.ResourceFieldRef, at, true)
	default:
		v.add(field.Required(at, "one of fieldRef and resourceFieldRef is required"))
	}
	v.fileMode(f.Mode, at, "mode")
	v.userID(f.User, at, "user")
}
