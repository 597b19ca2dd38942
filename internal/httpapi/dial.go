package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	knet "k8s.io/apimachinery/pkg/util/net"

	"proa/internal/api"
)

// Dial returns a Handler that asks the server at base, such as
// https://10.0.0.1:6443. It is the inverse of Serve: the same request gets the
// same answer, or the same *errors.StatusError, through either. Who asks is
// decided by the credentials that the client's transport sends; a transport
// finds the request's User with [UserOf]. A watch breaks with an error when the
// connection does. Objects in answers are new, but may be shared all the same.
func Dial(base string, c *http.Client) api.Handler {
	if c == nil {
		c = http.DefaultClient
	}
	return &client{base: strings.TrimSuffix(base, "/"), http: c}
}

type client struct {
	base string
	http *http.Client
}

type userKey struct{}

// UserOf is the User of the API request that an HTTP request of [Dial] carries out.
func UserOf(ctx context.Context) (api.User, bool) {
	u, ok := ctx.Value(userKey{}).(api.User)
	return u, ok
}

// Handle carries out r.
func (c *client) Handle(ctx context.Context, r *api.Request) (*api.Response, error) {
	if r.User.Name != "" {
		ctx = context.WithValue(ctx, userKey{}, r.User)
	}
	if r.Resource == nil {
		return c.path(ctx, r)
	}
	if s := r.Resource.Subs[r.Sub]; s != nil && s.Connect {
		return &api.Response{Connect: c.proxy(c.url(r))}, nil
	}
	req, err := c.request(ctx, r)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		return nil, readError(r, resp)
	}
	if r.Verb == api.Watch {
		return &api.Response{Code: resp.StatusCode, Events: readEvents(ctx, r.Resource, resp), Warnings: warnings(resp)}, nil
	}
	defer resp.Body.Close()
	body, err := readBody(resp)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", req.Method, req.URL.Path, err)
	}
	out := &api.Response{Code: resp.StatusCode, Warnings: warnings(resp)}
	if r.Verb == api.List {
		out.List, err = readList(r.Resource, mediaOf(resp.Header.Get("Content-Type")), body)
	} else {
		err = readResult(r, mediaOf(resp.Header.Get("Content-Type")), body, out)
	}
	if err != nil {
		return nil, fmt.Errorf("read the answer to %s %s: %w", req.Method, req.URL.Path, err)
	}
	return out, nil
}

func warnings(resp *http.Response) (out []string) {
	if resp.Header["Warning"] == nil {
		return nil
	}
	ws, _ := knet.ParseWarningHeaders(resp.Header["Warning"])
	for _, w := range ws {
		out = append(out, w.Text)
	}
	return out
}

func readBody(resp *http.Response) ([]byte, error) {
	if n := resp.ContentLength; n >= 0 && n < 64<<20 {
		b := make([]byte, n)
		_, err := io.ReadFull(resp.Body, b)
		return b, err
	}
	return io.ReadAll(resp.Body)
}

func (c *client) url(r *api.Request) string {
	u := c.base
	if r.Past != nil {
		u += api.HistoryPath
	}
	u += r.Resource.Path(url.PathEscape(r.Namespace))
	if r.Name != "" && r.Verb != api.List && r.Verb != api.Watch && r.Verb != api.DeleteCollection && (r.Verb != api.Create || r.Sub != "") {
		u += "/" + url.PathEscape(r.Name)
	}
	if r.Sub != "" {
		u += "/" + r.Sub
	}
	return u
}

var methods = map[api.Verb]string{
	api.Get: "GET", api.List: "GET", api.Watch: "GET", api.Create: "POST", api.Update: "PUT", api.Patch: "PATCH",
	api.Delete: "DELETE", api.DeleteCollection: "DELETE",
}

// request is the inverse of what Serve does with an HTTP request.
func (c *client) request(ctx context.Context, r *api.Request) (*http.Request, error) {
	u := c.url(r)
	if q := query(r); len(q) > 0 {
		u += "?" + q.Encode()
	}
	body, typ, err := requestBody(r)
	if err != nil {
		return nil, err
	}
	var in io.Reader
	if len(body) > 0 {
		in = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, methods[r.Verb], u, in)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "proa")
	if typ != "" {
		req.Header.Set("Content-Type", typ)
	}
	req.Header.Set("Accept", api.MediaJSON)
	if usesProtobuf(r.Resource) && (r.Past == nil || !r.Past.List()) {
		req.Header.Set("Accept", api.MediaProtobuf+","+api.MediaJSON)
		if r.Verb == api.Watch {
			req.Header.Set("Accept", api.MediaProtobuf+";stream=watch,"+api.MediaJSON)
		}
	}
	return req, nil
}

func usesProtobuf(r *api.Resource) bool {
	return r.Codec != nil && r.Codec.Media() == api.MediaProtobuf
}

func requestBody(r *api.Request) ([]byte, string, error) {
	switch {
	case r.Verb == api.Delete || r.Verb == api.DeleteCollection:
		return deleteBody(r)
	case r.Object != nil:
		kind := r.Object.GetObjectKind().GroupVersionKind()
		if kind.Kind == "" {
			t := target{res: &resource{Resource: r.Resource}, sub: r.Sub}
			kind = t.kindOf(r.Object)
		}
		if r.Verb == api.Patch {
			b, err := json.Marshal(r.Object)
			return b, string(r.Patch), err
		}
		if usesProtobuf(r.Resource) {
			if b, err := encode(r.Object, kind, api.MediaProtobuf); err == nil {
				return b, api.MediaProtobuf, nil
			}
		}
		b, err := encode(r.Object, kind, api.MediaJSON)
		return b, api.MediaJSON, err
	case r.Verb == api.Patch:
		return r.Body, string(r.Patch), nil
	case r.Verb.Writes() && r.ContentType == "":
		return r.Body, api.MediaJSON, nil
	}
	return r.Body, r.ContentType, nil
}

func deleteBody(r *api.Request) ([]byte, string, error) {
	o := metav1.DeleteOptions{GracePeriodSeconds: r.Options.GracePeriod, PropagationPolicy: r.Options.Propagation}
	o.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"})
	if r.Options.DryRun {
		o.DryRun = []string{metav1.DryRunAll}
	}
	if r.Options.UID != nil || r.Options.ResourceVersion != nil {
		o.Preconditions = &metav1.Preconditions{UID: r.Options.UID, ResourceVersion: r.Options.ResourceVersion}
	}
	b, err := json.Marshal(o)
	return b, api.MediaJSON, err
}

// query is the inverse of options.
func query(r *api.Request) url.Values {
	q := url.Values{}
	set := func(k, v string) {
		if v != "" {
			q.Set(k, v)
		}
	}
	switch r.Verb {
	case api.Create, api.Update, api.Patch:
		set("fieldManager", r.Options.FieldManager)
		set("fieldValidation", r.Options.FieldValidation)
		if r.Options.DryRun {
			q.Set("dryRun", metav1.DryRunAll)
		}
		if r.Options.Force && r.Patch == types.ApplyYAMLPatchType {
			q.Set("force", "true")
		}
		return q
	case api.Get:
		set("resourceVersion", r.At.ResourceVersion)
		pastQuery(r.Past, set)
		return q
	case api.Delete:
		return q
	case api.Watch:
		q.Set("watch", "1")
	}
	selectors(r, set)
	set("resourceVersion", r.At.ResourceVersion)
	set("resourceVersionMatch", string(r.At.Match))
	set("continue", r.At.Continue)
	if r.At.Limit > 0 {
		q.Set("limit", strconv.FormatInt(r.At.Limit, 10))
	}
	if r.At.Timeout > 0 {
		q.Set("timeoutSeconds", strconv.FormatInt(max(1, int64(r.At.Timeout.Seconds())), 10))
	}
	if r.At.Bookmarks {
		q.Set("allowWatchBookmarks", "true")
	}
	if r.At.SendInitialEvents != nil {
		q.Set("sendInitialEvents", strconv.FormatBool(*r.At.SendInitialEvents))
	}
	return q
}

// selectors writes selectors out. One that matches nothing has no text of its
// own: it becomes a contradiction.
func selectors(r *api.Request, set func(k, v string)) {
	l, f := r.Select.Labels, r.Select.Fields
	if l != nil {
		set("labelSelector", l.String())
	}
	if f != nil {
		set("fieldSelector", f.String())
	}
	if l != nil && !l.Empty() && l.String() == "" || f != nil && !f.Empty() && f.String() == "" {
		set("labelSelector", "none,!none")
	}
}

// path carries out a request for a path that is no resource.
func (c *client) path(ctx context.Context, r *api.Request) (*api.Response, error) {
	if r.HTTP != nil {
		return &api.Response{Connect: c.proxy(c.base + r.Path)}, nil
	}
	req, err := http.NewRequestWithContext(ctx, strings.ToUpper(string(r.Verb)), c.base+r.Path, bytes.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		return nil, readError(r, resp)
	}
	body, err := readBody(resp)
	if err != nil {
		return nil, err
	}
	return &api.Response{Code: resp.StatusCode, Connect: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		w.WriteHeader(resp.StatusCode)
		w.Write(body)
	})}, nil
}

// proxy passes a stream through to target, upgrades included.
func (c *client) proxy(target string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		to, err := url.Parse(target)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		to.RawQuery = req.URL.RawQuery
		p := httputil.ReverseProxy{
			Transport:     c.http.Transport,
			FlushInterval: -1,
			Rewrite: func(p *httputil.ProxyRequest) {
				p.Out.URL, p.Out.Host = to, ""
				p.Out.Header.Del("Authorization") // the transport knows who we are
			},
		}
		if t, ok := c.http.Transport.(*http.Transport); ok && req.Header.Get("Upgrade") != "" {
			p.Transport = http1(t)
		}
		p.ServeHTTP(w, req)
	})
}

// http1 is a transport like t that speaks HTTP/1.1 only, the one version that
// can be upgraded.
func http1(t *http.Transport) *http.Transport {
	t = t.Clone()
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	t.ForceAttemptHTTP2 = false
	if t.TLSClientConfig != nil {
		t.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	t.DisableKeepAlives = true
	return t
}

// readError is the error that an answer tells of.
func readError(r *api.Request, resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil {
		var st metav1.Status
		if decodeObject(mediaOf(resp.Header.Get("Content-Type")), body, &st) == nil && st.Kind == "Status" && st.Code != 0 {
			return &apierrors.StatusError{ErrStatus: st}
		}
	}
	gr, name := schema.GroupResource{}, r.Name
	if r.Resource != nil {
		gr = r.Resource.GroupResource()
	}
	retry, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	return apierrors.NewGenericServerResponse(resp.StatusCode, strings.ToLower(methods[r.Verb]), gr, name, string(body), retry, true)
}
