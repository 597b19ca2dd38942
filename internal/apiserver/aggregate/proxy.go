package aggregate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"proa/internal/api"
	"proa/internal/apiserver/reach"
	"proa/internal/kinds/apiregistration"
)

// A route is where requests for one group and version go.
type route struct {
	b    *backend
	gv   schema.GroupVersion
	way  *reach.Way
	err  error // why there is no way
	down string
}

// Handler returns a Handler that passes on what others serve and leaves the rest
// to h. It belongs behind authorization: what it passes on has been allowed.
func (a *Aggregator) Handler(h api.Handler) api.Handler {
	return api.HandlerFunc(func(ctx context.Context, r *api.Request) (*api.Response, error) {
		gv, ok := claimed(r)
		if !ok {
			return h.Handle(ctx, r)
		}
		if to := a.view.Load().routes[gv]; to != nil {
			return to.answer(r)
		}
		if r.Resource != nil && r.Resource.New == nil { // it was served elsewhere a moment ago
			return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
		}
		return h.Handle(ctx, r)
	})
}

// claimed is the group and version that a request is about, if it is about one
// of a named group: a resource, the discovery of the version, or its OpenAPI v3
// document. Nothing below these two paths is passed on as a path: who may read
// discovery may not read everything.
func claimed(r *api.Request) (gv schema.GroupVersion, ok bool) {
	if r.Resource != nil {
		return r.Resource.GroupVersion(), r.Resource.Group != ""
	}
	path, ok := strings.CutPrefix(r.Path, "/openapi/v3/apis/")
	if !ok {
		path, ok = strings.CutPrefix(r.Path, "/apis/")
	}
	group, version, more := strings.Cut(strings.TrimRight(path, "/"), "/")
	return schema.GroupVersion{Group: group, Version: version}, ok && more && !strings.Contains(version, "/")
}

func (t *route) answer(r *api.Request) (*api.Response, error) {
	switch {
	case t.down != "":
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("the API server of %s is not available: %s", t.gv, t.down))
	case t.err != nil:
		return nil, apierrors.NewServiceUnavailable(t.err.Error())
	}
	user := r.User
	return &api.Response{Connect: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if slices.ContainsFunc(strings.Split(req.URL.Path, "/"), func(s string) bool { return s == "." || s == ".." }) {
			refuse(w, apierrors.NewBadRequest("a path of an aggregated API may have no \".\" and no \"..\" in it"))
			return
		}
		t.pass(w, req, user)
	})}, nil
}

var errLate = errors.New("no answer in time")

// pass carries out a request at the other server, upgrades included.
func (t *route) pass(w http.ResponseWriter, req *http.Request, user api.User) {
	ctx, cancel := context.WithCancelCause(req.Context())
	defer cancel(nil)
	late := time.AfterFunc(t.b.a.Timeout, func() { cancel(errLate) })
	defer late.Stop()
	p := httputil.ReverseProxy{
		Transport:     t.way,
		FlushInterval: -1,
		ErrorLog:      noLog,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL = t.way.URL(req.URL.Path)
			p.Out.URL.RawQuery = req.URL.Query().Encode() // only what authorization could read, too
			p.SetXForwarded()
			p.Out.Trailer = nil // comes after what is said of the user
			identify(p.Out.Header, user)
			if id := w.Header().Get("Audit-Id"); id != "" {
				p.Out.Header.Set("Audit-Id", id)
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			late.Stop()
			if w.Header().Get("Audit-Id") != "" {
				resp.Header.Del("Audit-Id")
			}
			return notAway(req, resp)
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { t.failed(ctx, w, req, err) },
	}
	if req.ProtoMajor == 1 && req.Header.Get("Upgrade") != "" {
		p.Transport = t.way.Upgrades()
	}
	p.ServeHTTP(w, req.WithContext(ctx))
}

// notAway refuses an answer that sends the client elsewhere: it would take its
// credentials there. A newer version of the same document is fine.
func notAway(req *http.Request, resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil
	}
	to, err := url.Parse(resp.Header.Get("Location"))
	if err == nil && to.Host == "" && to.Scheme == "" && to.Path == req.URL.Path {
		return nil
	}
	return errAway
}

var errAway = errors.New("the server answered with a redirect, which is not passed on")

// failed tells the client why there is no answer of the other server.
func (t *route) failed(ctx context.Context, w http.ResponseWriter, req *http.Request, err error) {
	switch {
	case req.Context().Err() != nil: // nobody is listening
		w.WriteHeader(http.StatusBadGateway)
		return
	case errors.Is(err, errAway):
		refuse(w, apierrors.NewGenericServerResponse(http.StatusBadGateway, strings.ToLower(req.Method), schema.GroupResource{}, "",
			fmt.Sprintf("pass on a request to the API server of %s: %v", t.gv, err), 0, true))
		return
	case errors.Is(context.Cause(ctx), errLate):
		err = apierrors.NewTimeoutError(fmt.Sprintf("the API server of %s did not answer within %s", t.gv, t.b.a.Timeout), 1)
	case !apierrors.IsServiceUnavailable(err):
		err = fmt.Errorf("pass on a request to the API server of %s: %w", t.gv, err)
	}
	t.b.poke()
	refuse(w, err)
}

// refuse answers with a Status.
func refuse(w http.ResponseWriter, err error) {
	var known apierrors.APIStatus
	if !errors.As(err, &known) {
		known = apierrors.NewServiceUnavailable(err.Error())
	}
	s := known.Status()
	s.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	body, _ := json.Marshal(&s) // plain data
	w.Header().Set("Content-Type", api.MediaJSON)
	w.WriteHeader(int(s.Code))
	w.Write(body)
}

// unavailable is why requests are not even tried, or empty.
func unavailable(o *apiregistrationv1.APIService) string {
	c := apiregistration.Available(o)
	if c == nil || c.Status != apiregistrationv1.ConditionFalse {
		return ""
	}
	return c.Reason + ": " + c.Message
}
