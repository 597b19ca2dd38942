package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
)

// VolumeAttributesClass names attributes of volumes that their driver can change.
var VolumeAttributesClass = &api.Kind[*storagev1.VolumeAttributesClass]{
	API: "storage.k8s.io/v1", Resource: "volumeattributesclasses", Scope: api.Cluster, Short: []string{"vac"},
	Columns: []api.Column[*storagev1.VolumeAttributesClass]{
		api.Col("DriverName", func(c *storagev1.VolumeAttributesClass) string { return c.DriverName }),
	},
	Validate: validateAttributesClass,
}

func validateAttributesClass(c, old *storagev1.VolumeAttributesClass) (errs field.ErrorList) {
	driver, params := field.NewPath("driverName"), field.NewPath("parameters")
	errs = append(errs, provisioner(c.DriverName, driver)...)
	if len(c.Parameters) == 0 {
		errs = append(errs, field.Required(params, "must contain at least one key/value pair"))
	}
	errs = append(errs, parameters(c.Parameters, params)...)
	if old != nil {
		if c.DriverName != old.DriverName {
			errs = append(errs, field.Forbidden(driver, "updates to driverName are forbidden."))
		}
		if !equality.Semantic.DeepEqual(c.Parameters, old.Parameters) {
			errs = append(errs, field.Forbidden(params, "updates to parameters are forbidden."))
		}
	}
	return errs
}
