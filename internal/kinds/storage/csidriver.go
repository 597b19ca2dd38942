package storage

import (
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
	"proa/internal/kinds/validate"
)

// CSIDriver says what a CSI volume driver of this cluster needs. Its name is the driver's.
var CSIDriver = &api.Kind[*storagev1.CSIDriver]{
	API: "storage.k8s.io/v1", Resource: "csidrivers", Scope: api.Cluster,
	Conditional: true,
	Columns: []api.Column[*storagev1.CSIDriver]{
		api.Col("AttachRequired", func(d *storagev1.CSIDriver) bool { return d.Spec.AttachRequired == nil || *d.Spec.AttachRequired }),
		api.Col("PodInfoOnMount", func(d *storagev1.CSIDriver) bool { return yes(d.Spec.PodInfoOnMount) }),
		api.Col("StorageCapacity", func(d *storagev1.CSIDriver) bool { return yes(d.Spec.StorageCapacity) }),
		api.Col("TokenRequests", audiences),
		api.Col("RequiresRepublish", func(d *storagev1.CSIDriver) bool { return yes(d.Spec.RequiresRepublish) }),
		api.Col("Modes", func(d *storagev1.CSIDriver) string {
			if len(d.Spec.VolumeLifecycleModes) == 0 {
				return "<none>"
			}
			return column.Join(d.Spec.VolumeLifecycleModes)
		}),
	},
	Default: defaultCSIDriver,
	Prepare: func(d, old *storagev1.CSIDriver) {
		if old != nil && !equality.Semantic.DeepEqual(d.Spec, old.Spec) {
			d.Generation = old.Generation + 1
		}
	},
	Validate: validateCSIDriver,
}

func yes(b *bool) bool { return b != nil && *b }

func audiences(d *storagev1.CSIDriver) string {
	if d.Spec.TokenRequests == nil {
		return "<unset>"
	}
	var out []string
	for _, t := range d.Spec.TokenRequests {
		out = append(out, t.Audience)
	}
	return strings.Join(out, ",")
}

func defaultCSIDriver(d *storagev1.CSIDriver) {
	s := &d.Spec
	fill.Nil(&s.AttachRequired, true)
	fill.Nil(&s.PodInfoOnMount, false)
	fill.Nil(&s.StorageCapacity, false)
	fill.Nil(&s.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	fill.Nil(&s.RequiresRepublish, false)
	fill.Nil(&s.SELinuxMount, false)
	fill.Nil(&s.PreventPodSchedulingIfMissing, false)
	if len(s.VolumeLifecycleModes) == 0 {
		s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
}

func validateCSIDriver(d, old *storagev1.CSIDriver) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	s, spec := &d.Spec, field.NewPath("spec")
	if p := s.FSGroupPolicy; p != nil {
		add(validate.Known(*p, spec.Child("fsGroupPolicy"),
			storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)...)
	}
	add(tokenRequests(s.TokenRequests, spec.Child("tokenRequests"))...)
	if s.ServiceAccountTokenInSecrets != nil && len(s.TokenRequests) == 0 {
		add(field.Invalid(spec.Child("serviceAccountTokenInSecrets"), *s.ServiceAccountTokenInSecrets,
			"serviceAccountTokenInSecrets is set but no tokenRequests are specified"))
	}
	for _, m := range s.VolumeLifecycleModes {
		add(validate.Known(m, spec.Child("volumeLifecycleModes"), storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)...)
	}
	if n := s.NodeAllocatableUpdatePeriodSeconds; n != nil && *n < 10 {
		add(field.Invalid(spec.Child("nodeAllocatableUpdatePeriodSeconds"), *n, "must be greater than or equal to 10 seconds"))
	}
	if old != nil {
		// The path of the first has had this misspelling since its first day.
		add(validate.Same(s.AttachRequired, old.Spec.AttachRequired, spec.Child("attachedRequired"))...)
		add(validate.Same(s.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, spec.Child("volumeLifecycleModes"))...)
	}
	return errs
}

// tokenRequests checks that each audience is asked for once, and for how long its tokens live.
func tokenRequests(list []storagev1.TokenRequest, path *field.Path) (errs field.ErrorList) {
	seen := map[string]bool{}
	for i, t := range list {
		at := path.Index(i)
		if seen[t.Audience] {
			errs = append(errs, field.Duplicate(at.Child("audience"), t.Audience))
			continue
		}
		seen[t.Audience] = true
		switch n := t.ExpirationSeconds; {
		case n == nil:
		case *n < 600:
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *n, "may not specify a duration less than 10 minutes"))
		case *n > 1<<32:
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *n, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	return errs
}
