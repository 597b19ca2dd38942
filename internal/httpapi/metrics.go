package httpapi

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
)

// metrics are those of requests, under the names that dashboards for API servers know.
type metrics struct {
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	long     *prometheus.GaugeVec
	reading  prometheus.Gauge
	mutating prometheus.Gauge
	known    sync.Map // of seriesKey to *series, so that labels are joined once
}

type seriesKey struct {
	schema.GroupVersionResource
	sub, verb, scope string
}

// A series is the metrics of one kind of request.
type series struct {
	m        *metrics
	labels   []string
	duration prometheus.Observer
	inflight prometheus.Gauge
	codes    sync.Map // of int to prometheus.Counter
}

var seriesLabels = []string{"verb", "group", "version", "resource", "subresource", "scope"}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_request_total",
			Help: "Requests by verb, group, version, resource, scope and HTTP response code."},
			append(append([]string{}, seriesLabels...), "code")),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_request_duration_seconds",
			Help:    "How long requests took, watches and other streams included.",
			Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.5, 2, 3, 4, 6, 10, 20, 30, 60}}, seriesLabels),
		long: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_longrunning_requests",
			Help: "Watches and other streams that are open now."}, seriesLabels),
	}
	inflight := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_current_inflight_requests",
		Help: "Requests that are being answered now, streams excepted."}, []string{"request_kind"})
	r.MustRegister(m.total, m.duration, m.long, inflight)
	m.reading, m.mutating = inflight.WithLabelValues("readOnly"), inflight.WithLabelValues("mutating")
	return m
}

// begin counts a request in.
func (m *metrics) begin(x *exchange, t *target, verb api.Verb) *series {
	k := seriesKey{sub: t.sub, verb: metricVerb(x.req, t, verb)}
	if t.res != nil {
		k.GroupVersionResource, k.scope = t.res.GroupVersionResource, scope(t)
	} else if p := x.req.URL.Path; x.s.paths[p] != nil {
		k.sub = p // no other path: anybody can make those up
	}
	s := m.series(k)
	s.inflight.Inc()
	return s
}

func (m *metrics) series(k seriesKey) *series {
	if s, ok := m.known.Load(k); ok {
		return s.(*series)
	}
	s := &series{m: m, labels: []string{k.verb, k.Group, k.Version, k.Resource, k.sub, k.scope}}
	s.duration = m.duration.WithLabelValues(s.labels...)
	switch k.verb {
	case "WATCH", "CONNECT":
		s.inflight = m.long.WithLabelValues(s.labels...)
	case "GET", "LIST", "HEAD":
		s.inflight = m.reading
	default:
		s.inflight = m.mutating
	}
	got, _ := m.known.LoadOrStore(k, s)
	return got.(*series)
}

// end counts a request out.
func (s *series) end(x *exchange, start time.Time) {
	s.inflight.Dec()
	s.duration.Observe(time.Since(start).Seconds())
	code := x.code
	if code == 0 {
		code = http.StatusOK
	}
	c, ok := s.codes.Load(code)
	if !ok {
		labels := append(append([]string{}, s.labels...), strconv.Itoa(code))
		c, _ = s.codes.LoadOrStore(code, s.m.total.WithLabelValues(labels...))
	}
	c.(prometheus.Counter).Inc()
}

func metricVerb(req *http.Request, t *target, verb api.Verb) string {
	switch {
	case t.res != nil && t.res.connects(t.sub):
		return "CONNECT"
	case verb == api.List:
		return "LIST"
	case verb == api.Watch:
		return "WATCH"
	case verb == api.DeleteCollection:
		return "DELETECOLLECTION"
	case verb == api.Patch && strings.HasPrefix(req.Header.Get("Content-Type"), "application/apply-patch"):
		return "APPLY"
	}
	switch req.Method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE":
		return req.Method
	}
	return "OTHER"
}

func scope(t *target) string {
	switch {
	case t.name != "":
		return "resource"
	case t.ns != "":
		return "namespace"
	}
	return "cluster"
}
