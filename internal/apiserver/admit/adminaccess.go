package admit

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
)

// adminAccess lets claims ask for devices that others use (adminAccess) only in
// namespaces that are marked for it (resource.kubernetes.io/admin-access).
var adminAccess = &Step{
	Name: "DRAAdminAccess", For: []string{"resourceclaims.resource.k8s.io", "resourceclaimtemplates.resource.k8s.io"}, Verbs: []api.Verb{api.Create},
	Validate: func(_ context.Context, a *Attributes) error {
		if !asksAdmin(a.New) {
			return nil
		}
		ns, _ := a.State.Get(schema.GroupResource{Resource: "namespaces"}, "", a.Namespace).(*corev1.Namespace)
		if ns != nil && ns.Labels[resourcev1.DRAAdminNamespaceLabelKey] == "true" {
			return nil
		}
		return apierrors.NewInvalid(a.Resource.GroupKind(), a.Name, field.ErrorList{field.Forbidden(field.NewPath(""),
			"admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace")})
	},
}

func asksAdmin(o api.Object) bool {
	var requests []resourcev1.DeviceRequest
	switch c := o.(type) {
	case *resourcev1.ResourceClaim:
		requests = c.Spec.Devices.Requests
	case *resourcev1.ResourceClaimTemplate:
		requests = c.Spec.Spec.Devices.Requests
	}
	for _, r := range requests {
		if e := r.Exactly; e != nil && e.AdminAccess != nil && *e.AdminAccess {
			return true
		}
	}
	return false
}
