package conformance

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"crypto/tls"

	"proa/internal/pki"
)

// webhook converts custom resources over HTTPS. Its first path element says how
// it behaves; "good" is as it should: v1 has spec.hostPort, other versions have
// spec.host and spec.port.
type webhook struct {
	url string
	ca  string // PEM in base64
}

func newWebhook(t *testing.T) *webhook {
	t.Helper()
	now := time.Now()
	ca, err := pki.OpenCA(t.TempDir(), "ca", now)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(pki.Leaf{User: "webhook", Server: true, Hosts: []string{"127.0.0.1"}}, now)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(serveConversion))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.Config.ErrorLog = discarded()
	s.StartTLS()
	t.Cleanup(s.Close)
	return &webhook{url: s.URL, ca: base64.StdEncoding.EncodeToString(ca.PEM)}
}

// review is a ConversionReview (apiextensions.k8s.io/v1).
type review struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Request    *conversionAsk    `json:"request,omitempty"`
	Response   *conversionAnswer `json:"response,omitempty"`
}

type conversionAsk struct {
	UID     string           `json:"uid"`
	Desired string           `json:"desiredAPIVersion"`
	Objects []map[string]any `json:"objects"`
}

type conversionAnswer struct {
	UID     string           `json:"uid"`
	Objects []map[string]any `json:"convertedObjects"`
	Result  map[string]any   `json:"result"`
}

func serveConversion(w http.ResponseWriter, r *http.Request) {
	var in review
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Request == nil {
		http.Error(w, "no review", http.StatusBadRequest)
		return
	}
	q := in.Request
	out := &conversionAnswer{UID: q.UID, Result: map[string]any{"status": "Success"}}
	for _, o := range q.Objects {
		if err := converted(o, q.Desired); err != nil {
			out.Result = map[string]any{"status": "Failure", "message": err.Error()}
			break
		}
		out.Objects = append(out.Objects, o)
	}
	w.Header().Set("Content-Type", "application/json")
	switch behave := misbehaviours[strings.Trim(r.URL.Path, "/")]; {
	case behave != nil:
		behave(q, out)
	case r.URL.Path == "/broken":
		http.Error(w, "out of order", http.StatusInternalServerError)
		return
	case r.URL.Path == "/garbage":
		fmt.Fprint(w, "{")
		return
	case r.URL.Path != "/good":
		http.NotFound(w, r)
		return
	}
	_ = json.NewEncoder(w).Encode(&review{APIVersion: in.APIVersion, Kind: in.Kind, Response: out})
}

// misbehaviours are what a webhook may do wrong, by path.
var misbehaviours = map[string]func(*conversionAsk, *conversionAnswer){
	"fail": func(_ *conversionAsk, a *conversionAnswer) {
		a.Objects, a.Result = nil, map[string]any{"status": "Failure", "message": "no conversion today"}
	},
	"few":    func(_ *conversionAsk, a *conversionAnswer) { a.Objects = a.Objects[1:] },
	"rename": each(func(_, meta map[string]any) { meta["name"] = "other" }),
	"label":  each(func(_, meta map[string]any) { meta["labels"] = map[string]any{"by": "webhook"} }),
	"uid":    each(func(_, meta map[string]any) { meta["uid"] = "other" }),
	"finalizer": each(func(_, meta map[string]any) {
		meta["finalizers"] = []any{"example.com/hook"}
	}),
	"invalid":  each(func(o, _ map[string]any) { o["spec"] = map[string]any{"host": 5, "port": "none", "more": true} }),
	"kind":     each(func(o, _ map[string]any) { o["kind"] = "Other" }),
	"version":  each(func(o, _ map[string]any) { o["apiVersion"] = "example.com/v9" }),
	"stranger": func(_ *conversionAsk, a *conversionAnswer) { a.UID = "other" },
	"silent":   func(_ *conversionAsk, a *conversionAnswer) { a.Result = nil },
}

func each(change func(object, meta map[string]any)) func(*conversionAsk, *conversionAnswer) {
	return func(_ *conversionAsk, a *conversionAnswer) {
		for _, o := range a.Objects {
			meta, _ := o["metadata"].(map[string]any)
			change(o, meta)
		}
	}
}

// converted makes an object one of the desired version, in place.
func converted(o map[string]any, desired string) error {
	spec, _ := o["spec"].(map[string]any)
	if spec != nil {
		if strings.HasSuffix(desired, "/v1") {
			if spec["host"] != nil {
				spec["hostPort"] = fmt.Sprint(spec["host"], ":", spec["port"])
			}
			delete(spec, "host")
			delete(spec, "port")
		} else if joined, ok := spec["hostPort"].(string); ok {
			host, port, _ := strings.Cut(joined, ":")
			n, err := strconv.Atoi(port)
			if err != nil {
				return errors.New("hostPort has no port: " + joined)
			}
			spec["host"], spec["port"] = host, n
			delete(spec, "hostPort")
		}
	}
	o["apiVersion"] = desired
	return nil
}
