package realtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilexec "k8s.io/utils/exec"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/kubeletapi"
)

// A new agent takes up what the old one left: no container is started again.
func TestAgentRestart(t *testing.T) {
	h := start(t)
	h.create(pod("a", "serve"))
	before := h.until("a", "ready", ready)
	h.create(pod("gone", "serve"))
	h.until("gone", "ready", ready)
	h.halt()
	// While no agent runs, one pod is forgotten by the API, by force.
	zero := int64(0)
	if err := core.Pod.Delete(t.Context(), h.api, "default", "gone", api.Options{GracePeriod: &zero}); err != nil {
		t.Fatal(err)
	}
	h.boot()
	h.create(pod("b", "serve"))
	h.until("b", "ready", ready)
	after := h.until("a", "ready", ready)
	if x, y := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]; x.ContainerID != y.ContainerID || y.RestartCount != 0 {
		t.Errorf("container was %s, is %s with %d restarts", x.ContainerID, y.ContainerID, y.RestartCount)
	}
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		list, err := h.rt.ListSandboxes(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d sandboxes; want 2: the forgotten pod must be taken down", len(list))
		}
	}
}

// Containers live on through the death of containerd, which is started again.
func TestContainerdKilled(t *testing.T) {
	h := start(t)
	h.create(pod("a", "serve"))
	before := h.until("a", "ready", ready)
	old := h.sup.PID()
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.create(pod("b", "serve"))
	h.until("b", "ready", ready)
	after := h.until("a", "ready", ready)
	if before.Status.ContainerStatuses[0].ContainerID != after.Status.ContainerStatuses[0].ContainerID {
		t.Errorf("the container was started again: %+v", after.Status.ContainerStatuses)
	}
	if h.sup.PID() == old {
		t.Error("containerd has the same process ID")
	}
	h.delete("a")
	h.until("a", "gone", gone)
}

// A container that is killed from outside is started again in its sandbox; a pod
// whose shim is killed gets a new sandbox.
func TestKills(t *testing.T) {
	h := start(t)
	h.create(pod("a", "serve"))
	p := h.until("a", "ready", ready)
	pid := strings.TrimSpace(h.pidOf(p, "proa-test"))
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatalf("process of the container: %q", pid)
	}
	if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p = h.until("a", "ready again", func(p *corev1.Pod) bool { return ready(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	if l := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; l == nil || l.ExitCode != 137 {
		t.Errorf("last state: %+v", l)
	}
	shim := parent(t, h.pidOf(p, "proa-test"))
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.until("a", "ready in a new sandbox", func(p *corev1.Pod) bool { return ready(p) && p.Status.ContainerStatuses[0].RestartCount == 2 })
	if !h.events.has("SandboxChanged") {
		t.Error("no event says that the sandbox was made anew")
	}
	h.delete("a")
	h.until("a", "gone", gone)
}

// pidOf finds a container's main process on the host, by its cgroup.
func (h *host) pidOf(p *corev1.Pod, name string) string {
	h.t.Helper()
	id := strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://")
	for _, pattern := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
		files, _ := filepath.Glob(pattern + h.cgroup + "/kubepods/*/pod" + string(p.UID) + "/" + id + "/cgroup.procs")
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err == nil {
				return strings.SplitN(string(b), "\n", 2)[0]
			}
		}
	}
	h.t.Fatalf("no cgroup of container %s", id)
	return ""
}

func parent(t *testing.T, pid string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), ") ")
	n, err := strconv.Atoi(strings.Fields(after)[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestVolumesAndEnv(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "conf"}, Data: map[string]string{"color": "red", "size": "7"}}
	sec := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "sec"}, Data: map[string][]byte{"key": []byte("hidden")}}
	if _, err := core.Secret.Create(ctx, h.api, sec); err != nil {
		t.Fatal(err)
	}
	p := pod("v", "serve")
	p.Labels = map[string]string{"app": "v"}
	p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64(1000)), FSGroup: new(int64(2000)), RunAsNonRoot: new(true)}
	mem := resource.MustParse("8Mi")
	p.Spec.Volumes = []corev1.Volume{
		{Name: "conf", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}}}},
		{Name: "sec", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "sec", DefaultMode: new(int32(0o400)),
			Items: []corev1.KeyToPath{{Key: "key", Path: "deep/down/key"}}}}},
		{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "mem", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &mem}}},
		{Name: "down", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}},
		{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: h.dir + "/shared", Type: new(corev1.HostPathDirectoryOrCreate)}}},
	}
	c := &p.Spec.Containers[0]
	c.VolumeMounts = []corev1.VolumeMount{{Name: "conf", MountPath: "/conf"}, {Name: "sec", MountPath: "/sec"}, {Name: "tmp", MountPath: "/tmp"},
		{Name: "mem", MountPath: "/mem"}, {Name: "down", MountPath: "/down"}, {Name: "host", MountPath: "/host", ReadOnly: true},
		{Name: "tmp", MountPath: "/part", SubPathExpr: "$(POD)/x"}, {Name: "conf", MountPath: "/one", SubPath: "color"}}
	c.Env = []corev1.EnvVar{{Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
		{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
		{Name: "GREET", Value: "hi $(POD) $$(POD) $(NONE)"},
		{Name: "COLOR", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}, Key: "color"}}}}
	c.EnvFrom = []corev1.EnvFromSource{{Prefix: "S_", SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "sec"}}}}
	c.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi"), corev1.ResourceCPU: resource.MustParse("500m")}
	h.create(p)
	// It waits for the ConfigMap, says so, and comes up when it is there: no polling.
	for end := time.Now().Add(10 * time.Second); !h.events.has(`FailedMount: MountVolume.SetUp failed for volume "conf" : configmap "conf" not found`); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no event says what is missing")
		}
	}
	if _, err := core.ConfigMap.Create(ctx, h.api, cm); err != nil {
		t.Fatal(err)
	}
	p = h.until("v", "ready", ready)
	for _, want := range []struct{ cmd, out string }{
		{"/bin/cat /conf/color", "red"}, {"/bin/cat /one", "red"}, {"/bin/cat /sec/deep/down/key", "hidden"}, {"/bin/cat /down/labels", `app="v"`},
		{"/bin/proa-test env GREET", "hi v $(POD) $(NONE)"}, {"/bin/proa-test env S_key", "hidden"}, {"/bin/proa-test env COLOR", "red"},
		{"/bin/proa-test env IP", p.Status.PodIP}, {"/bin/proa-test write /tmp/x y", ""}, {"/bin/proa-test write /part/z y", ""},
		{"/bin/ls /tmp/v/x", "z"}, {"/bin/cat /proc/self/mounts", " /mem tmpfs rw,relatime,size=8192k"}, {"/bin/cat /proc/self/mounts", " /sec tmpfs ro"},
	} {
		if out := h.exec(p, strings.Fields(want.cmd)...); !strings.Contains(out, want.out) {
			t.Errorf("%s: %q; want %q", want.cmd, out[max(0, len(out)-3000):], want.out)
		}
	}
	if b, err := os.ReadFile("/sys/fs/cgroup/memory" + h.cgroup + "/kubepods/pod" + string(p.UID) + "/memory.limit_in_bytes"); err == nil && strings.TrimSpace(string(b)) != "67108864" {
		t.Errorf("memory limit of the pod: %s", b)
	}
	// An update is shown without a restart, all at once.
	next, err := core.ConfigMap.Get(ctx, h.api, "default", "conf")
	if err != nil {
		t.Fatal(err)
	}
	next = api.Clone(next)
	next.Data = map[string]string{"color": "blue", "more": "m"}
	if _, err := core.ConfigMap.Update(ctx, h.api, next); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); h.exec(p, "/bin/cat", "/conf/color") != "blue"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the volume does not show the update")
		}
	}
	if out := h.exec(p, "/bin/ls", "/conf"); strings.Contains(out, "size") || !strings.Contains(out, "more") {
		t.Errorf("files: %s", out)
	}
	h.delete("v")
	h.until("v", "gone", gone)
	if out, err := exec.Command("sh", "-c", "grep -c "+h.dir+"/node/pods/ /proc/self/mounts").CombinedOutput(); strings.TrimSpace(string(out)) != "0" {
		t.Errorf("mounts are left: %s %v", out, err)
	}
}

// Exec, logs and probes against real containers.
func TestExecLogsProbes(t *testing.T) {
	h := start(t)
	p := pod("p", "serve", "-delay", "1s")
	probe := func(a corev1.ProbeHandler) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: a, PeriodSeconds: 1, TimeoutSeconds: 1, FailureThreshold: 3, SuccessThreshold: 1}
	}
	c := &p.Spec.Containers[0]
	c.StartupProbe = probe(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: port(8080)}})
	c.ReadinessProbe = probe(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: port(8080)}})
	c.LivenessProbe = probe(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/proa-test", "exit", "0"}}})
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "log", Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
		Command: []string{"/bin/sh", "-c", "i=0; while [ $i -lt 5 ]; do echo line $i; i=$((i+1)); /bin/proa-test sleep 0.1; done; exec /bin/proa-test sleep 1000"}})
	h.create(p)
	h.until("p", "ready", ready)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out bytes.Buffer
	tgt := kubeletapi.Target{Namespace: "default", Pod: "p", Container: "c"}
	if err := h.agent.Exec(ctx, tgt, []string{"/bin/cat"}, kubeletapi.Streams{Stdin: strings.NewReader("through"), Stdout: &out}); err != nil || out.String() != "through" {
		t.Errorf("exec: %v %q", err, out.String())
	}
	var exit utilexec.ExitError
	if err := h.agent.Exec(ctx, tgt, []string{"/bin/proa-test", "exit", "9"}, kubeletapi.Streams{Stdout: &out}); !errors.As(err, &exit) || exit.ExitStatus() != 9 {
		t.Errorf("exec: %v; want status 9", err)
	}
	sizes := make(chan kubeletapi.Size, 1)
	sizes <- kubeletapi.Size{Width: 123, Height: 45}
	out.Reset()
	if err := h.agent.Exec(ctx, tgt, []string{"/bin/sh", "-c", "sleep 1; stty size"}, kubeletapi.Streams{Stdout: &out, TTY: true, Resize: sizes}); err != nil || !strings.Contains(out.String(), "45 123") {
		t.Errorf("terminal size: %v %q", err, out.String())
	}
	out.Reset()
	lctx, stop := context.WithTimeout(ctx, 3*time.Second)
	defer stop()
	tgt.Container = "log"
	_ = h.agent.Logs(lctx, tgt, &corev1.PodLogOptions{Follow: true}, &out)
	if strings.Count(out.String(), "line ") != 5 {
		t.Errorf("log: %q", out.String())
	}
	a, b := newPipe()
	done := make(chan error, 1)
	go func() { done <- h.agent.PortForward(ctx, kubeletapi.Target{Namespace: "default", Pod: "p"}, 8080, b) }()
	if _, err := a.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 12)
	if _, err := a.Read(buf); err != nil || !strings.HasPrefix(string(buf), "HTTP/1.") {
		t.Errorf("port-forward: %v %q", err, buf)
	}
	a.Close()
	go func() { _, _ = io.Copy(io.Discard, a) }()
	<-done
}
