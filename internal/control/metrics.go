package control

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are those of the queue, for each controller under its name, as
// dashboards know them from client-go's work queues. A nil *metrics keeps none.
type metrics struct {
	now                 func() time.Time
	depth               *prometheus.GaugeVec
	adds, retries       *prometheus.CounterVec
	waited, worked      *prometheus.HistogramVec
	unfinished, longest *prometheus.Desc
	mu                  sync.Mutex
	known               map[*task]*series
	since               map[job]time.Time // of what waits
	running             map[job]time.Time
}

// series is the metrics of one controller.
type series struct {
	depth          prometheus.Gauge
	adds, retries  prometheus.Counter
	waited, worked prometheus.Observer
}

func newMetrics(r prometheus.Registerer, now func() time.Time) *metrics {
	if r == nil {
		return nil
	}
	name := []string{"name"}
	buckets := prometheus.ExponentialBuckets(1e-8, 10, 10)
	histogram := func(what, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "workqueue_" + what, Help: help, Buckets: buckets}, name)
	}
	m := &metrics{
		now:        now,
		depth:      prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "workqueue_depth", Help: "Objects that wait to be reconciled."}, name),
		adds:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "workqueue_adds_total", Help: "Objects that were queued."}, name),
		retries:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "workqueue_retries_total", Help: "Objects that were queued again after a failure."}, name),
		waited:     histogram("queue_duration_seconds", "How long objects waited to be reconciled."),
		worked:     histogram("work_duration_seconds", "How long it took to reconcile an object."),
		unfinished: prometheus.NewDesc("workqueue_unfinished_work_seconds", "How long the reconciles under way have taken so far, together.", name, nil),
		longest:    prometheus.NewDesc("workqueue_longest_running_processor_seconds", "How long the longest of the reconciles under way has taken so far.", name, nil),
		known:      map[*task]*series{}, since: map[job]time.Time{}, running: map[job]time.Time{},
	}
	r.MustRegister(m.depth, m.adds, m.retries, m.waited, m.worked, m)
	return m
}

// of is the series of a task. The lock is held.
func (m *metrics) of(t *task) *series {
	s := m.known[t]
	if s == nil {
		s = &series{m.depth.WithLabelValues(t.name), m.adds.WithLabelValues(t.name), m.retries.WithLabelValues(t.name),
			m.waited.WithLabelValues(t.name), m.worked.WithLabelValues(t.name)}
		m.known[t] = s
	}
	return s
}

// know makes the series of a task, so that it shows before anything happened.
func (m *metrics) know(t *task) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of(t)
}

func (m *metrics) added(j job) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.of(j.task)
	s.adds.Inc()
	s.depth.Inc()
	m.since[j] = m.now()
}

func (m *metrics) begun(j job) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s, now := m.of(j.task), m.now()
	s.depth.Dec()
	s.waited.Observe(now.Sub(m.since[j]).Seconds())
	delete(m.since, j)
	m.running[j] = now
}

func (m *metrics) ended(j job) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of(j.task).worked.Observe(m.now().Sub(m.running[j]).Seconds())
	delete(m.running, j)
}

func (m *metrics) failed(j job) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of(j.task).retries.Inc()
}

// Describe is of prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	to <- m.unfinished
	to <- m.longest
}

// Collect tells what is under way.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	type sums struct{ all, most time.Duration }
	now, by := m.now(), map[*task]sums{}
	for j, at := range m.running {
		s, d := by[j.task], now.Sub(at)
		by[j.task] = sums{s.all + d, max(s.most, d)}
	}
	for t := range m.known {
		to <- prometheus.MustNewConstMetric(m.unfinished, prometheus.GaugeValue, by[t].all.Seconds(), t.name)
		to <- prometheus.MustNewConstMetric(m.longest, prometheus.GaugeValue, by[t].most.Seconds(), t.name)
	}
}
