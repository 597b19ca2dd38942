package controllers

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Each condition that says that something is wrong has its taint, and an unknown
// one has none.
func TestWantedTaints(t *testing.T) {
	for _, c := range []struct {
		typ    corev1.NodeConditionType
		status corev1.ConditionStatus
		want   string
	}{
		{corev1.NodeMemoryPressure, corev1.ConditionTrue, "node.kubernetes.io/memory-pressure:NoSchedule"},
		{corev1.NodeDiskPressure, corev1.ConditionTrue, "node.kubernetes.io/disk-pressure:NoSchedule"},
		{corev1.NodePIDPressure, corev1.ConditionTrue, "node.kubernetes.io/pid-pressure:NoSchedule"},
		{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, "node.kubernetes.io/network-unavailable:NoSchedule"},
		{corev1.NodeMemoryPressure, corev1.ConditionFalse, ""},
		{corev1.NodeDiskPressure, corev1.ConditionUnknown, ""},
		{corev1.NodeReady, corev1.ConditionTrue, ""},
		{corev1.NodeReady, corev1.ConditionFalse, "node.kubernetes.io/not-ready:NoExecute node.kubernetes.io/not-ready:NoSchedule"},
		{corev1.NodeReady, corev1.ConditionUnknown, "node.kubernetes.io/unreachable:NoExecute node.kubernetes.io/unreachable:NoSchedule"},
	} {
		n := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: c.typ, Status: c.status}}}}
		var got []string
		for _, x := range wantedTaints(n, true) {
			got = append(got, x.ToString())
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s %s: %q, want %q", c.typ, c.status, s, c.want)
		}
	}
}
