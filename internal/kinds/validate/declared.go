package validate

import (
	"context"

	"k8s.io/apimachinery/pkg/api/operation"
	formats "k8s.io/apimachinery/pkg/api/validate"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const maxDriver = 63 // characters

// Declared makes a check that types name in their comments (+k8s:format=…) of one value.
func Declared[T any](check formats.ValidateFunc[*T], v T, path *field.Path) field.ErrorList {
	return check(context.Background(), operation.Operation{}, path, &v, nil)
}

// Driver checks the name of a driver where its type declares it required, a
// long name in any case and of 63 characters at most.
func Driver(name string, path *field.Path) (errs field.ErrorList) {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	errs = Declared(func(ctx context.Context, op operation.Operation, p *field.Path, v, old *string) field.ErrorList {
		return formats.MaxLength(ctx, op, p, v, old, maxDriver)
	}, name, path)
	return append(errs, Declared(formats.LongNameCaseless, name, path)...)
}
