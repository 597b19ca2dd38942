package node_test

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// debug adds an ephemeral container to a pod, as kubectl debug does.
func (w *world) debug(pod string, c corev1.EphemeralContainerCommon, target string) {
	w.t.Helper()
	p := api.Clone(w.pod(pod))
	if c.Image == "" {
		c.Image = "img:1"
	}
	p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: c, TargetContainerName: target})
	req := &api.Request{Verb: api.Update, Resource: core.Pod.Def(), Namespace: "default", Name: pod, Sub: "ephemeralcontainers", Object: p}
	if _, err := w.api.Handle(w.t.Context(), req); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

func (w *world) ephemeral(pod, name string) corev1.ContainerStatus {
	w.t.Helper()
	for _, c := range w.pod(pod).Status.EphemeralContainerStatuses {
		if c.Name == name {
			return c
		}
	}
	w.t.Fatalf("pod %s has no status of ephemeral container %s: %+v", pod, name, w.pod(pod).Status)
	return corev1.ContainerStatus{}
}

// Ephemeral containers run in the pod that is there, once, and change nothing
// about whether it is ready.
func TestEphemeralContainers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := script(script(script(simple("a"), "once", "after=5s exit=3"), "bad", `start="no such file"`), "c", "run")
		w.create(p)
		synctest.Wait()
		before := w.pod("a").Status
		w.debug("a", corev1.EphemeralContainerCommon{Name: "once"}, "c")
		if c := w.ephemeral("a", "once"); c.State.Running == nil || c.Ready || c.Started != nil {
			t.Fatalf("once: %+v", c)
		}
		list, err := w.rt.ListContainers(t.Context(), nil)
		if err != nil || len(list) != 2 || list[0].PodSandboxId != list[1].PodSandboxId {
			t.Errorf("containers: %v %v; want two in one sandbox", list, err)
		}
		w.debug("a", corev1.EphemeralContainerCommon{Name: "bad"}, "")
		w.debug("a", corev1.EphemeralContainerCommon{Name: "stays"}, "")
		time.Sleep(time.Hour)
		synctest.Wait()
		if c := w.ephemeral("a", "once"); c.State.Terminated == nil || c.State.Terminated.ExitCode != 3 || c.RestartCount != 0 {
			t.Errorf("once: %+v", c)
		}
		if c := w.ephemeral("a", "bad"); c.State.Terminated == nil || c.State.Terminated.ExitCode != 128 || c.RestartCount != 0 {
			t.Errorf("bad: %+v", c)
		}
		stays := w.ephemeral("a", "stays")
		if stays.State.Running == nil {
			t.Errorf("stays: %+v", stays)
		}
		after := w.pod("a").Status
		if b, a := before.ContainerStatuses[0], after.ContainerStatuses[0]; b.ContainerID != a.ContainerID || !a.Ready || after.Phase != corev1.PodRunning {
			t.Errorf("the pod's own container was %+v, is %+v", b, a)
		}
		// A new agent starts none of them again, nor does a new sandbox.
		w.stop()
		w.boot()
		synctest.Wait()
		if c := w.ephemeral("a", "stays"); c.ContainerID != stays.ContainerID || c.State.Running == nil {
			t.Errorf("after a restart of the agent: %+v", c)
		}
		w.do([]string{"killsandbox", "a"})
		time.Sleep(time.Minute)
		synctest.Wait()
		if c := w.ephemeral("a", "stays"); c.State.Terminated == nil || c.RestartCount != 0 {
			t.Errorf("after the sandbox's end: %+v", c)
		}
		if c := w.pod("a").Status.ContainerStatuses[0]; c.State.Running == nil {
			t.Errorf("the pod's own container after the sandbox's end: %+v", c)
		}
		w.do([]string{"delete", "a"})
		time.Sleep(time.Minute)
		synctest.Wait()
		if s, _ := w.rt.ListSandboxes(t.Context(), nil); len(s) != 0 {
			t.Errorf("%d sandboxes are left", len(s))
		}
	})
}

// A pod ends with its own containers; one that only debugs does not hold it up.
func TestEphemeralDoesNotHoldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := script(script(simple("a", "c", "c2"), "c", "after=20s exit=0"), "c2", "exit=0")
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		w.create(p)
		synctest.Wait()
		w.debug("a", corev1.EphemeralContainerCommon{Name: "d"}, "")
		w.debug("a", corev1.EphemeralContainerCommon{Name: "lost"}, "c2")
		if c := w.ephemeral("a", "lost"); c.State.Waiting == nil || c.State.Waiting.Message != "unable to find target container c2" {
			t.Errorf("lost: %+v", c.State)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := w.pod("a").Status; got.Phase != corev1.PodSucceeded {
			t.Errorf("status: %+v", got)
		}
		if c := w.ephemeral("a", "d"); c.State.Terminated == nil {
			t.Errorf("d: %+v", c)
		}
	})
}
