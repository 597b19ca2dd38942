package plugins

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation/field"
	schedv1 "k8s.io/kube-scheduler/config/v1"
	"sigs.k8s.io/yaml"

	"proa/internal/sched"
)

// read reads a plugin's args over their defaults; what is unknown is an error.
func read[T any](args []byte, into *T) error {
	if len(args) == 0 {
		return nil
	}
	return yaml.UnmarshalStrict(args, into)
}

// configured is a Configure function: read the args, check them, make the For.
func configured[T any](makes func(*T) sched.Look, checks func(*T) field.ErrorList) func([]byte) (sched.Look, error) {
	return func(raw []byte) (sched.Look, error) {
		var args T
		if err := read(raw, &args); err != nil {
			return nil, err
		}
		if err := checks(&args).ToAggregate(); err != nil {
			return nil, err
		}
		return makes(&args), nil
	}
}

// checkResources looks at the resources of a score, and gives each without a weight one of 1.
func checkResources(at *field.Path, all []schedv1.ResourceSpec) (errs field.ErrorList) {
	seen := map[string]bool{}
	for i := range all {
		r := &all[i]
		if r.Weight == 0 {
			r.Weight = 1
		}
		if r.Name == "" {
			errs = append(errs, field.Required(at.Index(i).Child("name"), "the name of a resource, such as cpu"))
		}
		if seen[r.Name] {
			errs = append(errs, field.Duplicate(at.Index(i).Child("name"), r.Name))
		}
		seen[r.Name] = true
		if r.Weight < 1 || r.Weight > 100 {
			errs = append(errs, field.Invalid(at.Index(i).Child("weight"), r.Weight, "must be from 1 to 100"))
		}
	}
	return errs
}

// checkShape looks at the points of a function from utilization to score.
func checkShape(at *field.Path, shape []schedv1.UtilizationShapePoint) (errs field.ErrorList) {
	if len(shape) == 0 {
		return field.ErrorList{field.Required(at, "at least one point of utilization and score")}
	}
	for i, p := range shape {
		if p.Utilization < 0 || p.Utilization > 100 {
			errs = append(errs, field.Invalid(at.Index(i).Child("utilization"), p.Utilization, "must be from 0 to 100"))
		}
		if i > 0 && p.Utilization <= shape[i-1].Utilization {
			errs = append(errs, field.Invalid(at.Index(i).Child("utilization"), p.Utilization, fmt.Sprintf("must be more than that of the point before, %d", shape[i-1].Utilization)))
		}
		if p.Score < 0 || p.Score > 10 {
			errs = append(errs, field.Invalid(at.Index(i).Child("score"), p.Score, "must be from 0 to 10"))
		}
	}
	return errs
}
