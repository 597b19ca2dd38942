package core_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/kinds/core"
)

// TestEndedForGood checks which containers may live again after they ended.
func TestEndedForGood(t *testing.T) {
	always, onFailure := corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyOnFailure
	never := corev1.ContainerRestartPolicyNever
	rules := []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestart}}
	p := &corev1.Pod{Spec: corev1.PodSpec{
		RestartPolicy:  corev1.RestartPolicyNever,
		InitContainers: []corev1.Container{{Name: "init"}, {Name: "sidecar", RestartPolicy: &always}},
		Containers: []corev1.Container{{Name: "plain"}, {Name: "failed", RestartPolicy: &onFailure}, {Name: "done", RestartPolicy: &onFailure},
			{Name: "ruled", RestartPolicy: &never, RestartPolicyRules: rules}},
	}}
	ended := func(code int32, names ...string) (list []corev1.ContainerStatus) {
		for _, n := range names {
			list = append(list, corev1.ContainerStatus{Name: n, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}})
		}
		return list
	}
	p.Status.InitContainerStatuses = ended(0, "init", "sidecar")
	p.Status.ContainerStatuses = append(ended(1, "plain", "failed"), append(ended(0, "done"), ended(1, "ruled")...)...)
	p.Status.EphemeralContainerStatuses = ended(1, "debug")
	again := p.DeepCopy()
	for _, list := range [][]corev1.ContainerStatus{again.Status.InitContainerStatuses, again.Status.ContainerStatuses, again.Status.EphemeralContainerStatuses} {
		for i := range list {
			list[i].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
		}
	}
	refused := func(now *corev1.Pod) (paths []string) {
		for _, e := range core.Pod.ValidateStatus(now, p) {
			paths = append(paths, e.Field)
		}
		return paths
	}
	want := []string{"status.containerStatuses[0].state", "status.containerStatuses[2].state",
		"status.initContainerStatuses[0].state", "status.ephemeralContainerStatuses[0].state"}
	if got := refused(again); !slices.Equal(got, want) {
		t.Errorf("refused at %q, want %q", got, want)
	}
	if got := refused(p.DeepCopy()); len(got) > 0 {
		t.Errorf("nothing changed, and it is refused at %q", got)
	}
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	// Init containers run again in a new sandbox.
	want = []string{"status.containerStatuses[2].state", "status.ephemeralContainerStatuses[0].state"}
	if got := refused(again); !slices.Equal(got, want) {
		t.Errorf("in a pod that always restarts: refused at %q, want %q", got, want)
	}
}
