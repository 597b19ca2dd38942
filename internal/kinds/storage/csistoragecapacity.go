package storage

import (
	"slices"

	storagev1 "k8s.io/api/storage/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

// CSIStorageCapacity says how much a driver can still provide of a class to some nodes.
var CSIStorageCapacity = &api.Kind[*storagev1.CSIStorageCapacity]{
	API: "storage.k8s.io/v1", Resource: "csistoragecapacities", Scope: api.Namespaced,
	Whole: true,
	Columns: []api.Column[*storagev1.CSIStorageCapacity]{
		column.Name(column.Plain[*storagev1.CSIStorageCapacity]),
		api.Col("StorageClassName", func(c *storagev1.CSIStorageCapacity) string { return c.StorageClassName }),
		api.Col("Capacity", func(c *storagev1.CSIStorageCapacity) string {
			if c.Capacity == nil {
				return "<unset>"
			}
			return c.Capacity.String()
		}),
	},
	Validate: validateCapacity,
	Warn:     func(c, _ *storagev1.CSIStorageCapacity) []string { return warnTopology(c.NodeTopology) },
}

func validateCapacity(c, old *storagev1.CSIStorageCapacity) (errs field.ErrorList) {
	topology, class := field.NewPath("nodeTopology"), field.NewPath("storageClassName")
	errs = append(errs, metavalidation.ValidateLabelSelector(c.NodeTopology, metavalidation.LabelSelectorValidationOptions{}, topology)...)
	errs = append(errs, validate.Subdomain(c.StorageClassName, class)...)
	if c.Capacity != nil && c.Capacity.Sign() < 0 {
		errs = append(errs, field.Invalid(field.NewPath("capacity"), c.Capacity.String(), apivalidation.IsNegativeErrorMsg))
	}
	if old != nil {
		errs = append(errs, validate.Same(c.NodeTopology, old.NodeTopology, topology)...)
		errs = append(errs, validate.Same(c.StorageClassName, old.StorageClassName, class)...)
	}
	return errs
}

// warnTopology warns of labels that nodes have under a newer name.
func warnTopology(s *metav1.LabelSelector) (out []string) {
	if s == nil {
		return nil
	}
	at := field.NewPath("nodeTopology")
	for i, e := range s.MatchExpressions {
		if msg := podspec.OldNodeLabel(e.Key); msg != "" {
			out = append(out, at.Child("matchExpressions").Index(i).Child("key").String()+": "+e.Key+" is "+msg)
		}
	}
	n := len(out)
	for key := range s.MatchLabels {
		if msg := podspec.OldNodeLabel(key); msg != "" {
			out = append(out, at.Child("matchLabels", key).String()+": "+msg)
		}
	}
	slices.Sort(out[n:])
	return out
}
