package gate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"

	"proa/internal/api"
)

// A judge is an API server that knows the tokens "ann", "bob" and "eve", and lets
// users do what may says. It notes what it is asked.
type judge struct {
	may   map[string]bool // "user verb subresource"
	down  error
	asked []string
}

func (j *judge) Handle(ctx context.Context, r *api.Request) (*api.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if j.down != nil {
		return nil, j.down
	}
	switch o := r.Object.(type) {
	case *authenticationv1.TokenReview:
		j.asked = append(j.asked, "whose is "+o.Spec.Token)
		out := *o
		if slices.Contains([]string{"ann", "bob", "eve"}, o.Spec.Token) {
			out.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: o.Spec.Token, UID: "u1",
				Groups: []string{"g1", "g2"}, Extra: map[string]authenticationv1.ExtraValue{"pod": {"p"}}}}
		} else {
			out.Status.Error = "token has expired"
		}
		return &api.Response{Object: &out}, nil
	case *authorizationv1.SubjectAccessReview:
		a := o.Spec.ResourceAttributes
		wish := strings.Join([]string{o.Spec.User, a.Verb, a.Subresource}, " ")
		j.asked = append(j.asked, wish)
		if a.Resource != "nodes" || a.Name != "n1" || a.Group != "" || a.Namespace != "" {
			return nil, fmt.Errorf("asked about %+v", a)
		}
		if o.Spec.User != "cert" && (o.Spec.UID != "u1" || len(o.Spec.Groups) != 2 || o.Spec.Extra["pod"][0] != "p") {
			return nil, fmt.Errorf("asked about somebody else: %+v", o.Spec)
		}
		out := *o
		out.Status.Allowed, out.Status.Reason = j.may[wish], "by role"
		if !out.Status.Allowed {
			out.Status.Reason = "no role"
		}
		return &api.Response{Object: &out}, nil
	}
	return nil, fmt.Errorf("asked %s with %T", r.Verb, r.Object)
}

type asking struct {
	t     *testing.T
	judge *judge
	gate  *Gate
	now   time.Time
}

func newAsking(t *testing.T) *asking {
	a := &asking{t: t, judge: &judge{may: map[string]bool{}}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	a.gate = &Gate{Handler: a.judge, Node: "n1", Now: func() time.Time { return a.now },
		Certificate: func(chain []*x509.Certificate) (api.User, error) {
			if chain[0].SerialNumber != nil {
				return api.User{}, errors.New("x509: unknown authority")
			}
			return api.User{Name: "cert"}, nil
		}}
	return a
}

// as sends a request with a token, if there is one, and a certificate: "", "good" or "bad".
func (a *asking) as(token, cert, method, path string) (code int, text string, asked []string) {
	a.t.Helper()
	a.judge.asked = nil
	r := httptest.NewRequest(method, path, nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if cert != "" {
		c := &x509.Certificate{}
		if cert == "bad" {
			c = stranger(a.t)
		}
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}
	}
	w := httptest.NewRecorder()
	a.gate.Guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "in") })).ServeHTTP(w, r)
	return w.Code, strings.TrimSpace(w.Body.String()), a.judge.asked
}

// stranger is a certificate with a serial number, as those of this test's authority have none.
func stranger(t *testing.T) *x509.Certificate {
	s := httptest.NewTLSServer(nil)
	t.Cleanup(s.Close)
	return s.Certificate()
}

func TestGuard(t *testing.T) {
	for _, tt := range []struct {
		name, token, cert, method, path string
		code                            int
		text                            string
		asked                           string
	}{
		{"nobody", "", "", "GET", "/metrics", 401, "Unauthorized: the node wants a client certificate of the cluster's authority, or a bearer token that the API server knows", ""},
		{"an old token", "old", "", "GET", "/metrics", 401, "Unauthorized: the API server does not accept the bearer token: token has expired", "whose is old"},
		{"a stranger's certificate", "", "bad", "GET", "/metrics", 401, "Unauthorized: the client certificate does not hold: x509: unknown authority", ""},
		{"a stranger's certificate and a token", "ann", "bad", "GET", "/metrics", 200, "in", "whose is ann; ann get metrics"},
		{"a certificate, which counts before the token", "ann", "good", "GET", "/metrics", 200, "in", "cert get metrics"},
		{"the narrow right", "ann", "", "GET", "/metrics/cadvisor", 200, "in", "whose is ann; ann get metrics"},
		{"the narrow right is no wider one", "ann", "", "GET", "/stats/summary", 403,
			"Forbidden (user=ann, verb=get, resource=nodes, subresource(s)=[stats]): a ClusterRole must allow it to get nodes/stats: no role", "whose is ann; ann get stats"},
		{"the fine right", "ann", "", "GET", "/pods", 200, "in", "whose is ann; ann get pods"},
		{"the coarse right", "bob", "", "GET", "/pods", 200, "in", "whose is bob; bob get pods; bob get proxy"},
		{"neither", "eve", "", "GET", "/pods", 403,
			"Forbidden (user=eve, verb=get, resource=nodes, subresource(s)=[pods proxy]): a ClusterRole must allow it to get nodes/pods or nodes/proxy: no role",
			"whose is eve; eve get pods; eve get proxy"},
		{"the coarse right is none to metrics", "bob", "", "GET", "/metrics", 403, "Forbidden (user=bob, verb=get, resource=nodes, subresource(s)=[metrics])", "whose is bob; bob get metrics"},
		{"to read is not to run", "bob", "", "GET", "/exec/ns/p/c", 403, "Forbidden (user=bob, verb=create, resource=nodes, subresource(s)=[proxy])", "whose is bob; bob create proxy"},
	} {
		a := newAsking(t)
		for _, wish := range []string{"ann get metrics", "ann get pods", "bob get proxy", "cert get metrics"} {
			a.judge.may[wish] = true
		}
		code, text, asked := a.as(tt.token, tt.cert, tt.method, tt.path)
		if code != tt.code || !strings.HasPrefix(text, tt.text) || strings.Join(asked, "; ") != tt.asked {
			t.Errorf("%s: %d %q, asked %q; want %d %q, %q", tt.name, code, text, asked, tt.code, tt.text, tt.asked)
		}
	}
}

// What the API server said counts for a while, and then it is asked again.
func TestMemory(t *testing.T) {
	a := newAsking(t)
	is := func(when, token string, code int, asked string) {
		t.Helper()
		got, text, all := a.as(token, "", "GET", "/metrics")
		if got != code || strings.Join(all, "; ") != asked {
			t.Errorf("%s: %d %s, asked %q; want %d, %q", when, got, text, all, code, asked)
		}
	}
	is("denied", "ann", 403, "whose is ann; ann get metrics")
	a.judge.may["ann get metrics"] = true
	a.now = a.now.Add(29 * time.Second)
	is("still denied", "ann", 403, "")
	a.now = a.now.Add(time.Second)
	is("30s later", "ann", 200, "ann get metrics")
	a.judge.may["ann get metrics"] = false
	a.now = a.now.Add(90 * time.Second)
	is("the token, after two minutes", "ann", 200, "whose is ann")
	a.now = a.now.Add(119 * time.Second)
	is("the token counts", "ann", 200, "")
	a.now = a.now.Add(91 * time.Second)
	is("the right, after five minutes", "ann", 403, "whose is ann; ann get metrics")

	is("another is asked for himself", "bob", 403, "whose is bob; bob get metrics")
	is("refused", "old", 401, "whose is old")
	a.now = a.now.Add(29 * time.Second)
	is("still refused", "old", 401, "")
	a.now = a.now.Add(time.Second)
	is("refused again", "old", 401, "whose is old")
}

// That the API server is not there is no answer, and is not kept as one.
func TestNoAnswer(t *testing.T) {
	a := newAsking(t)
	a.judge.may["ann get metrics"] = true
	a.judge.down = errors.New("connection refused")
	if code, text, _ := a.as("ann", "", "GET", "/metrics"); code != 500 || text != "the API server could not be asked whose the bearer token is: connection refused" {
		t.Errorf("a token: %d %s", code, text)
	}
	if code, text, _ := a.as("", "good", "GET", "/metrics"); code != 500 ||
		text != `the API server could not be asked whether user "cert" may get nodes/metrics: connection refused` {
		t.Errorf("a right: %d %s", code, text)
	}
	a.judge.down = nil
	if code, text, _ := a.as("ann", "", "GET", "/metrics"); code != 200 {
		t.Errorf("when it is back: %d %s", code, text)
	}
	a.judge.down = errors.New("connection refused")
	if code, text, _ := a.as("ann", "", "GET", "/metrics"); code != 200 {
		t.Errorf("what is known counts without it: %d %s", code, text)
	}
}

// A client that goes in the middle of a question does not make its token one that was refused.
func TestClientGone(t *testing.T) {
	a := newAsking(t)
	a.judge.may["ann get metrics"] = true
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequest("GET", "/metrics", nil).WithContext(ctx)
	r.Header.Set("Authorization", "bearer ann")
	w := httptest.NewRecorder()
	a.gate.Guard(http.NotFoundHandler()).ServeHTTP(w, r)
	if w.Code != http.StatusNotFound {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Whoever asks with ever new tokens does not use up the memory.
func TestMemoryIsBounded(t *testing.T) {
	var m memory[int]
	now := time.Now()
	for i := range 3 * most {
		m.set([32]byte{byte(i), byte(i >> 8), byte(i >> 16)}, i, now, time.Minute)
	}
	if len(m.known) > most {
		t.Errorf("%d answers are kept", len(m.known))
	}
	if v, ok := m.get([32]byte{byte((3*most - 1) & 255), byte((3*most - 1) >> 8), byte((3*most - 1) >> 16)}, now); !ok || v != 3*most-1 {
		t.Error("the last one is not")
	}
}
