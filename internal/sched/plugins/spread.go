package plugins

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/sched"
)

// Spread prefers nodes with fewer pods of the same controller.
var Spread = &sched.Plugin{
	Name:   "Spread",
	Weight: 2,
	For: func(pod *sched.Pod, s *sched.State) *sched.Check {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil || len(pod.Spec.TopologySpreadConstraints) > 0 {
			return nil
		}
		count := s.Owned(ref.UID)
		if len(count) == 0 {
			return nil
		}
		return &sched.Check{
			Score:     func(n *sched.Node) int64 { return int64(count[n]) },
			Normalize: sched.Reverse,
		}
	},
}
