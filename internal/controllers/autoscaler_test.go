package controllers

import (
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
)

// TestPace checks how far policies let a size go.
func TestPace(t *testing.T) {
	now := time.Unix(1e9, 0)
	pods := func(n int32) autoscalingv2.HPAScalingPolicy {
		return autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: n, PeriodSeconds: 60}
	}
	percent := func(n int32) autoscalingv2.HPAScalingPolicy {
		return autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: n, PeriodSeconds: 60}
	}
	for i, tt := range []struct {
		pick     autoscalingv2.ScalingPolicySelect
		policies []autoscalingv2.HPAScalingPolicy
		current  int32
		changed  int32 // half a minute ago
		up       bool
		want     int32
	}{
		{"Max", []autoscalingv2.HPAScalingPolicy{pods(4), percent(100)}, 10, 0, true, 20},
		{"Max", []autoscalingv2.HPAScalingPolicy{pods(4), percent(100)}, 2, 0, true, 6},
		{"Min", []autoscalingv2.HPAScalingPolicy{pods(4), percent(100)}, 10, 0, true, 14},
		{"Max", []autoscalingv2.HPAScalingPolicy{pods(4)}, 10, 3, true, 11},
		{"Max", []autoscalingv2.HPAScalingPolicy{pods(4)}, 10, 9, true, 10},
		{"Max", []autoscalingv2.HPAScalingPolicy{pods(4), percent(10)}, 100, 0, false, 90},
		{"Min", []autoscalingv2.HPAScalingPolicy{pods(4), percent(10)}, 100, 0, false, 96},
		{"Max", []autoscalingv2.HPAScalingPolicy{pods(4)}, 100, -3, false, 99},
		{"Disabled", []autoscalingv2.HPAScalingPolicy{pods(4)}, 100, 0, false, 100},
	} {
		p := &scalePast{}
		if tt.changed != 0 {
			p.done = []sized{{now.Add(-30 * time.Second), tt.changed}, {now.Add(-90 * time.Second), 50}}
		}
		if got := p.pace(autoscalingv2.HPAScalingRules{SelectPolicy: &tt.pick, Policies: tt.policies}, tt.current, tt.up, now); got != tt.want {
			t.Errorf("%d: got %d, want %d", i, got, tt.want)
		}
	}
}

// TestSize checks what a ratio of use to target comes to, with pods that are
// starting and pods of which nothing is known.
func TestSize(t *testing.T) {
	for i, tt := range []struct {
		used             int64 // by each known pod, of a target of 100
		known            int
		unready, missing int
		want             int32
	}{
		{100, 4, 0, 0, 4},
		{109, 4, 0, 0, 4}, // near enough
		{150, 4, 0, 0, 6},
		{50, 4, 0, 0, 2},
		{150, 2, 2, 0, 4}, // with the starting ones idle there is enough
		{300, 2, 2, 0, 6},
		{50, 2, 0, 2, 3},  // as if the missing ones were busy
		{250, 2, 0, 2, 5}, // as if they were idle
		{150, 2, 0, 2, 4},
		{20, 3, 1, 0, 1},
	} {
		r := &autoscale{hpa: &autoscalingv2.HorizontalPodAutoscaler{}, scale: &autoscalingv1.Scale{}}
		r.scale.Spec.Replicas = 4
		s := sorting{known: map[string]sample{}}
		for j := range tt.known {
			s.known[string(rune('a'+j))] = sample{value: tt.used}
		}
		for j := range tt.unready {
			s.unready = append(s.unready, string(rune('m'+j)))
		}
		for j := range tt.missing {
			s.missing = append(s.missing, string(rune('t'+j)))
		}
		got := r.size(s, func(known map[string]sample) float64 {
			sum := int64(0)
			for _, m := range known {
				sum += m.value
			}
			return float64(sum) / float64(100*len(known))
		}, func(string) int64 { return 100 })
		if got != tt.want {
			t.Errorf("%d: got %d, want %d", i, got, tt.want)
		}
	}
}
