package httpapi

import (
	"net/http"
	"slices"
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
	sizes    *prometheus.HistogramVec
	long     *prometheus.GaugeVec
	events   *prometheus.CounterVec
	lengths  *prometheus.HistogramVec
	reading  prometheus.Gauge
	mutating prometheus.Gauge
	known    sync.Map // of seriesKey to *series, so that labels are joined once
}

type seriesKey struct {
	schema.GroupVersionResource
	sub, verb, dry, scope string
}

// A series is the metrics of one kind of request.
type series struct {
	m        *metrics
	labels   []string
	duration prometheus.Observer
	inflight prometheus.Gauge
	size     prometheus.Observer // of reads
	events   prometheus.Counter  // of watches
	lengths  prometheus.Observer // of their events
	codes    sync.Map            // of int to prometheus.Counter
}

// component is the value of the label that real API servers tell themselves by.
const component = "apiserver"

var (
	plainLabels  = []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}
	seriesLabels = []string{"verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"}
	eventLabels  = []string{"group", "version", "resource"}
)

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_request_total",
			Help: "Requests by verb, dry run, group, version, resource, scope and HTTP response code."},
			append(slices.Clone(seriesLabels), "code")),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_request_duration_seconds",
			Help:    "How long requests took, watches and other streams included.",
			Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}}, seriesLabels),
		sizes: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_response_sizes",
			Help: "Bytes of the answers to reads, as sent.", Buckets: prometheus.ExponentialBuckets(1000, 10, 7)}, plainLabels),
		long: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_longrunning_requests",
			Help: "Watches and other streams that are open now."}, plainLabels),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_watch_events_total",
			Help: "Events sent to watches."}, eventLabels),
		lengths: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_watch_events_sizes",
			Help: "Bytes of the events sent to watches.", Buckets: prometheus.ExponentialBuckets(1024, 2, 8)}, eventLabels),
	}
	inflight := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_current_inflight_requests",
		Help: "Requests that are being answered now, streams excepted."}, []string{"request_kind"})
	r.MustRegister(m.total, m.duration, m.sizes, m.long, m.events, m.lengths, inflight)
	m.reading, m.mutating = inflight.WithLabelValues("readOnly"), inflight.WithLabelValues("mutating")
	return m
}

// begin counts a request in.
func (m *metrics) begin(x *exchange, t *target, verb api.Verb) *series {
	k := seriesKey{sub: t.sub, verb: metricVerb(x.req, t, verb)}
	if strings.Contains(x.req.URL.RawQuery, "dryRun=All") {
		k.dry = "All"
	}
	if t.far {
		k.GroupVersionResource, k.sub = t.res.GroupVersion().WithResource(""), "" // anybody can make up the rest
	} else if t.res != nil {
		k.GroupVersionResource, k.scope = t.res.GroupVersionResource, scope(t)
	} else if p := x.req.URL.Path; x.s.paths[p] != nil {
		k.sub = p // no other path: anybody can make those up
	}
	s := m.series(k)
	s.inflight.Inc()
	x.series = s
	return s
}

func (m *metrics) series(k seriesKey) *series {
	if s, ok := m.known.Load(k); ok {
		return s.(*series)
	}
	s := &series{m: m, labels: []string{k.verb, k.dry, k.Group, k.Version, k.Resource, k.sub, k.scope, component}}
	plain := append([]string{k.verb}, s.labels[2:]...)
	s.duration = m.duration.WithLabelValues(s.labels...)
	switch k.verb {
	case "WATCH", "CONNECT":
		s.inflight = m.long.WithLabelValues(plain...)
		if k.verb == "CONNECT" {
			break
		}
		s.events = m.events.WithLabelValues(k.Group, k.Version, k.Resource)
		s.lengths = m.lengths.WithLabelValues(k.Group, k.Version, k.Resource)
	case "GET", "LIST", "HEAD":
		s.inflight = m.reading
		s.size = m.sizes.WithLabelValues(plain...)
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
	if s.size != nil {
		s.size.Observe(float64(x.size))
	}
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
	case t.far && req.Header.Get("Upgrade") != "", t.res != nil && t.res.connects(t.sub):
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
