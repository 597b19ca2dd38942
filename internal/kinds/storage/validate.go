package storage

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

// The limits of a class's parameters.
const (
	maxParameters     = 512
	maxParametersSize = 256 << 10
)

// provisioner checks the name of what makes volumes; case does not matter.
func provisioner(name string, at *field.Path) (errs field.ErrorList) {
	if name == "" {
		return field.ErrorList{field.Required(at, name)}
	}
	return validate.Qualified(strings.ToLower(name), at)
}

// parameters checks the size of a class's parameters.
func parameters(m map[string]string, at *field.Path) (errs field.ErrorList) {
	if len(m) > maxParameters {
		return field.ErrorList{field.TooLong(at, "Provisioner Parameters exceeded max allowed", maxParameters)}
	}
	total := 0
	for k, v := range m {
		if k == "" {
			errs = append(errs, field.Invalid(at, k, "field can not be empty."))
		}
		total += len(k) + len(v)
	}
	if total > maxParametersSize {
		errs = append(errs, field.TooLong(at, "", maxParametersSize))
	}
	return errs
}

func validateStorageClass(s, old *storagev1.StorageClass) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	at, params := field.NewPath("provisioner"), field.NewPath("parameters")
	add(provisioner(s.Provisioner, at)...)
	add(parameters(s.Parameters, params)...)
	if p := s.ReclaimPolicy; p != nil {
		add(validate.Known(*p, field.NewPath("reclaimPolicy"), corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	if m := s.VolumeBindingMode; m == nil {
		add(field.Required(field.NewPath("volumeBindingMode"), ""))
	} else {
		add(validate.Known(*m, field.NewPath("volumeBindingMode"), storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	}
	add(topologies(s.AllowedTopologies, field.NewPath("allowedTopologies"))...)
	if old == nil {
		return errs
	}
	add(validate.Fixed(s.Parameters, old.Parameters, params)...)
	add(validate.Fixed(s.Provisioner, old.Provisioner, at)...)
	add(validate.Fixed(s.ReclaimPolicy, old.ReclaimPolicy, field.NewPath("reclaimPolicy"))...)
	add(validate.Fixed(s.VolumeBindingMode, old.VolumeBindingMode, field.NewPath("volumeBindingMode"))...)
	return errs
}

// topologies checks where volumes of a class may be: no key twice in a term, no term twice.
func topologies(terms []corev1.TopologySelectorTerm, path *field.Path) (errs field.ErrorList) {
	var seen []map[string][]string
	for i, t := range terms {
		list, term := path.Index(i).Child("matchLabelExpressions"), map[string][]string{}
		for j, r := range t.MatchLabelExpressions {
			at := list.Index(j)
			errs = append(errs, topologyRequirement(&r, at)...)
			if _, ok := term[r.Key]; ok {
				errs = append(errs, field.Duplicate(at.Child("key"), r.Key))
			}
			term[r.Key] = slices.Sorted(slices.Values(r.Values))
		}
		same := func(m map[string][]string) bool { return maps.EqualFunc(m, term, slices.Equal[[]string]) }
		if slices.ContainsFunc(seen, same) {
			errs = append(errs, field.Duplicate(list, ""))
		}
		seen = append(seen, term)
	}
	return errs
}

func topologyRequirement(r *corev1.TopologySelectorLabelRequirement, at *field.Path) (errs field.ErrorList) {
	values := at.Child("values")
	if len(r.Values) == 0 {
		errs = append(errs, field.Required(values, ""))
	}
	seen := map[string]bool{}
	for i, v := range r.Values {
		if seen[v] {
			errs = append(errs, field.Duplicate(values.Index(i), v))
		}
		seen[v] = true
	}
	return append(errs, metavalidation.ValidateLabelName(r.Key, at.Child("key"))...)
}

// warnStorageClass warns of labels that nodes have under a newer name.
func warnStorageClass(s, _ *storagev1.StorageClass) (out []string) {
	for i, t := range s.AllowedTopologies {
		for j, r := range t.MatchLabelExpressions {
			if msg := podspec.OldNodeLabel(r.Key); msg != "" {
				at := field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j).Child("key")
				out = append(out, at.String()+": "+r.Key+" is "+msg)
			}
		}
	}
	return out
}
