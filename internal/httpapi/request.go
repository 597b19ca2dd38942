package httpapi

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/httpapi/h2"
	"proa/internal/httpapi/lazy"
)

// resource answers a request for a resource.
func (x *exchange) resource(t *target, verb api.Verb) {
	if verb == "" {
		x.media, _ = negotiate(x.req, anyMedia)
		x.Header().Set("Allow", t.allowed())
		x.fail(apierrors.NewGenericServerResponse(http.StatusMethodNotAllowed, "", schema.GroupResource{}, "", "", 0, false))
		return
	}
	r := &x.r
	*r = api.Request{Verb: verb, Resource: t.res.Resource, Namespace: t.ns, Name: t.name, Sub: t.sub, User: x.user, HTTP: x.req}
	if t.res.connects(t.sub) {
		x.connect(r)
		return
	}
	if t.past {
		r.Past = new(api.Past)
	}
	if err := x.negotiate(t, verb); err != nil {
		x.fail(err)
		return
	}
	if err := x.readBody(t, r); err != nil {
		x.fail(err)
		return
	}
	if err := x.options(r); err != nil {
		x.fail(err)
		return
	}
	ctx, cancel := x.deadline(r)
	defer cancel()
	x.ctx, x.cancel = ctx, cancel
	resp, err := x.s.h.Handle(ctx, r)
	if resp != nil {
		x.warn(resp.Warnings)
	}
	if err != nil {
		x.fail(err)
		return
	}
	x.respond(t, r, resp)
}

// allowed lists the methods that a target knows (RFC 9110, section 10.2.1).
func (t *target) allowed() string {
	var out []string
	for _, m := range []string{"DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"} {
		v := plainVerb(m, t)
		if v == api.Create && t.sub == "" && t.res.Scope == api.Namespaced && t.ns == "" {
			continue
		}
		if slices.Contains(t.res.verbs(t.sub), v) {
			out = append(out, m)
		}
	}
	return strings.Join(out, ", ")
}

// connect hands the connection over to whatever the Handler answers with.
func (x *exchange) connect(r *api.Request) {
	resp, err := x.s.h.Handle(x.ctx, r)
	if err != nil {
		x.fail(err)
		return
	}
	x.warn(resp.Warnings)
	if resp.Connect != nil {
		x.handOver(resp.Connect)
		return
	}
	x.media, _ = negotiate(x.req, anyMedia)
	t := target{res: x.cat.resource(r.Resource.GroupVersionResource), ns: r.Namespace, name: r.Name, sub: r.Sub}
	x.respond(&t, r, resp)
}

// handOver lets h write to the client itself: it gets the ResponseWriter as it
// came in, which can be flushed and hijacked.
func (x *exchange) handOver(h http.Handler) {
	x.Header().Del("Cache-Control")
	h.ServeHTTP(x.ResponseWriter, x.req)
	if x.code == 0 {
		x.code = http.StatusOK
	}
}

// deadline is how long the request may take, or, of a watch, how long it lives.
func (x *exchange) deadline(r *api.Request) (context.Context, context.CancelFunc) {
	limit := x.s.Timeout
	if r.Verb == api.Watch {
		if r.At.Timeout == 0 {
			r.At.Timeout = 30*time.Minute + rand.N(30*time.Minute)
		}
		// The Handler ends it, with a last bookmark; the rest is for one that does not.
		ctx, cancel := context.WithTimeout(x.ctx, r.At.Timeout+watchGrace)
		if down, ok := x.ctx.Value(shutdown{}).(context.Context); ok {
			stop := context.AfterFunc(down, cancel)
			return ctx, func() { stop(); cancel() }
		}
		return ctx, cancel
	}
	if v := x.req.URL.RawQuery; v != "" {
		if d, err := time.ParseDuration(x.req.URL.Query().Get("timeout")); err == nil && d > 0 && d < limit {
			limit = d
		}
	}
	d := lazy.WithDeadline(x.ctx, time.Now().Add(limit))
	return d, d.Cancel
}

const watchGrace = 500 * time.Millisecond

// readBody reads what was sent and checks its type.
func (x *exchange) readBody(t *target, r *api.Request) error {
	if !r.Verb.Writes() {
		return nil
	}
	var err error
	if r.Body, err = readAll(x.req, x.s.MaxBody); err != nil {
		return err
	}
	typ := mediaOf(x.req.Header.Get("Content-Type"))
	switch r.Verb {
	case api.Patch:
		r.Patch = types.PatchType(typ)
		if !slices.Contains(patchTypes, r.Patch) || !t.res.protobuf && r.Patch == types.StrategicMergePatchType {
			return unsupportedMedia(fmt.Sprintf("the body of the request was in an unknown format - accepted media types include: %s",
				join(t.res.patches())))
		}
	case api.Delete, api.DeleteCollection:
		if len(r.Body) == 0 {
			return nil
		}
		fallthrough
	default:
		if typ == "" {
			typ = api.MediaJSON
		}
		if typ != api.MediaJSON && typ != api.MediaYAML && typ != api.MediaCBOR && (typ != api.MediaProtobuf || !t.res.protobuf && r.Verb != api.Delete && r.Verb != api.DeleteCollection) {
			return unsupportedMedia("the body of the request was in an unknown format - accepted media types include: " + join(t.res.medias()))
		}
	}
	r.ContentType = typ
	return nil
}

func (r *resource) patches() []types.PatchType {
	if r.protobuf {
		return patchTypes
	}
	return []types.PatchType{types.JSONPatchType, types.MergePatchType, types.ApplyYAMLPatchType, types.ApplyCBORPatchType}
}

func unsupportedMedia(message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure,
		Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType, Message: message}}
}

// A wholeBody has what was sent in one piece, as h2's does.
type wholeBody interface {
	ReadAll(most int64) ([]byte, error)
}

func readAll(req *http.Request, most int64) ([]byte, error) {
	tooLarge := func() error {
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", most))
	}
	n := req.ContentLength
	if n == 0 || req.Body == nil {
		return nil, nil
	}
	if n > most {
		return nil, tooLarge()
	}
	var b []byte
	var err error
	whole, ok := req.Body.(wholeBody)
	switch {
	case ok:
		b, err = whole.ReadAll(most)
	case n > 0:
		b = make([]byte, n)
		_, err = io.ReadFull(req.Body, b)
	default:
		b, err = io.ReadAll(io.LimitReader(req.Body, most+1))
	}
	if err != nil {
		return nil, apierrors.NewBadRequest("unable to read the request's body: " + err.Error())
	}
	if int64(len(b)) > most {
		return nil, tooLarge()
	}
	return b, nil
}

// auditID names the request: as the client says, or a random UUID.
func auditID(req *http.Request) string {
	if id := req.Header["Audit-Id"]; len(id) == 1 && id[0] != "" && len(id[0]) <= 64 {
		return id[0]
	}
	var b [16]byte
	hi, lo := rand.Uint64(), rand.Uint64()
	for i := range 8 {
		b[i], b[8+i] = byte(hi>>(8*i)), byte(lo>>(8*i))
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	var s [36]byte
	hex.Encode(s[0:8], b[0:4])
	hex.Encode(s[9:13], b[4:6])
	hex.Encode(s[14:18], b[6:8])
	hex.Encode(s[19:23], b[8:10])
	hex.Encode(s[24:36], b[10:16])
	s[8], s[13], s[18], s[23] = '-', '-', '-', '-'
	return string(s[:])
}

// shutdown is the key of the context that ends when the server does.
type shutdown struct{}

// Server returns a server for h on addr, with limits that suit an API server:
// slow or idle clients do not hold it, bodies and streams may take their time,
// HTTP/2 carries many watches on one connection, and HTTP/1.1 stays available
// on the same port for upgrades (so start it with ServeTLS, which offers both, on
// a listener of [Gather]).
// Shutdown ends the watches that run through
// [Serve], so that it can wait for the rest.
func Server(addr string, t *tls.Config, h http.Handler) *http.Server {
	down, end := context.WithCancel(context.Background())
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	if t != nil {
		t = t.Clone()
		t.DynamicRecordSizingDisabled = true // it would cut the first 128 KB of a connection into records of a packet each
	}
	s := &http.Server{
		Addr: addr, TLSConfig: t, Protocols: &protocols, Handler: h,
		BaseContext:       func(net.Listener) context.Context { return context.WithValue(context.Background(), shutdown{}, down) },
		ReadHeaderTimeout: 32 * time.Second,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    64 << 10,
	}
	h2.Configure(s, h2.Config{MaxStreams: 1000, MaxHeader: 64 << 10})
	s.RegisterOnShutdown(end)
	return s
}
