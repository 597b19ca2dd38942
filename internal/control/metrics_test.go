package control

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestQueueMetrics(t *testing.T) {
	now := time.Unix(0, 0)
	clock := func() time.Time { return now }
	r := prometheus.NewRegistry()
	q := newQueue(clock)
	q.metrics = newMetrics(r, clock)
	k := &task{name: "jobs"}
	q.metrics.know(k)
	one, two := job{task: k, name: "1"}, job{task: k, name: "2"}
	q.add(one)
	q.add(one)
	q.add(two)
	now = now.Add(2 * time.Second)
	j, _ := q.take()
	q.failed(j, time.Second, time.Minute)
	now = now.Add(3 * time.Second)
	for name, want := range map[string]float64{
		"workqueue_adds_total": 2, "workqueue_depth": 1, "workqueue_retries_total": 1,
		"workqueue_unfinished_work_seconds": 3, "workqueue_longest_running_processor_seconds": 3,
		"workqueue_queue_duration_seconds": 2, "workqueue_work_duration_seconds": 0,
	} {
		if got := sum(t, r, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	q.done(j)
	if got := sum(t, r, "workqueue_work_duration_seconds"); got != 3 {
		t.Errorf("worked for %v", got)
	}
}

// sum is a metric's value, or the sum of what it observed.
func sum(t *testing.T, r *prometheus.Registry, name string) float64 {
	t.Helper()
	all, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			m := f.Metric[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetHistogram().GetSampleSum()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}
