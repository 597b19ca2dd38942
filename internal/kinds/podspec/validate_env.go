package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// What the downward API knows, in environment variables and in files.
var (
	envFields = []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
	fileFields   = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
	resourceRefs = []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory",
		"requests.cpu", "requests.ephemeral-storage", "requests.memory"}
)

func (v *checker) env(vars []corev1.EnvVar, at *field.Path) {
	for i := range vars {
		e := &vars[i]
		if e.Name == "" {
			v.add(field.Required(at.Child("env").Index(i).Child("name"), ""))
		} else if msgs := validation.IsRelaxedEnvVarName(e.Name); msgs != nil {
			said(v, at.Child("env").Index(i).Child("name"), e.Name, msgs)
		}
		if e.ValueFrom != nil {
			v.valueFrom(e, at.Child("env").Index(i).Child("valueFrom"))
		}
	}
}

func (v *checker) valueFrom(e *corev1.EnvVar, at *field.Path) {
	s, n := e.ValueFrom, 0
	if s.FieldRef != nil {
		n++
		v.fieldRef(s.FieldRef, envFields, at)
	}
	if s.ResourceFieldRef != nil {
		n++
		v.resourceRef(s.ResourceFieldRef, at, false)
	}
	if r := s.ConfigMapKeyRef; r != nil {
		n++
		v.keyRef(r.Name, r.Key, at, "configMapKeyRef")
	}
	if r := s.SecretKeyRef; r != nil {
		n++
		v.keyRef(r.Name, r.Key, at, "secretKeyRef")
	}
	if s.FileKeyRef != nil {
		n++
		v.fileKeyRef(s.FileKeyRef, at.Child("fileKeyRef"))
	}
	switch {
	case n == 0:
		v.add(field.Invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case e.Value != "":
		v.add(field.Invalid(at, "", "may not be specified when `value` is not empty"))
	case n > 1:
		v.add(field.Invalid(at, "", "may not have more than one field specified at a time"))
	}
}

func (v *checker) keyRef(name, key string, at *field.Path, ref string) {
	if !validate.IsSubdomain(name) {
		v.add(validate.Subdomain(name, at.Child(ref, "name"))...)
	}
	if key == "" {
		v.add(field.Required(at.Child(ref, "key"), ""))
	} else if !validate.IsConfigKey(key) {
		said(v, at.Child(ref, "key"), key, validation.IsConfigMapKey(key))
	}
}

// fileKeyRef checks a variable that a file of the pod's own holds.
func (v *checker) fileKeyRef(r *corev1.FileKeySelector, at *field.Path) {
	if v.given(r.Key, at, "key"); r.Key != "" {
		said(v, at.Child("key"), r.Key, validation.IsRelaxedEnvVarName(r.Key))
	}
	if v.given(r.Path, at, "path"); r.Path != "" {
		v.add(localPath(r.Path, at.Child("path"))...)
	}
	if r.VolumeName == "" {
		v.add(field.Required(at.Child("volumeName"), ""))
		return
	}
	v.add(validate.Label(r.VolumeName, at.Child("volumeName"))...)
	i := slices.IndexFunc(v.spec.Volumes, func(o corev1.Volume) bool { return o.Name == r.VolumeName })
	if i < 0 {
		v.add(field.NotFound(at.Child("volumeName"), r.VolumeName))
	} else if v.spec.Volumes[i].EmptyDir == nil {
		v.add(field.Invalid(at.Child("volumeName"), r.VolumeName, "referenced volume must be of type emptyDir"))
	}
}

func (v *checker) envFrom(sources []corev1.EnvFromSource, at *field.Path) {
	for i := range sources {
		s, n := &sources[i], 0
		if s.Prefix != "" {
			said(v, at.Child("envFrom").Index(i).Child("prefix"), s.Prefix, validation.IsRelaxedEnvVarName(s.Prefix))
		}
		if s.ConfigMapRef != nil {
			n++
			v.sourceName(s.ConfigMapRef.Name, at.Child("envFrom").Index(i).Child("configMapRef"))
		}
		if s.SecretRef != nil {
			n++
			v.sourceName(s.SecretRef.Name, at.Child("envFrom").Index(i).Child("secretRef"))
		}
		if n == 0 {
			v.add(field.Invalid(at.Child("envFrom"), "", "must specify one of: `configMapRef` or `secretRef`"))
		} else if n > 1 {
			v.add(field.Invalid(at.Child("envFrom"), "", "may not have more than one field specified at a time"))
		}
	}
}

func (v *checker) sourceName(name string, at *field.Path) {
	if v.given(name, at, "name"); name != "" {
		said(v, at.Child("name"), name, apivalidation.NameIsDNSSubdomain(name, true))
	}
}

// podFieldLabels are the paths that a fieldRef may name at all; which of them
// are allowed depends on where it is.
var podFieldLabels = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid",
	"spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName", "spec.schedulerName", "spec.host",
	"status.phase", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}

func (v *checker) fieldRef(f *corev1.ObjectFieldSelector, allowed []string, parent *field.Path) {
	if f.APIVersion == "v1" && slices.Contains(allowed, f.FieldPath) {
		return
	}
	at := parent.Child("fieldRef")
	if f.APIVersion == "" || f.FieldPath == "" {
		name := "fieldPath"
		if f.APIVersion == "" {
			name = "apiVersion"
		}
		v.add(field.Required(at.Child(name), ""))
		return
	}
	unknown := func(why string) {
		v.add(field.Invalid(at.Child("fieldPath"), f.FieldPath, "error converting fieldPath: "+why))
	}
	if f.APIVersion != "v1" {
		unknown("unsupported pod version: " + f.APIVersion)
		return
	}
	if name, key, ok := strings.Cut(f.FieldPath, "['"); ok && name != "" && strings.HasSuffix(key, "']") {
		key = strings.TrimSuffix(key, "']")
		switch name {
		case "metadata.annotations":
			v.add(validate.Qualified(strings.ToLower(key), at)...)
		case "metadata.labels":
			v.add(validate.Qualified(key, at)...)
		default:
			unknown("field label does not support subscript: " + f.FieldPath)
		}
		return
	}
	path := f.FieldPath
	if path == "spec.host" {
		path = "spec.nodeName" // its old name
	}
	if !slices.Contains(podFieldLabels, path) {
		unknown("field label not supported: " + path)
	} else if !slices.Contains(allowed, path) {
		v.add(field.NotSupported(at.Child("fieldPath"), path, allowed))
	}
}

func (v *checker) resourceRef(r *corev1.ResourceFieldSelector, parent *field.Path, volume bool) {
	at := parent.Child("resourceFieldRef")
	switch {
	case volume && r.ContainerName == "":
		v.add(field.Required(at.Child("containerName"), ""))
	case r.Resource == "":
		v.add(field.Required(at.Child("resource"), ""))
	case !slices.Contains(resourceRefs, r.Resource) &&
		!strings.HasPrefix(r.Resource, "requests.hugepages-") && !strings.HasPrefix(r.Resource, "limits.hugepages-"):
		v.add(field.NotSupported(at.Child("resource"), r.Resource, resourceRefs))
	}
	v.divisor(r.Resource, &r.Divisor, at)
}

// byteSizes are the divisors of everything that is counted in bytes.
var byteSizes = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}

func (v *checker) divisor(ref string, q *resource.Quantity, at *field.Path) {
	if q.IsZero() {
		return
	}
	_, name, _ := strings.Cut(ref, ".")
	what := name
	switch {
	case name == "cpu":
		if s := q.String(); s != "1m" && s != "1" {
			v.add(field.Invalid(at.Child("divisor"), ref, "only divisor's values 1m and 1 are supported with the cpu resource"))
		}
		return
	case name == "memory":
	case name == "ephemeral-storage":
		what = "local ephemeral storage"
	case strings.HasPrefix(name, "hugepages-"):
		what = "hugepages"
	default:
		return // there is no such resource
	}
	if !slices.Contains(byteSizes, q.String()) {
		v.add(field.Invalid(at.Child("divisor"), ref, fmt.Sprintf(
			"only divisor's values %s are supported with the %s resource", strings.Join(byteSizes, ", "), what)))
	}
}
