package fill

import (
	"k8s.io/apimachinery/pkg/api/equality"

	"proa/internal/api"
)

// Counted returns a Prepare that keeps metadata.generation of a kind without a
// status: 1 at first, and more with every change of what part answers.
func Counted[T api.Object](part func(T) any) func(new, old T) {
	var none T
	return func(new, old T) {
		switch {
		case any(old) == any(none):
			new.SetGeneration(1)
		case !equality.Semantic.DeepEqual(part(new), part(old)):
			new.SetGeneration(old.GetGeneration() + 1)
		}
	}
}
