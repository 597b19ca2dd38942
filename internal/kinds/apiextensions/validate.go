package apiextensions

import (
	"context"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateDefinition checks a definition by the library, whose rules of when an
// old fault may stay are more than can be told here. It checks the internal form.
func validateDefinition(d, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	in, err := internal(d)
	if err != nil {
		return field.ErrorList{field.InternalError(field.NewPath("spec"), err)}
	}
	ctx := context.Background()
	if old == nil {
		return append(named(d), about(validation.ValidateCustomResourceDefinition(ctx, in))...)
	}
	was, err := internal(old)
	if err != nil {
		return field.ErrorList{field.InternalError(field.NewPath("spec"), err)}
	}
	return about(validation.ValidateCustomResourceDefinitionUpdate(ctx, in, was))
}

// named checks that a definition's name is that of its resource.
func named(d *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	if d.Name == d.Spec.Names.Plural+"."+d.Spec.Group {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), d.Name, `must be spec.names.plural+"."+spec.group`)}
}

// approval is where a group that belongs to Kubernetes says who let it in.
var approval = field.NewPath("metadata", "annotations").Key(apiextensionsv1.KubeAPIApprovedAnnotation).String()

// about leaves out what is about the metadata of all kinds: the server checks that itself.
func about(errs field.ErrorList) field.ErrorList {
	return slices.DeleteFunc(errs, func(e *field.Error) bool {
		return strings.HasPrefix(e.Field, "metadata") && e.Field != approval
	})
}

// internal is a definition in the form that the library checks, with as much of
// its metadata as its checks need. It shares memory with d.
func internal(d *apiextensionsv1.CustomResourceDefinition) (*apiextensions.CustomResourceDefinition, error) {
	out := &apiextensions.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: d.Name, Annotations: d.Annotations}}
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinitionSpec_To_apiextensions_CustomResourceDefinitionSpec(&d.Spec, &out.Spec, nil); err != nil {
		return nil, err
	}
	err := apiextensionsv1.Convert_v1_CustomResourceDefinitionStatus_To_apiextensions_CustomResourceDefinitionStatus(&d.Status, &out.Status, nil)
	return out, err
}

// validateDefinitionStatus checks a status; the spec, which is as it was, needs no conversion.
func validateDefinitionStatus(d, _ *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	var in apiextensions.CustomResourceDefinitionStatus
	at := field.NewPath("status")
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinitionStatus_To_apiextensions_CustomResourceDefinitionStatus(&d.Status, &in, nil); err != nil {
		return field.ErrorList{field.InternalError(at, err)}
	}
	return validation.ValidateCustomResourceDefinitionStatus(&in, at)
}
