package apps

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
)

// ControllerRevision is a past state of a DaemonSet or StatefulSet. Its data never changes.
var ControllerRevision = &api.Kind[*appsv1.ControllerRevision]{
	API: "apps/v1", Resource: "controllerrevisions", Scope: api.Namespaced,
	Columns: []api.Column[*appsv1.ControllerRevision]{
		api.Col("Controller", func(r *appsv1.ControllerRevision) string {
			if o := metav1.GetControllerOf(r); o != nil {
				return fmt.Sprintf("%s/%s", resourceOf(o), o.Name)
			}
			return "<none>"
		}),
		api.Col("Revision", func(r *appsv1.ControllerRevision) int64 { return r.Revision }),
	},
	Validate: func(r, old *appsv1.ControllerRevision) (errs field.ErrorList) {
		if r.Data.Raw == nil && r.Data.Object == nil {
			errs = append(errs, field.Required(field.NewPath("data"), "data is mandatory"))
		}
		if r.Revision < 0 {
			errs = append(errs, field.Invalid(field.NewPath("revision"), r.Revision, validation.IsNegativeErrorMsg))
		}
		if old != nil {
			errs = append(errs, validation.ValidateImmutableField(r.Data, old.Data, field.NewPath("data"))...)
		}
		return errs
	},
}
