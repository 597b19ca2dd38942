package kubeletapi

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestResources checks that what is written is read back, to the millisecond.
func TestResources(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_123)
	want := &Resources{
		Node: Use{Time: at, CPU: 123_456_789_012_345, Memory: 9 << 30},
		Containers: []ContainerUse{
			{Namespace: "default", Pod: "p", Container: "a", Began: at.Add(-time.Hour), Use: Use{Time: at.Add(time.Second), CPU: 7, Memory: 1 << 20}},
			{Namespace: "default", Pod: "p", Container: `b"\`, Began: at, Use: Use{Time: at, CPU: 1_500_000_000}},
		},
	}
	var text bytes.Buffer
	if err := want.Write(&text); err != nil {
		t.Fatal(err)
	}
	if s := text.String(); !strings.HasPrefix(s, "# HELP container_cpu_usage_seconds_total Processor time that the container has used, in seconds.\n# TYPE container_cpu_usage_seconds_total counter\n") {
		t.Errorf("written: %s", s)
	}
	got, err := ReadResources(&text, time.Time{})
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v, want\n%+v", err, got, want)
	}
	var none bytes.Buffer
	if err := (&Resources{}).Write(&none); err != nil || !strings.Contains(none.String(), "\nresource_scrape_error 1\n") {
		t.Errorf("%v: %s", err, &none)
	}
	if got, err := ReadResources(&none, at); err != nil || !got.Node.Time.IsZero() || len(got.Containers) != 0 {
		t.Errorf("%v: of nothing: %+v", err, got)
	}
}

// TestReadKubelet reads what a kubelet writes, and leaves out what is not whole.
func TestReadKubelet(t *testing.T) {
	now := time.UnixMilli(5000)
	got, err := ReadResources(strings.NewReader(`# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="c",namespace="n",pod="p"} 4.710169 2000
container_cpu_usage_seconds_total{container="old",namespace="n",pod="p"} 1 2000
container_memory_working_set_bytes{container="c",namespace="n",pod="p"} 1.2e+07 2001
container_start_time_seconds{container="c",namespace="n",pod="p"} 1.5
container_start_time_seconds{container="old",namespace="n",pod="p"} 1
container_swap_usage_bytes{container="c",namespace="n",pod="p"} 0 2001
node_cpu_usage_seconds_total 357.35
node_memory_working_set_bytes 1.616273408e+09 1999
pod_cpu_usage_seconds_total{namespace="n",pod="p"} 4.8 2000
resource_scrape_error 0
`), now)
	if err != nil {
		t.Fatal(err)
	}
	want := &Resources{Node: Use{Time: now, CPU: 357_350_000_000, Memory: 1616273408},
		Containers: []ContainerUse{{Namespace: "n", Pod: "p", Container: "c", Began: time.UnixMilli(1500), Use: Use{Time: time.UnixMilli(2000), CPU: 4_710_169_000, Memory: 12_000_000}}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want\n%+v", got, want)
	}
	for _, bad := range []string{"x", "{} 1", "a{b=c} 1", `a{b="c} 1`, `a{b="c"}`, "a x", "a 1 x", "a 1 2 3", "node_cpu_usage_seconds_total -1", "a NaN", strings.Repeat("x", 1<<17)} {
		if _, err := ReadResources(strings.NewReader(bad), now); err == nil {
			t.Errorf("%.40q was read", bad)
		}
	}
}
