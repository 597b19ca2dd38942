package httpapi

import (
	"context"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
)

// elsewhere finds what a path names if another server serves its group and
// version: always a resource, or at least something that has to be allowed like
// one, whatever that server makes of it. False: nobody else serves it, or it is
// the version itself.
//
// The other server reads the path by the same rules, and believes that what it
// reads has been allowed. So they are Kubernetes' to the letter: empty segments
// at both ends do not count, and a verb may stand before the resource.
func (c *catalog) elsewhere(path string) (t target, ok bool) {
	if c.far == nil || len(c.far.Versions) == 0 || !strings.HasPrefix(path, "/apis/") {
		return t, false
	}
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if len(parts) < 4 {
		return t, false
	}
	gv := schema.GroupVersion{Group: parts[1], Version: parts[2]}
	if !c.far.Serves(gv) {
		return t, false
	}
	if parts = parts[3:]; parts[0] == "watch" || parts[0] == "proxy" {
		t.prefix, parts = api.Verb(parts[0]), parts[1:]
	}
	if len(parts) > 1 && parts[0] == "namespaces" {
		t.ns = parts[1]
		if len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
			parts = parts[2:]
		}
	}
	t.far = true
	name := ""
	if len(parts) > 0 {
		name = parts[0]
	}
	t.res = &resource{Resource: &api.Resource{GroupVersionResource: gv.WithResource(name)}}
	if len(parts) > 1 {
		t.name = parts[1]
	}
	if len(parts) > 2 && t.prefix != "proxy" {
		t.sub = parts[2]
	}
	return t, true
}

// farVerb is what a request asks of a target elsewhere; empty for a method that
// has no verb, which only those may use who may do everything.
func farVerb(req *http.Request, t *target) api.Verb {
	if t.prefix != "" {
		return t.prefix
	}
	switch req.Method {
	case http.MethodGet, http.MethodHead:
		if t.name != "" {
			return api.Get
		}
		if v, given := req.URL.Query()["watch"]; given && v[0] != "0" && !strings.EqualFold(v[0], "false") {
			return api.Watch
		}
		return api.List
	case http.MethodPost:
		return api.Create
	case http.MethodPut:
		return api.Update
	case http.MethodPatch:
		return api.Patch
	case http.MethodDelete:
		if t.name == "" {
			return api.DeleteCollection
		}
		return api.Delete
	}
	return ""
}

// passOn answers a request for a resource that another server serves.
func (x *exchange) passOn(t *target, verb api.Verb) {
	x.media, _ = negotiate(x.req, anyMedia)
	if t.res.Resource.Resource == "" {
		x.fail(apierrors.NewBadRequest("the path names no resource"))
		return
	}
	r := &api.Request{Verb: verb, Resource: t.res.Resource, Namespace: t.ns, Name: t.name, Sub: t.sub, User: x.user, HTTP: x.req}
	if t.prefix == "" && (verb == api.List || verb == api.Watch) {
		r.Select = farSelectors(x.req)
	}
	resp, err := x.s.h.Handle(x.ctx, r)
	switch {
	case err != nil:
		x.fail(err)
		return
	case resp.Connect == nil: // nobody serves it any more
		x.fail(apierrors.NewNotFound(t.res.GroupResource(), t.name))
		return
	}
	x.warn(resp.Warnings)
	if down, ok := x.ctx.Value(shutdown{}).(context.Context); ok && verb == api.Watch {
		ctx, cancel := context.WithCancel(x.ctx)
		defer cancel()
		defer context.AfterFunc(down, cancel)()
		x.req = x.req.WithContext(ctx)
	}
	x.Header().Del("Cache-Control")
	resp.Connect.ServeHTTP(x, x.req)
}

// farSelectors are the selectors of a request, as far as a decision can be made
// by them: what cannot be read is left to the other server.
func farSelectors(req *http.Request) (s api.Selectors) {
	q := req.URL.Query()
	if f, err := fields.ParseSelector(q.Get("fieldSelector")); err == nil {
		name, exact := f.RequiresExactMatch("metadata.name")
		if !exact || len(pathvalidation.IsValidPathSegmentName(name)) == 0 {
			s.Fields = f
		}
	}
	if l, err := labels.Parse(q.Get("labelSelector")); err == nil {
		s.Labels = l
	}
	return s
}
