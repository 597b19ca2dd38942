package why

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"proa/internal/kinds/core"
	"proa/internal/kinds/podspec"
)

func specOf(p *corev1.Pod, name string) *corev1.Container {
	for _, l := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range l {
			if l[i].Name == name {
				return &l[i]
			}
		}
	}
	return &corev1.Container{Name: name}
}

// initContainers explains the init container that the others wait for; nil if
// all are done.
func (a *asker) initContainers(p *corev1.Pod) *Cause {
	for i := range p.Spec.InitContainers {
		k := &p.Spec.InitContainers[i]
		s := statusOf(p.Status.InitContainerStatuses, k.Name)
		if s == nil {
			return nil // the node has not begun
		}
		if podspec.Sidecar(k) {
			if s.Started != nil && *s.Started {
				continue
			}
		} else if t := s.State.Terminated; t != nil && t.ExitCode == 0 {
			continue
		}
		what := fmt.Sprintf("init container %s (%d of %d)", k.Name, i+1, len(p.Spec.InitContainers))
		if r := s.State.Running; r != nil && !podspec.Sidecar(k) {
			return is("", "%s must end before the next container starts, and runs still", what).since(r.StartedAt.Time).
				help("see what it waits for: kubectl logs %s%s -c %s", p.Name, a.inNamespace(), k.Name)
		}
		b := a.container(p, s, k)
		if b == nil {
			return is("", "%s is about to start", what)
		}
		if w := s.State.Waiting; w != nil && quiet(w.Reason) {
			return b // the pod as a whole is being set up
		}
		return is("", "%s has not done its work", what).as(b)
	}
	return nil
}

func statusOf(all []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	for i := range all {
		if all[i].Name == name {
			return &all[i]
		}
	}
	return nil
}

// quiet says whether a reason to wait says nothing.
func quiet(reason string) bool {
	return reason == "" || reason == "ContainerCreating" || reason == "PodInitializing"
}

// containers explains those that are not ready.
func (a *asker) containers(p *corev1.Pod) (out []*Cause) {
	setup := false
	for j, l := range []struct {
		specs  []corev1.Container
		states []corev1.ContainerStatus
	}{{p.Spec.InitContainers, p.Status.InitContainerStatuses}, {p.Spec.Containers, p.Status.ContainerStatuses}} {
		for i := range l.specs {
			k := &l.specs[i]
			s := statusOf(l.states, k.Name)
			switch {
			case s == nil || s.Ready || j == 0 && !podspec.Sidecar(k):
			case s.State.Terminated != nil && s.State.Terminated.ExitCode == 0 && p.Spec.RestartPolicy != corev1.RestartPolicyAlways && !podspec.Sidecar(k):
				// It has done its work; others have not.
			case s.State.Waiting != nil && quiet(s.State.Waiting.Reason):
				if !setup {
					setup = true
					out = append(out, a.setup(p))
				}
			default:
				out = append(out, a.container(p, s, k))
			}
		}
	}
	if len(out) == 0 && len(p.Status.ContainerStatuses) == 0 {
		out = append(out, a.setup(p))
	}
	return slices.DeleteFunc(out, func(c *Cause) bool { return c == nil })
}

// container explains why one container is not ready; nil if it is, or if
// nothing is known.
func (a *asker) container(p *corev1.Pod, s *corev1.ContainerStatus, k *corev1.Container) *Cause {
	switch {
	case s.State.Waiting != nil:
		return a.waiting(p, s, k, s.State.Waiting)
	case s.State.Terminated != nil:
		b := a.ended(p, k.Name, s.State.Terminated)
		if p.Spec.RestartPolicy != corev1.RestartPolicyNever {
			b.as(is("", "it is about to be started again (restartPolicy: %s)", p.Spec.RestartPolicy))
		}
		return b
	case s.State.Running != nil:
		return a.probed(p, s, k)
	}
	return nil
}

func (a *asker) waiting(p *corev1.Pod, s *corev1.ContainerStatus, k *corev1.Container, w *corev1.ContainerStateWaiting) *Cause {
	switch w.Reason {
	case "CrashLoopBackOff":
		c := is("", "container %s ends again and again", k.Name)
		c.More = "restarted " + times(int(s.RestartCount))
		if t := s.LastTerminationState.Terminated; t != nil {
			if pause, ok := pauseOf(w.Message); ok {
				if at := t.FinishedAt.Add(pause); at.After(a.now) {
					c.More += fmt.Sprintf("; next try at %s", at.UTC().Format(time.TimeOnly+" MST"))
				}
			}
			c.as(a.ended(p, k.Name, t))
		}
		return c
	case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed":
		return a.image(p, k, w)
	case "CreateContainerConfigError":
		c := is("", "container %s cannot be made%s", k.Name, said(w.Message))
		if refs := a.references(p); len(refs) > 0 {
			c.Text = fmt.Sprintf("container %s cannot be made without what it refers to", k.Name)
			return c.as(refs...)
		}
		return c.help("mend what the message names in the pod's spec")
	case "CreateContainerError", "RunContainerError", "PostStartHookError":
		c := is("", "container %s cannot be started: %s%s", k.Name, w.Reason, said(w.Message))
		if w.Reason == "PostStartHookError" {
			return c.help("mend the postStart hook of container %s", k.Name)
		}
		return c.help("see whether the command, the paths mounted and the security context of container %s are right", k.Name)
	}
	if quiet(w.Reason) {
		return a.setup(p)
	}
	return is("", "container %s waits: %s%s", k.Name, w.Reason, said(w.Message))
}

// pauseOf reads the pause in the message of a back-off.
func pauseOf(message string) (time.Duration, bool) {
	_, rest, ok := strings.Cut(message, "back-off ")
	word, _, _ := strings.Cut(rest, " ")
	d, err := time.ParseDuration(word)
	return d, ok && err == nil
}

// image explains why an image is not there.
func (a *asker) image(p *corev1.Pod, k *corev1.Container, w *corev1.ContainerStateWaiting) *Cause {
	c := is("", "the image %s of container %s cannot be pulled", k.Image, k.Name)
	why := w.Message
	e := a.last(p.UID, func(e *corev1.Event) bool {
		return e.Reason == "Failed" && strings.HasPrefix(e.Message, "Failed to pull image")
	})
	if e != nil && w.Reason == "ImagePullBackOff" && strings.Contains(e.Message, k.Image) {
		_, why, _ = strings.Cut(e.Message, ": ")
		c.since(firstSeen(e))
	}
	text := strings.ToLower(why)
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(s string) bool { return strings.Contains(text, s) })
	}
	switch {
	case w.Reason == "InvalidImageName":
		c.Text = fmt.Sprintf("%q, the image of container %s, is no name of an image", k.Image, k.Name)
		return c.help("write it as registry/name:tag")
	case w.Reason == "ErrImageNeverPull":
		c.Text = fmt.Sprintf("the image %s of container %s is not on node %s, and may not be pulled (imagePullPolicy: Never)", k.Image, k.Name, p.Spec.NodeName)
		return c.help("put it there (proa image load FILE), or set imagePullPolicy: IfNotPresent")
	case has("unauthorized", "denied", "authorization failed", "authentication required", "forbidden"):
		b := is("", "the registry wants to know who pulls%s", said(why))
		if len(p.Spec.ImagePullSecrets) == 0 {
			b.Text += " (the pod has no imagePullSecrets)"
		}
		for _, ref := range p.Spec.ImagePullSecrets {
			if _, k := get(a, core.Secret, a.ns, ref.Name); k == missing {
				b.as(is("secret/"+ref.Name, "there is no such secret, which imagePullSecrets names").
					help("make it: kubectl create secret docker-registry %s%s --docker-server=… --docker-username=… --docker-password=…", ref.Name, a.inNamespace()))
			}
		}
		c.as(b)
		if len(b.Causes) == 0 {
			c.help("see whether the name %s is right, and give the pod, or its service account, imagePullSecrets that may pull it", k.Image)
		}
	case has("not found", "manifest unknown", "no such image", "does not exist", "404"):
		c.as(is("", "the registry has no such image%s", said(why))).help("see whether the name and the tag of %s are right, and whether it has been pushed", k.Image)
	case has("no such host", "timeout", "timed out", "connection refused", "unreachable", "i/o"):
		c.as(is("", "the registry does not answer%s", said(why))).help("see whether node %s reaches the registry (name, proxy, firewall)", p.Spec.NodeName)
	case has("x509", "certificate", "tls", "http response to https"):
		c.as(is("", "the registry's certificate is not trusted%s", said(why))).help("make node %s trust the registry's certificate", p.Spec.NodeName)
	case has("toomanyrequests", "429", "rate limit"):
		c.as(is("", "the registry refuses for now, as too much was asked of it%s", said(why))).help("wait, or pull as a user who may pull more (imagePullSecrets)")
	default:
		if s := strings.TrimPrefix(said(why), ": "); s != "" {
			c.as(is("", "%s", s))
		}
		c.help("see whether the name %s is right and node %s reaches the registry", k.Image, p.Spec.NodeName)
	}
	return c
}

// endOfContainer says how a container ended, without the one that did.
func endOfContainer(p *corev1.Pod, name string, t *corev1.ContainerStateTerminated) string {
	sig := int(t.Signal)
	if sig == 0 && t.ExitCode > 128 && t.ExitCode < 128+65 {
		sig = int(t.ExitCode) - 128
	}
	switch {
	case t.Reason == "OOMKilled":
		if l := specOf(p, name).Resources.Limits; !l.Memory().IsZero() {
			return fmt.Sprintf("it was killed as it used more memory than its limit of %s (exit code %d, OOMKilled)", l.Memory(), t.ExitCode)
		}
		return fmt.Sprintf("it was killed as memory ran out (exit code %d, OOMKilled)", t.ExitCode)
	case t.Reason == "StartError" || t.Reason == "ContainerCannotRun":
		return fmt.Sprintf("it could not be started (exit code %d)", t.ExitCode)
	case sig != 0:
		return fmt.Sprintf("it was ended by signal %d, %s (exit code %d)", sig, signalName(sig), t.ExitCode)
	case t.ExitCode == 127:
		return "it ended with exit code 127: a command was not found"
	case t.ExitCode == 126:
		return "it ended with exit code 126: a command could not be executed"
	}
	return fmt.Sprintf("it ended with exit code %d", t.ExitCode)
}

func signalName(n int) string {
	if s := unix.SignalName(syscall.Signal(n)); s != "" {
		return s
	}
	return "unknown"
}

// ended explains how a container ended.
func (a *asker) ended(p *corev1.Pod, name string, t *corev1.ContainerStateTerminated) *Cause {
	how := strings.TrimPrefix(endOfContainer(p, name, t), "it ")
	c := is("", "container %s %s", name, how).since(t.FinishedAt.Time)
	if m := lastLines(t.Message); m != "" {
		c.as(is("", "its last words: %s", m))
	}
	logs := fmt.Sprintf("see what it wrote: kubectl logs %s%s -c %s", p.Name, a.inNamespace(), name)
	if p.Status.Phase != corev1.PodFailed {
		logs += " --previous"
	}
	k := specOf(p, name)
	killed := a.last(p.UID, func(e *corev1.Event) bool {
		return e.Reason == "Killing" && strings.Contains(e.InvolvedObject.FieldPath, "{"+name+"}") && strings.Contains(e.Message, "probe")
	})
	switch {
	case t.Reason == "OOMKilled":
		c.help("raise the memory limit of container %s (resources.limits.memory), or make it use less", name)
	case t.Reason == "StartError" || t.Reason == "ContainerCannotRun":
		c.help("see whether the command of container %s is in its image, and whether it may be executed", name)
	case killed != nil && (k.LivenessProbe != nil || k.StartupProbe != nil):
		b := is("", "%s", oneLine(killed.Message)).since(firstSeen(killed))
		if e := a.last(p.UID, unhealthy(name, "Liveness", "Startup")); e != nil {
			b.as(is("", "%s", oneLine(e.Message)).since(firstSeen(e)))
		}
		c.as(b).help("mend what the probe of container %s asks, or give it more time (initialDelaySeconds, timeoutSeconds, failureThreshold)", name)
	case t.ExitCode == 0 && p.Spec.RestartPolicy == corev1.RestartPolicyAlways:
		c.as(is("", "it is started again whenever it ends (restartPolicy: Always)"))
		c.help("if container %s is to end: make it a Job; else let it run on: %s", name, logs)
	case t.ExitCode == 126 || t.ExitCode == 127:
		c.help("see whether command and args of container %s are right; %s", name, logs)
	default:
		c.help("%s", logs)
	}
	return c
}

// lastLines is the end of a termination message.
func lastLines(s string) string {
	const most = 3
	l := strings.Split(strings.TrimSpace(s), "\n")
	return oneLine(strings.Join(l[max(0, len(l)-most):], " / "))
}

// unhealthy selects the events about probes of a container.
func unhealthy(name string, kinds ...string) func(*corev1.Event) bool {
	return func(e *corev1.Event) bool {
		return e.Reason == "Unhealthy" && strings.Contains(e.InvolvedObject.FieldPath, "{"+name+"}") &&
			slices.ContainsFunc(kinds, func(k string) bool { return strings.HasPrefix(e.Message, k+" probe") })
	}
}

// probed explains why a container that runs is not ready.
func (a *asker) probed(p *corev1.Pod, s *corev1.ContainerStatus, k *corev1.Container) *Cause {
	kind, probe := "readiness", k.ReadinessProbe
	if k.StartupProbe != nil && (s.Started == nil || !*s.Started) {
		kind, probe = "startup", k.StartupProbe
	}
	if probe == nil {
		if s.Ready {
			return nil
		}
		return is("", "container %s runs, and is about to be ready", k.Name).since(s.State.Running.StartedAt.Time)
	}
	started := s.State.Running.StartedAt.Time
	title := strings.ToUpper(kind[:1]) + kind[1:]
	e := a.last(p.UID, unhealthy(k.Name, title))
	if e != nil && lastSeen(e).Before(started) {
		e = nil
	}
	if first := started.Add(time.Duration(probe.InitialDelaySeconds) * time.Second); e == nil && a.now.Before(first) {
		return is("", "the %s probe of container %s begins at %s only (initialDelaySeconds: %d)", kind, k.Name, first.UTC().Format(time.TimeOnly+" MST"), probe.InitialDelaySeconds).since(started)
	}
	c := is("", "the %s probe of container %s, %s, has not succeeded", kind, k.Name, asks(probe)).since(started)
	if e != nil {
		_, text, _ := strings.Cut(e.Message, ": ")
		c.Text = fmt.Sprintf("the %s probe of container %s, %s, fails", kind, k.Name, asks(probe))
		c.since(firstSeen(e)).as(is("", "%s", oneLine(text)).since(lastSeen(e)))
	}
	if s.RestartCount > 0 && s.LastTerminationState.Terminated != nil {
		a.note("container %s of pod/%s has been restarted %s; last %s", k.Name, p.Name, times(int(s.RestartCount)), endOfContainer(p, k.Name, s.LastTerminationState.Terminated))
	}
	if kind == "startup" {
		period, n := max(probe.PeriodSeconds, 1), max(probe.FailureThreshold, 1)
		c.as(is("", "it is restarted if that does not succeed within %ds (failureThreshold × periodSeconds)", period*n))
	}
	return c.help("see whether container %s does what its %s probe asks (kubectl logs %s%s -c %s), and whether the probe is right", k.Name, kind, p.Name, a.inNamespace(), k.Name)
}

// asks says what a probe does.
func asks(p *corev1.Probe) string {
	switch {
	case p.HTTPGet != nil:
		path := p.HTTPGet.Path
		if path == "" {
			path = "/"
		}
		return fmt.Sprintf("GET %s on port %s", path, p.HTTPGet.Port.String())
	case p.TCPSocket != nil:
		return "a connection to port " + p.TCPSocket.Port.String()
	case p.GRPC != nil:
		return fmt.Sprintf("gRPC on port %d", p.GRPC.Port)
	case p.Exec != nil:
		return fmt.Sprintf("the command %q", oneLine(strings.Join(p.Exec.Command, " ")))
	}
	return "which asks nothing"
}
