package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
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

func (v *checker) env(vars []corev1.EnvVar, path *field.Path) (errs field.ErrorList) {
	for i := range vars {
		e, at := &vars[i], path.Index(i)
		if e.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else {
			errs = append(errs, validate.Messages(at.Child("name"), e.Name, validation.IsRelaxedEnvVarName(e.Name))...)
		}
		if e.ValueFrom != nil {
			errs = append(errs, v.valueFrom(e, at.Child("valueFrom"))...)
		}
	}
	return errs
}

func (v *checker) valueFrom(e *corev1.EnvVar, at *field.Path) (errs field.ErrorList) {
	s, n := e.ValueFrom, 0
	if s.FieldRef != nil {
		n++
		errs = append(errs, fieldRef(s.FieldRef, envFields, at.Child("fieldRef"))...)
	}
	if s.ResourceFieldRef != nil {
		n++
		errs = append(errs, v.resourceRef(s.ResourceFieldRef, at.Child("resourceFieldRef"), false)...)
	}
	if r := s.ConfigMapKeyRef; r != nil {
		n++
		errs = append(errs, keyRef(r.Name, r.Key, at.Child("configMapKeyRef"))...)
	}
	if r := s.SecretKeyRef; r != nil {
		n++
		errs = append(errs, keyRef(r.Name, r.Key, at.Child("secretKeyRef"))...)
	}
	if r := s.FileKeyRef; r != nil {
		n++
		p := at.Child("fileKeyRef")
		errs = append(errs, validate.Given(r.VolumeName, p.Child("volumeName"))...)
		errs = append(errs, validate.Given(r.Path, p.Child("path"))...)
		errs = append(errs, validate.RelativePath(r.Path, p.Child("path"))...)
		errs = append(errs, validate.Given(r.Key, p.Child("key"))...)
		if vol, ok := v.volumes[r.VolumeName]; r.VolumeName != "" && !ok {
			errs = append(errs, field.NotFound(p.Child("volumeName"), r.VolumeName))
		} else if ok && vol.EmptyDir == nil {
			errs = append(errs, field.Invalid(p.Child("volumeName"), r.VolumeName, "must be an emptyDir volume"))
		}
	}
	switch {
	case n == 0:
		errs = append(errs, field.Invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case e.Value != "":
		errs = append(errs, field.Invalid(at, "", "may not be specified when `value` is not empty"))
	case n > 1:
		errs = append(errs, field.Invalid(at, "", "may not have more than one field specified at a time"))
	}
	return errs
}

func keyRef(name, key string, at *field.Path) (errs field.ErrorList) {
	errs = validate.Given(name, at.Child("name"))
	if key == "" {
		return append(errs, field.Required(at.Child("key"), ""))
	}
	return append(errs, validate.Messages(at.Child("key"), key, validation.IsConfigMapKey(key))...)
}

func envFrom(sources []corev1.EnvFromSource, path *field.Path) (errs field.ErrorList) {
	for i, s := range sources {
		at, n := path.Index(i), 0
		if s.Prefix != "" {
			errs = append(errs, validate.Messages(at.Child("prefix"), s.Prefix, validation.IsRelaxedEnvVarName(s.Prefix))...)
		}
		if s.ConfigMapRef != nil {
			n++
			errs = append(errs, validate.Given(s.ConfigMapRef.Name, at.Child("configMapRef", "name"))...)
		}
		if s.SecretRef != nil {
			n++
			errs = append(errs, validate.Given(s.SecretRef.Name, at.Child("secretRef", "name"))...)
		}
		if n == 0 {
			errs = append(errs, field.Invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
		} else if n > 1 {
			errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
		}
	}
	return errs
}

// podFieldLabels are the paths that a fieldRef may name at all; which of them
// are allowed depends on where it is.
var podFieldLabels = sets.New("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid",
	"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork", "spec.host",
	"status.phase", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs", "status.nominatedNodeName")

func fieldRef(f *corev1.ObjectFieldSelector, allowed []string, at *field.Path) (errs field.ErrorList) {
	if f.APIVersion == "" {
		return append(errs, field.Required(at.Child("apiVersion"), ""))
	}
	p := at.Child("fieldPath")
	if f.FieldPath == "" {
		return append(errs, field.Required(p, ""))
	}
	if name, key, ok := strings.Cut(f.FieldPath, "['"); ok && strings.HasSuffix(key, "']") {
		key = strings.TrimSuffix(key, "']")
		switch name {
		case "metadata.annotations":
			return validate.Qualified(strings.ToLower(key), p)
		case "metadata.labels":
			return validate.Qualified(key, p)
		}
		return append(errs, field.Invalid(p, name, "does not support subscript"))
	}
	if !podFieldLabels.Has(f.FieldPath) {
		return append(errs, field.Invalid(p, f.FieldPath, "error converting fieldPath: field label not supported: "+f.FieldPath))
	}
	return append(errs, validate.Known(f.FieldPath, p, allowed...)...)
}

func (v *checker) resourceRef(r *corev1.ResourceFieldSelector, at *field.Path, volume bool) (errs field.ErrorList) {
	if volume && r.ContainerName == "" {
		return append(errs, field.Required(at.Child("containerName"), ""))
	}
	if r.Resource == "" {
		return append(errs, field.Required(at.Child("resource"), ""))
	}
	_, name, _ := strings.Cut(r.Resource, ".")
	if !slices.Contains(resourceRefs, r.Resource) {
		if !strings.HasPrefix(r.Resource, "requests.hugepages-") && !strings.HasPrefix(r.Resource, "limits.hugepages-") {
			errs = append(errs, field.NotSupported(at.Child("resource"), r.Resource, resourceRefs))
		}
	}
	return append(errs, divisor(name, r.Divisor, at.Child("divisor"))...)
}

// byteSizes are the divisors of everything that is counted in bytes.
var byteSizes = sets.New("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")

func divisor(name string, q resource.Quantity, at *field.Path) (errs field.ErrorList) {
	if q.IsZero() {
		return nil
	}
	s := q.String()
	what := name
	switch {
	case name == "cpu":
		if s != "1m" && s != "1" {
			errs = append(errs, field.Invalid(at, name, "only divisor's values 1m and 1 are supported with the cpu resource"))
		}
		return errs
	case name == "ephemeral-storage":
		what = "local ephemeral storage"
	case strings.HasPrefix(name, "hugepages-"):
		what = "hugepages"
	}
	if !byteSizes.Has(s) {
		errs = append(errs, field.Invalid(at, name, fmt.Sprintf(
			"only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the %s resource", what)))
	}
	return errs
}
