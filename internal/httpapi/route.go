package httpapi

import (
	"net/http"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
)

// A target is what a URL path names.
type target struct {
	res   *resource // nil: no resource
	ns    string
	name  string
	sub   string
	watch bool // by the old prefix
	past  bool // what it was: its path comes after [api.HistoryPath]

	far    bool     // another server serves it
	prefix api.Verb // the verb that stood before the resource, of a target that is far
}

// route finds what a path names. A path that names nothing that is served, or
// names it wrongly, has no res.
func (c *catalog) route(path string) (t target) {
	if rest, ok := strings.CutPrefix(path, api.HistoryPath); ok && strings.HasPrefix(rest, "/api") {
		if t = c.route(rest); t.res == nil || t.far || t.watch || t.name == "" || t.sub != "" {
			return target{}
		}
		t.past = true
		return t
	}
	if t, ok := c.elsewhere(path); ok {
		return t
	}
	path, ok := strings.CutPrefix(path, "/")
	if !ok {
		return
	}
	var gvr schema.GroupVersionResource
	first, rest, _ := strings.Cut(path, "/")
	switch first {
	case "api":
		gvr.Version, rest, _ = strings.Cut(rest, "/")
	case "apis":
		gvr.Group, rest, _ = strings.Cut(rest, "/")
		gvr.Version, rest, _ = strings.Cut(rest, "/")
		if gvr.Group == "" {
			return
		}
	default:
		return
	}
	rest = strings.TrimSuffix(rest, "/")
	if w, ok := strings.CutPrefix(rest, "watch/"); ok {
		t.watch, rest = true, w
	}
	gvr.Resource, rest, _ = strings.Cut(rest, "/")
	if gvr.Resource == "namespaces" && rest != "" {
		ns, after, more := strings.Cut(rest, "/")
		sub, _, _ := strings.Cut(after, "/")
		if more && !(gvr.Group == "" && c.namespaceSub(gvr.Version, sub)) {
			t.ns = ns
			gvr.Resource, rest, _ = strings.Cut(after, "/")
		}
	}
	res := c.resource(gvr)
	if res == nil {
		return target{}
	}
	t.name, rest, _ = strings.Cut(rest, "/")
	more := ""
	t.sub, more, _ = strings.Cut(rest, "/")
	if (t.sub != "" && !res.hasSub(t.sub)) || (t.name == "" && rest != "") || (t.sub == "" && rest != "") ||
		(more != "" && !res.connects(t.sub)) || (t.watch && t.sub != "") {
		return target{}
	}
	if res.Scope == api.Cluster && t.ns != "" || res.Scope == api.Namespaced && t.ns == "" && t.name != "" {
		return target{}
	}
	t.res = res
	return t
}

// namespaceSub tells /namespaces/x/status from /namespaces/x/pods.
func (c *catalog) namespaceSub(version, sub string) bool {
	r := c.resource(schema.GroupVersionResource{Version: version, Resource: "namespaces"})
	return r != nil && r.hasSub(sub)
}

func (r *resource) hasSub(sub string) bool {
	switch {
	case sub == "status" && r.ServesStatus(), sub == "scale" && r.Scale != nil:
		return true
	}
	return r.Subs[sub] != nil
}

// connects says whether a subresource answers with a stream of its own.
func (r *resource) connects(sub string) bool {
	s := r.Subs[sub]
	return s != nil && s.Connect
}

var partVerbs = []api.Verb{api.Get, api.Patch, api.Update}

// verbs is what can be asked of the resource or one of its subresources.
func (r *resource) verbs(sub string) []api.Verb {
	if sub == "" {
		return r.Verbs
	}
	if s := r.Subs[sub]; s != nil {
		return s.Verbs
	}
	return partVerbs
}

// verb is what the request asks of t; empty if that cannot be asked.
func (x *exchange) verb(t *target) api.Verb {
	switch {
	case t.res == nil:
		return ""
	case t.far:
		return farVerb(x.req, t)
	}
	v := plainVerb(x.req.Method, t)
	if v == api.List && isTrue(x.req.URL.RawQuery, "watch") {
		v = api.Watch
	}
	if t.sub == "" && t.name == "" && t.res.Scope == api.Namespaced && t.ns == "" && v == api.Create {
		return "" // into which namespace?
	}
	if !slices.Contains(t.res.verbs(t.sub), v) {
		return ""
	}
	return v
}

func plainVerb(method string, t *target) api.Verb {
	if t.past && method != http.MethodGet && method != http.MethodHead {
		return ""
	}
	switch method {
	case http.MethodGet, http.MethodHead:
		switch {
		case t.watch:
			return api.Watch
		case t.name == "":
			return api.List
		}
		return api.Get
	case http.MethodPost:
		if t.name == "" || t.sub != "" {
			return api.Create
		}
	case http.MethodPut:
		if t.name != "" {
			return api.Update
		}
	case http.MethodPatch:
		if t.name != "" {
			return api.Patch
		}
	case http.MethodOptions:
		if t.res.connects(t.sub) { // of what stands behind a proxy
			return api.Get
		}
	case http.MethodDelete:
		if t.name == "" {
			return api.DeleteCollection
		}
		return api.Delete
	}
	return ""
}

// isTrue says whether a query has a flag set, without parsing all of it. As the
// API's flags are read, only "false" and "0" are not.
func isTrue(query, flag string) bool {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		if k, v, _ := strings.Cut(pair, "="); k == flag {
			return v != "0" && !strings.EqualFold(v, "false")
		}
	}
	return false
}
