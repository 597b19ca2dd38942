package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
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
	x.media, _ = negotiate(x.req, anyMedia)
	x.fail(apierrors.NewGenericServerResponse(http.StatusNotFound, strings.ToLower(x.req.Method), schema.GroupResource{}, "", "", 0, false))
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

func (x *exchange) serveIndex() {
	var doc struct {
		Paths []string `json:"paths"`
	}
	for p := range x.s.paths {
		if p != "/" {
			doc.Paths = append(doc.Paths, strings.TrimSuffix(p, "/"))
		}
	}
	for _, g := range x.cat.discover().groups {
		root := "/apis/" + g.name
		if g.name == "" {
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
	x.plainJSON(doc.Paths, "paths")
}

// plainJSON writes a value that is no API object.
func (x *exchange) plainJSON(v any, under string) {
	if under != "" {
		v = map[string]any{under: v}
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		x.fail(err)
		return
	}
	x.media = media{typ: api.MediaJSON}
	x.writeBytes(http.StatusOK, b)
}

func (x *exchange) serveVersion() { x.plainJSON(x.s.Version, "") }

// health answers /livez and its kind: "ok", or with ?verbose or on failure a
// line for each check. /livez/NAME asks one of them.
func health(what string, asks func(Check) bool) pathFunc {
	return func(x *exchange) {
		one := strings.Trim(strings.TrimPrefix(x.req.URL.Path, "/"+what), "/")
		q := x.req.URL.Query()
		checks := slices.DeleteFunc(slices.Clone(x.s.Checks), func(c Check) bool {
			return !asks(c) || one != "" && c.Name != one || one == "" && slices.Contains(q["exclude"], c.Name)
		})
		if one == "" || one == "ping" {
			checks = append([]Check{{Name: "ping", Probe: func(context.Context) error { return nil }}}, checks...)
		}
		if len(checks) == 0 {
			http.Error(x, "404 page not found", http.StatusNotFound)
			return
		}
		if what == "readyz" {
			checks = append(checks, Check{Name: "shutdown", Probe: x.stopping})
		}
		out, good := x.ask(checks)
		h := x.Header()
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("X-Content-Type-Options", "nosniff")
		_, verbose := q["verbose"]
		switch {
		case !good:
			x.WriteHeader(http.StatusInternalServerError)
			fmt.Fprintf(x, "%s%s check failed\n", out, what)
		case verbose:
			fmt.Fprintf(x, "%s%s check passed\n", out, what)
		default:
			x.Write([]byte("ok"))
		}
	}
}

// ask runs the checks and says how each went. What went wrong is for the log
// only: the client may be anybody.
func (x *exchange) ask(checks []Check) (out string, good bool) {
	good = true
	for _, c := range checks {
		if err := c.Probe(x.ctx); err != nil {
			good = false
			x.s.Log.Warn("a health check failed", "check", c.Name, "err", err)
			out += "[-]" + c.Name + " failed: reason withheld\n"
			continue
		}
		out += "[+]" + c.Name + " ok\n"
	}
	return out, good
}

// stopping is an error while the server goes down.
func (x *exchange) stopping(context.Context) error {
	if down, ok := x.ctx.Value(shutdown{}).(context.Context); ok {
		return down.Err()
	}
	return nil
}
