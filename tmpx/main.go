package main

import (
	"context"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/httpapi"
	"proa/internal/kinds"
	"proa/internal/store"
	"proa/internal/store/memory"
)

func main() {
	s, err := apiserver.New(context.Background(), apiserver.Config{Engine: memory.New(store.SystemClock{}), Kinds: kinds.All})
	if err != nil {
		panic(err)
	}
	var all []*api.Resource
	for _, k := range kinds.All {
		all = append(all, k.Def())
	}
	reg := prometheus.NewRegistry()
	h := httpapi.Serve(s, httpapi.Config{
		Kinds:   func() []*api.Resource { return all },
		Version: httpapi.Version("v1.37.2+proa", "x", "2026-01-01T00:00:00Z"),
		Authenticate: func(r *http.Request) (api.User, bool, error) {
			return api.User{Name: "admin", Groups: []string{api.GroupMasters}}, true, nil
		},
		Register: reg, Metrics: promhttp.HandlerFor(reg, promhttp.HandlerOpts{}),
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	ts := httptest.NewUnstartedServer(nil)
	ts.Config = httpapi.Server("", nil, h)
	ts.EnableHTTP2 = true
	ts.StartTLS()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ts.Certificate().Raw})
	os.WriteFile("/tmp/httpapi-ca.pem", ca, 0o600)
	os.WriteFile("/tmp/httpapi-kc", []byte(`apiVersion: v1
kind: Config
clusters: [{name: x, cluster: {server: "`+ts.URL+`", certificate-authority: /tmp/httpapi-ca.pem}}]
users: [{name: x, user: {token: t}}]
contexts: [{name: x, context: {cluster: x, user: x}}]
current-context: x
`), 0o600)
	time.Sleep(50 * time.Minute)
}
