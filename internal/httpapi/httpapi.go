// Package httpapi carries the API over HTTP, both ways: [Serve] makes any
// [api.Handler] an HTTP handler that speaks the Kubernetes wire (resources,
// discovery, tables, OpenAPI, health, version), and [Dial] makes such a server
// a Handler again.
//
// Every request goes through the Handler, those for paths that are no
// resources too: a Request with a Path, the HTTP method in lower case as its
// Verb, and no Resource. Layers such as authorization decide on it like on any
// other. The innermost Handler answers it with Response.Connect if the path is
// its own. If it answers with neither a Connect nor an error, or that the path
// was not found, Serve answers from its own list of paths: see [Config].
package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"proa/internal/api"
	"proa/internal/api/remote"
)

// Config is what Serve needs besides the Handler. The zero value serves no
// kinds and knows nobody.
type Config struct {
	// Groups returns what is served now, by the groups' names. It is called with
	// every request and must be cheap; when anything changes it returns another
	// slice, in which what has not changed is the same as before.
	Groups func() []*api.Group

	// Remote is what other servers serve behind the Handler now; another pointer
	// when that changes. Requests for it have a Resource that has nothing but its
	// name, and the Handler answers them with Response.Connect. Nobody does if nil.
	Remote func() *remote.Catalog

	// Authenticate says who sent a request. False or an error is a client that
	// nobody knows, and is answered with 401 unless Anonymous lets it pass.
	Authenticate func(*http.Request) (api.User, bool, error)

	// Impersonate says as whom a request acts whose headers ask to act as somebody
	// else; its errors are the client's. If nil, such requests are refused.
	Impersonate func(context.Context, api.User, http.Header) (api.User, error)

	// Anonymous says whether an unknown client without credentials may go on as
	// system:anonymous, to be judged by authorization. Nil allows /healthz,
	// /livez, /readyz and /version.
	Anonymous func(*http.Request) bool

	Version  version.Info            // what /version answers
	Log      *slog.Logger            // slog.Default if nil
	Checks   []Check                 // what /healthz, /livez and /readyz ask
	Metrics  http.Handler            // answers /metrics
	Register prometheus.Registerer   // takes the request metrics; none are kept if nil
	Paths    map[string]http.Handler // more paths; one that ends in a slash answers for all below it
	MaxBody  int64                   // bytes; 3 MiB if 0
	Timeout  time.Duration           // of a request that is no stream; 60 s if 0
}

// A Check is one line of /readyz?verbose.
type Check struct {
	Name  string
	Ready bool // asked by /readyz only: its failing is no reason for a restart
	Probe func(context.Context) error
}

type server struct {
	Config
	h       api.Handler
	catalog atomic.Pointer[catalog]
	paths   map[string]pathFunc
	metrics *metrics
}

// Serve returns an HTTP handler that answers from h.
func Serve(h api.Handler, c Config) http.Handler {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Groups == nil {
		c.Groups = func() []*api.Group { return nil }
	}
	if c.MaxBody == 0 {
		c.MaxBody = 3 << 20
	}
	if c.Timeout == 0 {
		c.Timeout = time.Minute
	}
	if c.Anonymous == nil {
		c.Anonymous = healthOnly
	}
	s := &server{Config: c, h: h}
	s.paths = s.ownPaths()
	if c.Register != nil {
		s.metrics = newMetrics(c.Register)
	}
	return s
}

func healthOnly(req *http.Request) bool {
	p := req.URL.Path
	for _, open := range []string{"/healthz", "/livez", "/readyz", "/version"} {
		if p == open || strings.HasPrefix(p, open+"/") {
			return true
		}
	}
	return false
}

// now returns the catalog of the kinds that are served at this moment.
func (s *server) now() *catalog {
	groups := s.Groups()
	var far *remote.Catalog
	if s.Remote != nil {
		far = s.Remote()
	}
	c := s.catalog.Load()
	if c == nil || !c.of(groups, far) {
		c = newCatalog(groups, far, c)
		s.catalog.Store(c)
	}
	return c
}

// An exchange is one request and the answer to it.
type exchange struct {
	http.ResponseWriter // what came in; the exchange itself is the counting writer
	s                   *server
	req                 *http.Request
	cat                 *catalog
	user                api.User
	media               media
	ctx                 context.Context
	cancel              context.CancelFunc // of ctx, once there is a deadline
	code                int
	cascades            bool // a delete with orphanDependents=false
	size                int64
	series              *series // nil without metrics
	t                   target
	r                   api.Request // that the Handler gets
	id, length          [1]string   // values of headers
}

// WriteHeader remembers the code.
func (x *exchange) WriteHeader(code int) {
	if x.code == 0 {
		x.code = code
	}
	x.ResponseWriter.WriteHeader(code)
}

// Write is a WriteHeader(200) if there was none.
func (x *exchange) Write(b []byte) (int, error) {
	if x.code == 0 {
		x.code = http.StatusOK
	}
	n, err := x.ResponseWriter.Write(b)
	x.size += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

func (s *server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	start := time.Now()
	req = withProtocolToken(req)
	x := &exchange{ResponseWriter: w, s: s, req: req, cat: s.now(), ctx: req.Context()}
	h := w.Header()
	x.id[0] = auditID(req)
	h["Audit-Id"] = x.id[:]
	h["Cache-Control"] = noCache
	x.t = x.cat.route(req.URL.Path)
	t := &x.t
	verb := x.verb(t)
	if s.metrics != nil {
		defer s.metrics.begin(x, t, verb).end(x, start)
	}
	defer x.recover()
	switch {
	case !x.authenticate():
	case impersonates(req) && !x.impersonate():
	case t.res == nil:
		x.path()
	case t.far:
		x.passOn(t, verb)
	default:
		x.resource(t, verb)
	}
}

var noCache = []string{"no-cache, private"}

func (x *exchange) recover() {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	x.s.Log.Error("a request panicked", "method", x.req.Method, "path", x.req.URL.Path, "panic", p, "stack", string(debug.Stack()))
	if x.code != 0 {
		panic(http.ErrAbortHandler) // half an answer must not look whole
	}
	x.fail(apierrors.NewInternalError(fmt.Errorf("the request panicked: %v", p)))
}

// authenticate finds out who asks. False: nobody that is known, and that has been answered.
func (x *exchange) authenticate() bool {
	var err error
	if x.s.Authenticate != nil {
		user, ok, aerr := x.s.Authenticate(x.req)
		if ok && aerr == nil {
			x.user = user
			return true
		}
		err = aerr
	}
	if err == nil && x.req.Header.Get("Authorization") == "" && x.s.Anonymous(x.req) {
		x.user = api.User{Name: api.UserAnonymous, Groups: []string{api.GroupUnauthenticated}}
		return true
	}
	if err != nil {
		x.s.Log.Warn("a client's credentials were refused", "from", x.req.RemoteAddr, "path", x.req.URL.Path, "err", err)
	}
	x.fail(apierrors.NewUnauthorized("Unauthorized"))
	return false
}

// impersonates says whether the request asks to be somebody else, which must
// never be ignored. It is not inlined to keep the stack of a watch small.
//
//go:noinline
func impersonates(req *http.Request) bool {
	for name := range req.Header {
		if strings.HasPrefix(name, "Impersonate-") {
			return true
		}
	}
	return false
}

// impersonate finds out as whom to go on. False: that is refused, and has been answered.
func (x *exchange) impersonate() bool {
	h := x.req.Header
	if x.s.Impersonate == nil {
		x.fail(apierrors.NewForbidden(schema.GroupResource{Resource: "users"}, h.Get("Impersonate-User"),
			errors.New("impersonation is not supported by this server")))
		return false
	}
	user, err := x.s.Impersonate(x.req.Context(), x.user, h)
	if err != nil {
		x.fail(err)
		return false
	}
	x.user = user
	for name := range h { // so that it is not done twice, by whoever the request is passed on to
		if strings.HasPrefix(name, "Impersonate-") {
			h.Del(name)
		}
	}
	return true
}

// fail answers with an error.
func (x *exchange) fail(err error) {
	status := x.status(err)
	if status == nil {
		return
	}
	code := int(status.Code)
	if d := status.Details; d != nil && d.RetryAfterSeconds > 0 {
		x.Header().Set("Retry-After", fmt.Sprint(d.RetryAfterSeconds))
	} else if code == http.StatusTooManyRequests {
		x.Header().Set("Retry-After", "1")
	}
	x.media.as = asItself
	if x.media.typ == "" {
		x.media, _ = negotiate(x.req, anyMedia)
	}
	x.writeObject(code, status, schema.GroupVersionKind{Version: "v1", Kind: "Status"})
}

// status is the Status that tells a client of err; nil if nobody is listening.
func (x *exchange) status(err error) *metav1.Status {
	var known apierrors.APIStatus
	switch {
	case errors.As(err, &known):
		st := known.Status()
		if st.Code == 0 {
			st.Code = http.StatusInternalServerError
		}
		st.Kind, st.APIVersion = "Status", "v1"
		return &st
	case x.req.Context().Err() != nil:
		x.code = 499 // the client is gone
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		err = apierrors.NewTimeoutError("the request did not complete within the allotted time", 1)
	case errors.Is(err, context.Canceled):
		err = apierrors.NewServiceUnavailable("the server is shutting down")
	default:
		x.s.Log.Error("a request failed", "method", x.req.Method, "path", x.req.URL.Path, "err", err)
		err = apierrors.NewInternalError(err)
	}
	return x.status(err)
}
