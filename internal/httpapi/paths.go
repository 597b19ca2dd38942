package httpapi

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
)

// A pathFunc answers one of Serve's own paths.
type pathFunc func(*exchange)

func (s *server) ownPaths() map[string]pathFunc {
	paths := map[string]pathFunc{
		"/":            (*exchange).serveIndex,
		"/api":         (*exchange).serveCore,
		"/apis":        (*exchange).serveGroups,
		"/version":     (*exchange).serveVersion,
		"/healthz":     health("healthz", func(Check) bool { return true }),
		"/livez":       health("livez", func(c Check) bool { return !c.Ready }),
		"/readyz":      health("readyz", func(Check) bool { return true }),
		"/openapi/v2":  (*exchange).serveOpenAPI2,
		"/openapi/v3":  (*exchange).serveOpenAPI3,
		"/openapi/v3/": (*exchange).serveOpenAPI3Group,
	}
	if s.Metrics != nil {
		paths["/metrics"] = func(x *exchange) { x.handOver(s.Metrics) }
	}
	for path, h := range s.Paths {
		paths[path] = func(x *exchange) { x.handOver(h) }
	}
	return paths
}

// path answers a request for a path that is no resource, after the Handler has
// let it pass.
func (x *exchange) path() {
	path := x.req.URL.Path
	r := &api.Request{Verb: api.Verb(strings.ToLower(x.req.Method)), Path: path, User: x.user, HTTP: x.req}
	resp, err := x.s.h.Handle(x.ctx, r)
	switch {
	case err != nil && !apierrors.IsNotFound(err):
		x.media, _ = negotiate(x.req, anyMedia)
		x.fail(err)
		return
	case err == nil && resp != nil && resp.Connect != nil:
		x.warn(resp.Warnings)
		x.handOver(resp.Connect)
		return
	}
	if f := x.s.find(path); f != nil {
		f(x)
		return
	}
	if (strings.HasPrefix(path, "/api/") || strings.HasPrefix(path, "/apis/")) && x.serveDiscovery(path) {
		return
	}
	x.notFound(path)
}

// notFound answers for a path that nothing is behind: below a version that is
// served with a Status, below others in words, and elsewhere with what there is.
func (x *exchange) notFound(path string) {
	parts := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 4)
	switch {
	case len(parts) > 2 && parts[0] == "api" && x.cat.serves(schema.GroupVersion{Version: parts[1]}),
		len(parts) > 3 && parts[0] == "apis" && x.cat.serves(schema.GroupVersion{Group: parts[1], Version: parts[2]}):
		x.media, _ = negotiate(x.req, anyMedia)
		x.fail(apierrors.NewGenericServerResponse(http.StatusNotFound, strings.ToLower(x.req.Method), schema.GroupResource{}, "", "", 0, false))
	case parts[0] == "api" || parts[0] == "apis":
		http.Error(x, "404 page not found", http.StatusNotFound)
	default:
		x.index(http.StatusNotFound)
	}
}

// find returns who answers a path: by its whole name, or by the longest
// beginning of it that is declared with a slash at its end.
func (s *server) find(path string) pathFunc {
	if path != "/" {
		if f := s.paths[strings.TrimSuffix(path, "/")]; f != nil {
			return f
		}
	} else {
		return s.paths["/"]
	}
	for p := path; len(p) > 1; {
		p = p[:strings.LastIndexByte(strings.TrimSuffix(p, "/"), '/')+1]
		if f := s.paths[p]; f != nil && len(p) > 1 {
			return f
		}
		if probe := strings.TrimSuffix(p, "/"); probe == "/livez" || probe == "/readyz" || probe == "/healthz" {
			return s.paths[probe]
		}
	}
	return nil
}

func (x *exchange) serveIndex() { x.index(http.StatusOK) }

// index lists the paths there are.
func (x *exchange) index(code int) {
	var doc struct {
		Paths []string `json:"paths"`
	}
	for p := range x.s.paths {
		if p != "/" {
			doc.Paths = append(doc.Paths, strings.TrimSuffix(p, "/"))
		}
	}
	for _, g := range x.cat.discover().sorted {
		root := "/apis/" + g.Name
		if g.Name == "" {
			root = "/api"
		} else {
			doc.Paths = append(doc.Paths, root)
		}
		for _, v := range g.versions {
			doc.Paths = append(doc.Paths, root+"/"+v.Version)
		}
	}
	slices.Sort(doc.Paths)
	doc.Paths = slices.Compact(doc.Paths)
	x.plainJSON(code, doc.Paths, "paths")
}

// plainJSON writes a value that is no API object.
func (x *exchange) plainJSON(code int, v any, under string) {
	if under != "" {
		v = map[string]any{under: v}
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		x.fail(err)
		return
	}
	x.media = media{typ: api.MediaJSON}
	x.writeBytes(code, b)
}

func (x *exchange) serveVersion() { x.plainJSON(http.StatusOK, x.s.Version, "") }
