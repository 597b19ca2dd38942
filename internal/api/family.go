package api

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/managedfields"
)

// A Family is the versions of one custom resource. An object is stored in the
// version for storage, or in one that was that when the object was written, and
// is read and written in any that is served.
type Family struct {
	Versions []*Resource // all of them, in the order of the definition
	Storage  *Resource
	Served   []*Resource // none until the names are accepted

	// Plain: the versions differ by their name only, so that a conversion cannot
	// fail and needs nobody else.
	Plain bool
	// Relabel returns o, in whatever version it is, as one of to, where the
	// versions are plain. It may share memory with o.
	Relabel func(o Object, to *Resource) Object
	// Convert returns objects in the version of to, in their order; those that
	// are in it already as they are. The others are new.
	Convert func(ctx context.Context, objs []Object, to *Resource) ([]Object, error)

	// StoredAs is the version of a stored form, the one for storage if the form
	// names none that there is.
	StoredAs func(body []byte) *Resource

	// Merge is what server-side apply knows of all versions.
	Merge func() (managedfields.TypeConverter, error)
	// Replicas are the fields of the scale's replicas, by version.
	Replicas managedfields.ResourcePathMappings

	// Terminating says that the definition is being deleted: nothing new is made.
	Terminating func() bool
}

// In is the family's version of a name, or nil.
func (f *Family) In(version string) *Resource {
	for _, r := range f.Versions {
		if r.Version == version {
			return r
		}
	}
	return nil
}

// Serves says whether requests can be made in a version of the family.
func (f *Family) Serves(r *Resource) bool { return slices.Contains(f.Served, r) }

// Models are OpenAPI definitions of one resource that is not among the published ones.
type Models struct {
	Name, List  string                     // of the object's definition and its list's
	Definitions map[string]json.RawMessage // references in the manner of v3, in v2 too
	Needs       []string                   // published definitions that they refer to
}

// A Group is what is served of one API group at one moment. It never changes.
type Group struct {
	Name      string
	Resources []*Resource // by name, then by version
}

// Grouped is resources by group, for [Group].
func Grouped(list []*Resource) []*Group {
	by := map[string]*Group{}
	var out []*Group
	for _, r := range list {
		if by[r.Group] == nil {
			by[r.Group] = &Group{Name: r.Group}
			out = append(out, by[r.Group])
		}
		by[r.Group].Resources = append(by[r.Group].Resources, r)
	}
	for _, g := range out {
		slices.SortStableFunc(g.Resources, func(a, b *Resource) int {
			return cmp.Or(strings.Compare(a.Resource, b.Resource), strings.Compare(a.Version, b.Version))
		})
	}
	slices.SortFunc(out, func(a, b *Group) int { return strings.Compare(a.Name, b.Name) })
	return out
}
