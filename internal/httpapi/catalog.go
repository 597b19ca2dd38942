package httpapi

import (
	"cmp"
	"encoding/json"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"crypto/sha256"
	"encoding/hex"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubeversion "k8s.io/apimachinery/pkg/version"

	"proa/internal/api"
	"proa/internal/api/remote"
)

// A catalog is what is served at one moment, and the documents about it. Groups
// that have not changed are shared with the catalog before, documents and all.
type catalog struct {
	src    []*api.Group
	far    *remote.Catalog
	groups []*group // by name

	once   sync.Once
	sorted []*group // as discovery has them
	core   aggregated
	named  aggregated
	v2     openapiDocs // documents about everything
	joined joinedDocs  // with those of other servers
}

// A group is what is served of one API group, and the documents about it, each
// made on first use.
type group struct {
	*api.Group
	far       []*remote.Version          // served elsewhere, by name; nothing of them is in resources
	ranks     map[string]remote.Priority // by version
	resources []*resource                // as Group.Resources, each once

	once       sync.Once
	versions   []*versionOf // the preferred one first
	discovered []byte       // its part of aggregated discovery
}

// A versionOf is one version of a group.
type versionOf struct {
	schema.GroupVersion
	resources []*resource     // by name
	far       *remote.Version // nil if it is served here

	once sync.Once
	hash string
	docs openapiDocs
}

// A resource is an api.Resource and what its answers are made with.
type resource struct {
	*api.Resource
	protobuf bool
	cut      []byte // how its JSON begins: kind and version, left out in lists

	once    sync.Once
	columns []byte // of its tables, as JSON
}

func newResource(k *api.Resource) *resource {
	r := &resource{Resource: k, protobuf: k.Codec != nil && k.Codec.Media() == api.MediaProtobuf}
	if r.protobuf {
		r.cut = []byte(`{"kind":"` + k.Kind + `","apiVersion":"` + k.GroupVersion().String() + `",`)
	}
	return r
}

// newCatalog is the catalog of src, and of what is served elsewhere, with what
// can be had from the one before. Both of these may be nil.
func newCatalog(src []*api.Group, far *remote.Catalog, before *catalog) *catalog {
	c := &catalog{src: src, far: far, groups: make([]*group, 0, len(src))}
	var old []*group
	unmoved := false // what is served elsewhere
	if before != nil {
		old, unmoved = before.groups, before.far == far
	}
	for _, g := range withFar(src, far) {
		for len(old) > 0 && old[0].Name < g.Name {
			old = old[1:]
		}
		var was *group
		if len(old) > 0 && old[0].Name == g.Name {
			was = old[0]
		}
		if was == nil || !unmoved || was.Group != g {
			was = newGroup(g, far, was)
		}
		c.groups = append(c.groups, was)
	}
	return c
}

// withFar is the groups together with those that are only served elsewhere.
func withFar(src []*api.Group, far *remote.Catalog) []*api.Group {
	if far == nil {
		return src
	}
	out := src
	for gv := range far.Versions {
		i, ok := slices.BinarySearchFunc(out, gv.Group, func(g *api.Group, name string) int { return strings.Compare(g.Name, name) })
		if !ok {
			out = slices.Insert(slices.Clone(out), i, &api.Group{Name: gv.Group})
		}
	}
	return out
}

// farOf is what is served elsewhere of a group.
func farOf(far *remote.Catalog, name string) (out []*remote.Version) {
	if far == nil {
		return nil
	}
	for gv, v := range far.Versions {
		if gv.Group == name {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b *remote.Version) int { return strings.Compare(a.Version, b.Version) })
	return out
}

// newGroup is the group of src, or the one before if that is no other.
func newGroup(src *api.Group, far *remote.Catalog, before *group) *group {
	g := &group{Group: src, far: farOf(far, src.Name), ranks: map[string]remote.Priority{}}
	for _, r := range src.Resources {
		if _, known := g.ranks[r.Version]; !known {
			g.ranks[r.Version] = far.Priority(r.GroupVersion())
		}
	}
	for _, v := range g.far {
		g.ranks[v.Version] = far.Priority(v.GroupVersion)
	}
	if before != nil && (before.Group == src || len(before.Resources)+len(src.Resources) == 0) &&
		slices.Equal(before.far, g.far) && maps.Equal(before.ranks, g.ranks) {
		return before
	}
	g.resources = make([]*resource, 0, len(src.Resources))
	for _, k := range src.Resources {
		var have *resource
		if n := len(g.resources); n > 0 && g.resources[n-1].GroupVersionResource == k.GroupVersionResource {
			continue // the first one has it
		}
		if far.Serves(k.GroupVersion()) {
			continue
		}
		if before != nil {
			have = before.lookup(k.Version, k.Resource)
		}
		if have == nil || have.Resource != k {
			have = newResource(k)
		}
		g.resources = append(g.resources, have)
	}
	return g
}

// of says whether the catalog was made of these.
func (c *catalog) of(src []*api.Group, far *remote.Catalog) bool {
	return c.far == far && len(c.src) == len(src) && (len(src) == 0 || &c.src[0] == &src[0])
}

func (c *catalog) group(name string) *group {
	i, ok := slices.BinarySearchFunc(c.groups, name, func(g *group, name string) int { return strings.Compare(g.Name, name) })
	if !ok {
		return nil
	}
	return c.groups[i]
}

func (g *group) lookup(version, name string) *resource {
	i, ok := slices.BinarySearchFunc(g.resources, name, func(r *resource, name string) int {
		return cmp.Or(strings.Compare(r.Resource.Resource, name), strings.Compare(r.Version, version))
	})
	if !ok {
		return nil
	}
	return g.resources[i]
}

// resource is what is served under a name, or nil.
func (c *catalog) resource(gvr schema.GroupVersionResource) *resource {
	if g := c.group(gvr.Group); g != nil {
		return g.lookup(gvr.Version, gvr.Resource)
	}
	return nil
}

// serves says whether anything of a group and version is served here.
func (c *catalog) serves(gv schema.GroupVersion) bool {
	g := c.group(gv.Group)
	return g != nil && slices.ContainsFunc(g.resources, func(r *resource) bool { return r.Version == gv.Version })
}

// discover makes the group's versions and its part of aggregated discovery.
func (g *group) discover() *group {
	g.once.Do(func() {
		by := map[string]*versionOf{}
		for _, r := range g.resources {
			if by[r.Version] == nil {
				by[r.Version] = &versionOf{GroupVersion: schema.GroupVersion{Group: g.Name, Version: r.Version}}
			}
			by[r.Version].resources = append(by[r.Version].resources, r)
		}
		for _, v := range g.far {
			by[v.Version] = &versionOf{GroupVersion: v.GroupVersion, far: v}
		}
		order := func(a, b string) int {
			return cmp.Or(cmp.Compare(g.ranks[b].Version, g.ranks[a].Version), kubeversion.CompareKubeAwareVersionStrings(b, a))
		}
		for _, v := range slices.SortedFunc(maps.Keys(by), order) {
			g.versions = append(g.versions, by[v])
		}
		d := discoveryv2.APIGroupDiscovery{}
		d.Name = g.Name
		for _, v := range g.versions {
			if v.far != nil {
				d.Versions = append(d.Versions, v.far.Discovery)
				continue
			}
			dv := discoveryv2.APIVersionDiscovery{Version: v.Version, Freshness: discoveryv2.DiscoveryFreshnessCurrent}
			for _, r := range v.resources {
				dv.Resources = append(dv.Resources, r.discovered())
			}
			d.Versions = append(d.Versions, dv)
		}
		g.discovered, _ = json.Marshal(d) // plain data
	})
	return g
}

// discover puts the groups into the order of discovery, and makes its documents.
func (c *catalog) discover() *catalog {
	c.once.Do(func() {
		c.sorted = slices.SortedStableFunc(slices.Values(c.groups), func(a, b *group) int { return cmp.Compare(b.rank(), a.rank()) })
		split := 0
		for i, g := range c.sorted {
			g.discover()
			if g.Name == "" {
				split = i + 1
			}
		}
		c.core, c.named = aggregate(c.sorted[:split]), aggregate(c.sorted[split:])
	})
	return c
}

// rank is the highest priority that any version gives the group; that of the
// core group comes before them all.
func (g *group) rank() (most int32) {
	if g.Name == "" {
		return math.MaxInt32
	}
	for _, p := range g.ranks {
		most = max(most, p.Group)
	}
	return most
}

// openapiHash changes with everything that the version's documents are made of.
// It does not need them, so that asking for it is cheap.
func (v *versionOf) openapiHash(of string) string {
	v.once.Do(func() {
		sum := sha256.New()
		io.WriteString(sum, of)
		_ = json.NewEncoder(sum).Encode(v.apiResources()) // a hash takes everything
		for _, r := range v.resources {
			io.WriteString(sum, r.Edition)
		}
		v.hash = strings.ToUpper(hex.EncodeToString(sum.Sum(nil)))
	})
	return v.hash
}
