package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
)

// ConfigMap holds configuration for pods to read.
var ConfigMap = &api.Kind[*corev1.ConfigMap]{
	API: "v1", Resource: "configmaps", Scope: api.Namespaced, Short: []string{"cm"},
	Columns: []api.Column[*corev1.ConfigMap]{
		api.Col("Data", func(c *corev1.ConfigMap) int { return len(c.Data) + len(c.BinaryData) }),
	},
	Validate: validateConfigMap,
}

func validateConfigMap(c, old *corev1.ConfigMap) (errs field.ErrorList) {
	total := 0
	data, binary := field.NewPath("data"), field.NewPath("binaryData")
	for k, v := range c.Data {
		errs = append(errs, validateConfigKey(k, data.Key(k))...)
		if _, both := c.BinaryData[k]; both {
			errs = append(errs, field.Invalid(data.Key(k), k, "duplicate of key present in binaryData"))
		}
		total += len(v)
	}
	for k, v := range c.BinaryData {
		errs = append(errs, validateConfigKey(k, binary.Key(k))...)
		if _, both := c.Data[k]; both {
			errs = append(errs, field.Invalid(binary.Key(k), k, "duplicate of key present in data"))
		}
		total += len(v)
	}
	if total > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
	if old != nil && isTrue(old.Immutable) {
		if !isTrue(c.Immutable) {
			errs = append(errs, field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set"))
		}
		if !equality.Semantic.DeepEqual(c.Data, old.Data) {
			errs = append(errs, field.Forbidden(data, "field is immutable when `immutable` is set"))
		}
		if !equality.Semantic.DeepEqual(c.BinaryData, old.BinaryData) {
			errs = append(errs, field.Forbidden(binary, "field is immutable when `immutable` is set"))
		}
	}
	return errs
}

func validateConfigKey(k string, path *field.Path) (errs field.ErrorList) {
	for _, msg := range validation.IsConfigMapKey(k) {
		errs = append(errs, field.Invalid(path, k, msg))
	}
	return errs
}

func isTrue(b *bool) bool { return b != nil && *b }
