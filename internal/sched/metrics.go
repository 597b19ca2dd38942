package sched

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What became of an attempt to place a pod, in metrics.
const (
	scheduled     = "scheduled"
	unschedulable = "unschedulable"
	failed        = "error"
)

// metrics are what Kubernetes' scheduler tells of itself, under its names. A
// nil one keeps none.
type metrics struct {
	now       func() time.Time
	attempts  *prometheus.CounterVec
	took      *prometheus.HistogramVec
	deciding  prometheus.Histogram
	waited    *prometheus.HistogramVec
	tries     prometheus.Histogram
	preempted prometheus.Counter
	victims   prometheus.Histogram
	pending   *prometheus.Desc
	scheduler *Scheduler
}

func newMetrics(r prometheus.Registerer, s *Scheduler) *metrics {
	if r == nil {
		return nil
	}
	seconds := prometheus.ExponentialBuckets(1e-5, 2, 20)
	by := []string{"profile", "result"}
	m := &metrics{
		now: s.cfg.Now, scheduler: s,
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "scheduler_schedule_attempts_total", Help: "Attempts to place pods, by what became of them."}, by),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "scheduler_scheduling_attempt_duration_seconds",
			Help: "From the beginning of an attempt until its binding is written, or until it failed.", Buckets: seconds}, by),
		deciding: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "scheduler_scheduling_algorithm_duration_seconds",
			Help: "How long the choice of a node took.", Buckets: seconds}),
		waited: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "scheduler_pod_scheduling_sli_duration_seconds",
			Help: "From when a pod was first seen until it was bound.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 20)}, []string{"attempts"}),
		tries: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "scheduler_pod_scheduling_attempts",
			Help: "Attempts that a pod took.", Buckets: prometheus.ExponentialBuckets(1, 2, 5)}),
		preempted: prometheus.NewCounter(prometheus.CounterOpts{Name: "scheduler_preemption_attempts_total", Help: "Attempts to make room for a pod."}),
		victims: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "scheduler_preemption_victims",
			Help: "Pods that had to leave for one.", Buckets: prometheus.ExponentialBuckets(1, 2, 7)}),
		pending: prometheus.NewDesc("scheduler_pending_pods", "Pods without a node, by what they wait for.", []string{"queue"}, nil),
	}
	r.MustRegister(m.attempts, m.took, m.deciding, m.waited, m.tries, m.preempted, m.victims, m)
	return m
}

// Describe is of prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) { to <- m.pending }

// Collect is of prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	s := m.scheduler
	s.mu.Lock()
	waits := 0
	for _, c := range s.queue.companies {
		waits += len(c.items)
	}
	for queue, n := range map[string]int{
		"active": s.queue.active.Len(), "backoff": s.queue.resting.Len() + s.queue.timed.Len() - waits, "unschedulable": waits, "gated": len(s.gated),
	} {
		to <- prometheus.MustNewConstMetric(m.pending, prometheus.GaugeValue, float64(n), queue)
	}
	s.mu.Unlock()
}

// decided notes how long a choice took that began at the time.
func (m *metrics) decided(began time.Time) {
	if m != nil {
		m.deciding.Observe(m.now().Sub(began).Seconds())
	}
}

// ended notes what became of an attempt.
func (m *metrics) ended(profile, result string, it *item) {
	if m == nil {
		return
	}
	now := m.now()
	m.attempts.WithLabelValues(profile, result).Inc()
	m.took.WithLabelValues(profile, result).Observe(now.Sub(it.tried).Seconds())
	if result == scheduled {
		m.waited.WithLabelValues(strconv.Itoa(min(it.attempts, 15))).Observe(now.Sub(it.since).Seconds())
		m.tries.Observe(float64(it.attempts))
	}
}

// made notes an attempt to make room.
func (m *metrics) made(plan *Plan) {
	if m == nil {
		return
	}
	m.preempted.Inc()
	if plan != nil {
		m.victims.Observe(float64(len(plan.Victims)))
	}
}
