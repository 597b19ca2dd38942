// Package critest is the suite that every cri.Runtime passes: what the node agent
// relies on.
package critest

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/node/cri"
)

// Options say what the runtime under test can be asked.
type Options struct {
	Image   string   // can be pulled
	Missing string   // cannot
	Forever []string // a command that runs until it is asked to end
	Say     []string // a command for exec that prints its last word
	Cgroup  string   // parent of the sandbox
	LogDir  string
}

// Run runs the suite. The runtime is left empty.
func Run(t *testing.T, rt cri.Runtime, o Options) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	type event struct {
		id  string
		typ v1.ContainerEventType
	}
	told := make(chan event, 100)
	ready := make(chan struct{})
	ectx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		_ = rt.Events(ectx, func() { close(ready) }, func(e *v1.ContainerEventResponse) { told <- event{e.ContainerId, e.ContainerEventType} })
	}()
	<-ready

	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	if img, err := rt.ImageStatus(ctx, o.Missing); img != nil || err != nil {
		t.Errorf("status of an image that is not there: %v, %v; want nothing", img, err)
	}
	if _, err := rt.Pull(ctx, o.Missing, nil, nil); err == nil {
		t.Error("an image that does not exist was pulled")
	}
	_, err := rt.Pull(ctx, o.Image, nil, nil)
	must("pull", err)
	img, err := rt.ImageStatus(ctx, o.Image)
	must("image status", err)
	if img == nil || img.Id == "" || img.Size == 0 {
		t.Fatalf("image %v", img)
	}

	sc := &v1.PodSandboxConfig{Metadata: &v1.PodSandboxMetadata{Name: "contract", Namespace: "default", Uid: "uid-1"}, LogDirectory: o.LogDir,
		Labels: map[string]string{cri.LabelPodUID: "uid-1"}, Annotations: map[string]string{"x": "y"},
		Linux: &v1.LinuxPodSandboxConfig{CgroupParent: o.Cgroup, SecurityContext: &v1.LinuxSandboxSecurityContext{NamespaceOptions: &v1.NamespaceOption{Pid: v1.NamespaceMode_CONTAINER}}}}
	box, err := rt.RunSandbox(ctx, sc, "")
	must("run a sandbox", err)
	if _, err := rt.RunSandbox(ctx, sc, ""); err == nil {
		t.Error("the same attempt of a sandbox was run twice")
	}
	st, err := rt.SandboxStatus(ctx, box)
	must("sandbox status", err)
	if st.State != v1.PodSandboxState_SANDBOX_READY || st.GetNetwork().GetIp() == "" || st.Annotations["x"] != "y" {
		t.Errorf("sandbox %v", st)
	}
	if l, err := rt.ListSandboxes(ctx, &v1.PodSandboxFilter{LabelSelector: map[string]string{cri.LabelPodUID: "uid-1"}}); err != nil || len(l) != 1 || l[0].Id != box {
		t.Errorf("list by label: %v, %v", l, err)
	}
	if l, err := rt.ListSandboxes(ctx, &v1.PodSandboxFilter{LabelSelector: map[string]string{cri.LabelPodUID: "uid-2"}}); err != nil || len(l) != 0 {
		t.Errorf("list by another label: %v, %v", l, err)
	}

	cc := &v1.ContainerConfig{Metadata: &v1.ContainerMetadata{Name: "c"}, Image: &v1.ImageSpec{Image: img.Id}, Command: o.Forever, LogPath: "c/0.log",
		Labels: map[string]string{cri.LabelPodUID: "uid-1"}, Annotations: map[string]string{cri.AnnotationHash: "h"},
		Linux: &v1.LinuxContainerConfig{SecurityContext: &v1.LinuxContainerSecurityContext{NamespaceOptions: &v1.NamespaceOption{Pid: v1.NamespaceMode_CONTAINER}}}}
	id, err := rt.CreateContainer(ctx, box, cc, sc)
	must("create", err)
	state := func(want v1.ContainerState) *v1.ContainerStatus {
		t.Helper()
		s, err := rt.ContainerStatus(ctx, id)
		must("container status", err)
		if s.State != want {
			t.Errorf("state %s; want %s", s.State, want)
		}
		return s
	}
	state(v1.ContainerState_CONTAINER_CREATED)
	must("start", rt.StartContainer(ctx, id))
	if s := state(v1.ContainerState_CONTAINER_RUNNING); s.StartedAt == 0 || s.Annotations[cri.AnnotationHash] != "h" {
		t.Errorf("running: %v", s)
	}
	if err := rt.StartContainer(ctx, id); err == nil {
		t.Error("a running container was started again")
	}
	out, _, code, err := rt.ExecSync(ctx, id, o.Say, 10*time.Second)
	if err != nil || code != 0 || !strings.Contains(string(out), o.Say[len(o.Say)-1]) {
		t.Errorf("exec: %q, %d, %v", out, code, err)
	}
	var b bytes.Buffer
	if err := rt.Exec(ctx, id, o.Say, cri.IO{Stdout: &b}); err != nil || !strings.Contains(b.String(), o.Say[len(o.Say)-1]) {
		t.Errorf("streamed exec: %q, %v", b.String(), err)
	}
	must("stop", rt.StopContainer(ctx, id, 10*time.Second))
	must("stop again", rt.StopContainer(ctx, id, 0))
	if s := state(v1.ContainerState_CONTAINER_EXITED); s.FinishedAt < s.StartedAt {
		t.Errorf("ended before it began: %v", s)
	}
	if _, _, _, err := rt.ExecSync(ctx, id, o.Say, time.Second); err == nil {
		t.Error("a command ran in a container that has ended")
	}
	must("stop the sandbox", rt.StopSandbox(ctx, box))
	must("stop the sandbox again", rt.StopSandbox(ctx, box))
	must("remove the sandbox", rt.RemoveSandbox(ctx, box))
	must("remove the sandbox again", rt.RemoveSandbox(ctx, box))
	if _, err := rt.ContainerStatus(ctx, id); !cri.NotFound(err) {
		t.Errorf("status of a container that is gone: %v; want NotFound", err)
	}
	must("remove a container that is gone", rt.RemoveContainer(ctx, id))

	// What happened was told, in order.
	want := []v1.ContainerEventType{v1.ContainerEventType_CONTAINER_CREATED_EVENT, v1.ContainerEventType_CONTAINER_STARTED_EVENT, v1.ContainerEventType_CONTAINER_STOPPED_EVENT}
	for len(want) > 0 {
		select {
		case e := <-told:
			if e.id == id && e.typ == want[0] {
				want = want[1:]
			}
		case <-ctx.Done():
			t.Fatalf("never told: %v", want)
		}
	}
}
