package httpapi

import (
	"cmp"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"crypto/sha256"
	"encoding/hex"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubeversion "k8s.io/apimachinery/pkg/version"

	"proa/internal/api"
)

// A catalog is what is served at one moment, and the documents about it. Groups
// that have not changed are shared with the catalog before, documents and all.
type catalog struct {
	src    []*api.Group
	groups []*group // as src

	once   sync.Once
	sorted []*group // as discovery has them
	core   aggregated
	named  aggregated
	v2     openapiDocs // documents about everything
}

// A group is what is served of one API group, and the documents about it, each
// made on first use.
type group struct {
	*api.Group
	resources []*resource // as Group.Resources, each once

	once       sync.Once
	versions   []*versionOf // the preferred one first
	discovered []byte       // its part of aggregated discovery
}

// A versionOf is one version of a group.
type versionOf struct {
	schema.GroupVersion
	resources []*resource // by name

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

// newCatalog is the catalog of src, with what can be had from the one before,
// which may be nil.
func newCatalog(src []*api.Group, before *catalog) *catalog {
	c := &catalog{src: src, groups: make([]*group, 0, len(src))}
	var old []*group
	if before != nil {
		old = before.groups
	}
	for _, g := range src {
		for len(old) > 0 && old[0].Name < g.Name {
			old = old[1:]
		}
		var was *group
		if len(old) > 0 && old[0].Name == g.Name {
			was = old[0]
		}
		if was == nil || was.Group != g {
			was = newGroup(g, was)
		}
		c.groups = append(c.groups, was)
	}
	return c
}

func newGroup(src *api.Group, before *group) *group {
	g := &group{Group: src, resources: make([]*resource, 0, len(src.Resources))}
	for _, k := range src.Resources {
		var have *resource
		if n := len(g.resources); n > 0 && g.resources[n-1].GroupVersionResource == k.GroupVersionResource {
			continue // the first one has it
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

// of says whether the catalog was made of src.
func (c *catalog) of(src []*api.Group) bool {
	return len(c.src) == len(src) && (len(src) == 0 || &c.src[0] == &src[0])
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

// serves says whether anything of a group and version is served.
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
		for _, v := range slices.SortedFunc(maps.Keys(by), func(a, b string) int { return kubeversion.CompareKubeAwareVersionStrings(b, a) }) {
			g.versions = append(g.versions, by[v])
		}
		d := discoveryv2.APIGroupDiscovery{}
		d.Name = g.Name
		for _, v := range g.versions {
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
		rank := func(g *group) int {
			if i := slices.Index(groupOrder, g.Name); i >= 0 {
				return i
			}
			return len(groupOrder)
		}
		c.sorted = slices.SortedStableFunc(slices.Values(c.groups), func(a, b *group) int { return cmp.Compare(rank(a), rank(b)) })
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
