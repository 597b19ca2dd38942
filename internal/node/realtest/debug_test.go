package realtest

import (
	"bytes"
	"context"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/kubeletapi"
)

// podGroups are the cgroups of pods.
func (h *host) podGroups() (out []string) {
	for _, p := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
		for _, deep := range []string{"/kubepods/pod*", "/kubepods/*/pod*"} {
			found, _ := filepath.Glob(p + h.cgroup + deep)
			out = append(out, found...)
		}
	}
	return out
}

// shared is a buffer that is read while it is written.
type shared struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *shared) wait(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		got := s.b.String()
		s.mu.Unlock()
		if strings.Contains(got, text) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no %q in %q", text, got)
		}
	}
}

func (h *host) debug(name string, c corev1.EphemeralContainer) {
	h.t.Helper()
	p, err := core.Pod.Get(context.Background(), h.api, "default", name)
	if err != nil {
		h.t.Fatal(err)
	}
	p = api.Clone(p)
	c.Image, c.ImagePullPolicy = image, corev1.PullIfNotPresent
	p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, c)
	req := &api.Request{Verb: api.Update, Resource: core.Pod.Def(), Namespace: "default", Name: name, Sub: "ephemeralcontainers", Object: p}
	if _, err := h.api.Handle(context.Background(), req); err != nil {
		h.t.Fatal(err)
	}
}

func debugState(name string, ok func(corev1.ContainerState) bool) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		if p == nil {
			return false
		}
		for _, c := range p.Status.EphemeralContainerStatuses {
			if c.Name == name {
				return ok(c.State)
			}
		}
		return false
	}
}

// An ephemeral container is attached to with a terminal, sees the processes of
// the one that it was aimed at, and ends the attachment when it ends; so does an
// ordinary one.
func TestDebugAndAttach(t *testing.T) {
	h := start(t)
	p := pod("p", "serve")
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "cat", Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
		Command: []string{"/bin/cat"}, Stdin: true, StdinOnce: true})
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	h.create(p)
	h.until("p", "ready", ready)

	sh := corev1.EphemeralContainer{TargetContainerName: "c"}
	sh.Name, sh.Command, sh.Stdin, sh.TTY = "sh", []string{"/bin/sh"}, true, true
	h.debug("p", sh)
	h.until("p", "debugged", debugState("sh", func(s corev1.ContainerState) bool { return s.Running != nil }))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, w := io.Pipe()
	out, done := &shared{}, make(chan error, 1)
	go func() {
		done <- h.agent.Attach(ctx, kubeletapi.Target{Namespace: "default", Pod: "p", Container: "sh"}, kubeletapi.Streams{Stdin: r, Stdout: out, TTY: true})
	}()
	say := func(w io.Writer, text string) {
		t.Helper()
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	say(w, "tr '\\0' ' ' </proc/1/cmdline; echo; tty\n")
	out.wait(t, "/bin/proa-test serve")
	out.wait(t, "/dev/pts/0")
	say(w, "exit 5\n")
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("attach: %v", err)
		}
	case <-ctx.Done():
		t.Fatal("the attachment does not end with the container")
	}
	w.Close()
	h.until("p", "debugged no more", debugState("sh", func(s corev1.ContainerState) bool { return s.Terminated != nil && s.Terminated.ExitCode == 5 }))

	brief := corev1.EphemeralContainer{}
	brief.Name, brief.Command = "brief", []string{"/bin/echo", "that was all"}
	h.debug("p", brief)
	h.until("p", "debugged in brief", debugState("brief", func(s corev1.ContainerState) bool { return s.Terminated != nil && s.Terminated.ExitCode == 0 }))
	log := &shared{}
	if err := h.agent.Logs(ctx, kubeletapi.Target{Namespace: "default", Pod: "p", Container: "brief"}, &corev1.PodLogOptions{}, log); err != nil {
		t.Errorf("log: %v", err)
	}
	log.wait(t, "that was all")

	// The other container reads until its client ends.
	said := &shared{}
	err := h.agent.Attach(ctx, kubeletapi.Target{Namespace: "default", Pod: "p", Container: "cat"}, kubeletapi.Streams{Stdin: strings.NewReader("through and through"), Stdout: said})
	if err != nil {
		t.Errorf("attach: %v", err)
	}
	said.wait(t, "through and through")
	h.until("p", "half ended", func(p *corev1.Pod) bool { return p != nil && p.Status.ContainerStatuses[1].State.Terminated != nil })
	if err := h.agent.Attach(ctx, kubeletapi.Target{Namespace: "default", Pod: "p", Container: "cat"}, kubeletapi.Streams{Stdout: said}); err == nil {
		t.Error("attached to a container that has ended")
	}
	h.delete("p")
	h.until("p", "gone", gone)
	h.empty()
}
