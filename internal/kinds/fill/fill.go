// Package fill puts default values where a user left a field out.
package fill

// Nil points *p at v if it is nil.
func Nil[V any](p **V, v V) {
	if *p == nil {
		*p = &v
	}
}

// Zero sets *p to v if it is the zero value.
func Zero[V comparable](p *V, v V) {
	var zero V
	if *p == zero {
		*p = v
	}
}
