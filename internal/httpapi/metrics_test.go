package httpapi

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Dashboards and alerts for API servers find what they know.
func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	server := realServer(t)
	registry.MustRegister(server)
	rig := serve(t, server, Config{Register: registry, Metrics: promhttp.HandlerFor(registry, promhttp.HandlerOpts{})})
	rig.want(201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"default"}}`)
	const maps = "/api/v1/namespaces/default/configmaps"
	rig.want(201, "POST", maps+"?dryRun=All", `{"metadata":{"name":"m"}}`)
	rig.want(201, "POST", maps, `{"metadata":{"name":"m"}}`)
	rig.want(200, "GET", maps, "")
	rig.want(200, "GET", maps+"?watch=1&timeoutSeconds=1", "")
	rig.want(404, "GET", maps+"/none", "")
	rig.want(404, "GET", "/made/up", "")
	got := rig.want(200, "GET", "/metrics", "")
	for _, want := range []string{
		`apiserver_request_total{code="201",component="apiserver",dry_run="All",group="",resource="configmaps",scope="namespace",subresource="",verb="POST",version="v1"} 1`,
		`apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="configmaps",scope="namespace",subresource="",verb="POST",version="v1"} 1`,
		`apiserver_request_total{code="404",component="apiserver",dry_run="",group="",resource="configmaps",scope="resource",subresource="",verb="GET",version="v1"} 1`,
		`apiserver_request_total{code="404",component="apiserver",dry_run="",group="",resource="",scope="",subresource="",verb="GET",version=""} 1`,
		`apiserver_request_duration_seconds_count{component="apiserver",dry_run="",group="",resource="configmaps",scope="namespace",subresource="",verb="LIST",version="v1"} 1`,
		`apiserver_response_sizes_bucket{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="LIST",version="v1",le="1000"} 1`,
		`apiserver_longrunning_requests{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="WATCH",version="v1"} 0`,
		`apiserver_watch_events_total{group="",resource="configmaps",version="v1"} 1`,
		`apiserver_watch_events_sizes_count{group="",resource="configmaps",version="v1"} 1`,
		`apiserver_current_inflight_requests{request_kind="mutating"} 0`,
		`apiserver_current_inflight_requests{request_kind="readOnly"} 1`,
		`apiserver_resource_objects{group="",resource="configmaps"} 1`,
		`apiserver_storage_objects{resource="configmaps"} 1`,
		`apiserver_storage_objects{resource="deployments.apps"} 0`,
	} {
		if !strings.Contains(got, want+"\n") {
			name, _, _ := strings.Cut(want, "{")
			var have []string
			for _, l := range strings.Split(got, "\n") {
				if strings.HasPrefix(l, name) {
					have = append(have, l)
				}
			}
			t.Errorf("no %s; there is\n%s", want, strings.Join(have[:min(len(have), 8)], "\n"))
		}
	}
}
