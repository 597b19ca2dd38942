package flowcontrol

import (
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"proa/internal/api"
)

// TestDefaults checks that what every cluster has is valid, needs no defaults,
// and refers only to levels that are there.
func TestDefaults(t *testing.T) {
	levels := map[string]bool{}
	for _, o := range Defaults() {
		if _, ok := o.(*flowcontrolv1.PriorityLevelConfiguration); ok {
			levels[o.GetName()] = true
		}
	}
	if len(levels) != 8 {
		t.Errorf("%d levels: %v", len(levels), levels)
	}
	schemas := 0
	for _, o := range Defaults() {
		before := api.Clone(o)
		switch x := o.(type) {
		case *flowcontrolv1.PriorityLevelConfiguration:
			defaultLevel(x)
			if errs := validateLevel(x, nil); len(errs) > 0 {
				t.Errorf("%s: %v", x.Name, errs)
			}
		case *flowcontrolv1.FlowSchema:
			schemas++
			FlowSchema.Default(x)
			if errs := validateSchema(x, nil); len(errs) > 0 {
				t.Errorf("%s: %v", x.Name, errs)
			}
			if l := x.Spec.PriorityLevelConfiguration.Name; !levels[l] {
				t.Errorf("%s is of level %s, which is not there", x.Name, l)
			}
		}
		if !equality.Semantic.DeepEqual(before, o) {
			t.Errorf("%s is changed by defaults", o.GetName())
		}
	}
	if schemas != 11 {
		t.Errorf("%d schemas", schemas)
	}
}

func TestRenew(t *testing.T) {
	for _, c := range []struct {
		name, of   string
		annotation string // as it is
		generation int64
		renewed    bool
		after      string
	}{
		{"suggested, automatic", "workload-low", "true", 5, true, "true"},
		{"suggested, by hand", "workload-low", "false", 1, false, "false"},
		{"suggested, never changed", "workload-low", "", 1, true, "true"},
		{"suggested, changed", "workload-low", "", 2, false, "false"},
		{"suggested, nonsense", "workload-low", "maybe", 2, false, "false"},
		{"mandatory, by hand", "catch-all", "false", 2, true, "true"},
		{"mandatory, not marked", "catch-all", "", 2, true, "true"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var want *flowcontrolv1.PriorityLevelConfiguration
			for _, o := range Defaults() {
				if p, ok := o.(*flowcontrolv1.PriorityLevelConfiguration); ok && p.Name == c.of {
					want = p
				}
			}
			have := want.DeepCopy()
			have.Generation = c.generation
			have.Spec.Limited.NominalConcurrencyShares = new(int32(77))
			have.Annotations = nil
			if c.annotation != "" {
				have.Annotations = map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: c.annotation}
			}
			RenewLevel(have, want)
			if got := *have.Spec.Limited.NominalConcurrencyShares != 77; got != c.renewed {
				t.Errorf("renewed: %v, want %v", got, c.renewed)
			}
			if got := have.Annotations[flowcontrolv1.AutoUpdateAnnotationKey]; got != c.after {
				t.Errorf("annotation %q, want %q", got, c.after)
			}
		})
	}
	exempt := mandatoryLevel("exempt")
	exempt.Spec.Exempt.LendablePercent = new(int32(50))
	exempt.Spec.Type = "X"
	RenewLevel(exempt, mandatoryLevel("exempt"))
	if *exempt.Spec.Exempt.LendablePercent != 50 || exempt.Spec.Type != flowcontrolv1.PriorityLevelEnablementExempt {
		t.Errorf("exempt is %+v", exempt.Spec)
	}
	s, mine := mandatorySchema("catch-all"), mandatorySchema("catch-all")
	mine.Spec.Rules = nil
	if RenewSchema(mine, s); len(mine.Spec.Rules) != 1 {
		t.Error("the schema catch-all was not renewed")
	}
}
