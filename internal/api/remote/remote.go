// Package remote is the vocabulary of what other API servers serve behind this
// one, shared by who keeps track of them and who shows it to clients.
package remote

import (
	"context"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// A Catalog is what is served elsewhere at one moment. It is never changed: the
// next moment has another.
type Catalog struct {
	Versions   map[schema.GroupVersion]*Version
	Priorities map[schema.GroupVersion]Priority // those that are not as [DefaultPriority] says
}

// A Version is a group and version that another API server serves. Everything
// in it is what was known last, whether or not that server answers now.
type Version struct {
	schema.GroupVersion
	Discovery discoveryv2.APIVersionDiscovery // of the aggregated form; Stale if the server does not answer
	OpenAPI   string                          // the hash of its OpenAPI v3 document; empty if it has none

	// V2 returns the server's OpenAPI v2 document, which may tell of more than
	// this version, and what changes with it. It may wait a little, and returns
	// nil if there is none to be had. Nil if there never is.
	V2 func(context.Context) (body []byte, tag string)
}

// Serves says whether another server serves a group and version.
func (c *Catalog) Serves(gv schema.GroupVersion) bool { return c.Version(gv) != nil }

// Version returns what another server serves under a group and version, or nil.
func (c *Catalog) Version(gv schema.GroupVersion) *Version {
	if c == nil {
		return nil
	}
	return c.Versions[gv]
}

// Priority is the priority of a group and version.
func (c *Catalog) Priority(gv schema.GroupVersion) Priority {
	if c != nil {
		if p, ok := c.Priorities[gv]; ok {
			return p
		}
	}
	return DefaultPriority(gv)
}

// A Priority orders what is served: groups by the highest of their versions'
// Group, versions inside a group by Version, the highest first.
type Priority struct{ Group, Version int32 }

// DefaultPriority is the priority of what the server serves itself.
func DefaultPriority(gv schema.GroupVersion) Priority {
	p, ok := groups[gv.Group]
	if !ok {
		return Priority{1000, 100} // a custom resource's
	}
	out := Priority{p, 15}
	switch gv {
	case schema.GroupVersion{Version: "v1"}:
		out.Version = 1
	case schema.GroupVersion{Group: "autoscaling", Version: "v2"}:
		out.Version = 30
	case schema.GroupVersion{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}:
		out.Version = 21
	}
	return out
}

// groups is what clients prefer when a short name means several kinds.
var groups = map[string]int32{
	"":                             18000,
	"apiregistration.k8s.io":       20000,
	"apps":                         17800,
	"events.k8s.io":                17750,
	"authentication.k8s.io":        17700,
	"authorization.k8s.io":         17600,
	"autoscaling":                  17500,
	"batch":                        17400,
	"certificates.k8s.io":          17300,
	"networking.k8s.io":            17200,
	"policy":                       17100,
	"rbac.authorization.k8s.io":    17000,
	"storage.k8s.io":               16800,
	"apiextensions.k8s.io":         16700,
	"admissionregistration.k8s.io": 16700,
	"scheduling.k8s.io":            16600,
	"coordination.k8s.io":          16500,
	"node.k8s.io":                  16300,
	"discovery.k8s.io":             16200,
	"flowcontrol.apiserver.k8s.io": 16100,
	"resource.k8s.io":              15900,
	"storagemigration.k8s.io":      15800,
	"metrics.k8s.io":               100, // after all others: its pods are nobody's first thought
}

// Yields says whether a group of the server's own is left to another server as
// soon as an APIService names one: there are others that serve the same, and who
// installs one wants that.
func Yields(group string) bool { return group == "metrics.k8s.io" }

// BuiltIn says whether a group is one of the server's own.
func BuiltIn(group string) bool { return groups[group] != 0 }
