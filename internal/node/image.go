package node

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/kinds/core"
	"proa/internal/node/cri"
)

// A pull is one image on its way; whoever needs it too waits for the same.
type pull struct {
	done chan struct{}
	err  error
	took time.Duration
}

// imageName is the grammar of image references: [host[:port]/]path[:tag][@digest].
var imageName = regexp.MustCompile(`^(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*(?::[0-9]+)?/)?` +
	`[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*(:\w[\w.-]{0,127})?(@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?$`)

// tagged adds the tag "latest" to a reference that has neither tag nor digest.
func tagged(image string) (string, error) {
	m := imageName.FindStringSubmatch(image)
	if m == nil {
		detail := "invalid reference format"
		if imageName.MatchString(strings.ToLower(image)) {
			detail = "invalid reference format: repository name must be lowercase"
		}
		//lint:ignore ST1005 the text that users know
		return "", fmt.Errorf("Failed to apply default image tag %q: couldn't parse image name %q: %s", image, image, detail)
	}
	if m[1] == "" && m[2] == "" {
		image += ":latest"
	}
	return image, nil
}

// image sees to a container's image by its pull policy and returns it, or why not.
func (w *worker) image(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (*v1.Image, *waiting) {
	now := w.a.Clock.Now()
	name, err := tagged(c.Image)
	if err != nil {
		w.a.event(pod, c.Name, warning, "InspectFailed", "%s", err)
		w.a.event(pod, c.Name, warning, "Failed", "Error: InvalidImageName")
		return nil, &waiting{reason: "InvalidImageName", message: err.Error(), until: now.Add(time.Minute), onImage: true}
	}
	have, err := w.a.Runtime.ImageStatus(ctx, name)
	if err != nil {
		return nil, &waiting{reason: "ImageInspectError", onImage: true, until: now.Add(retryStart),
			message: fmt.Sprintf("Failed to inspect image %q: %s", name, cri.Message(err))}
	}
	policy := c.ImagePullPolicy
	if policy == "" {
		policy = corev1.PullIfNotPresent
		if strings.HasSuffix(name, ":latest") {
			policy = corev1.PullAlways
		}
	}
	switch {
	case have != nil && policy != corev1.PullAlways:
		w.a.event(pod, c.Name, normal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", c.Image)
		return have, nil
	case policy == corev1.PullNever:
		msg := fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
		w.a.event(pod, c.Name, warning, "ErrImageNeverPull", "%s", msg)
		w.a.event(pod, c.Name, warning, "Failed", "Error: ErrImageNeverPull")
		return nil, &waiting{reason: "ErrImageNeverPull", message: msg, until: now.Add(retryStart), onImage: true}
	}
	return w.pull(ctx, pod, c, name)
}

// pull fetches an image, with pauses between failures. A failure is shown twice:
// first as ErrImagePull, then, while it waits, as ImagePullBackOff.
func (w *worker) pull(ctx context.Context, pod *corev1.Pod, c *corev1.Container, name string) (*v1.Image, *waiting) {
	now := w.a.Clock.Now()
	if why := w.pullPause(pod, c, now); why != nil {
		return nil, why
	}
	w.a.event(pod, c.Name, normal, "Pulling", "Pulling image %q", c.Image)
	ref, took, err := w.a.pullImage(ctx, pod, name)
	if ctx.Err() != nil {
		return nil, &waiting{reason: "ContainerCreating", onImage: true}
	}
	if err == nil {
		var img *v1.Image
		if img, err = w.a.Runtime.ImageStatus(ctx, ref); img == nil && err == nil {
			img, err = w.a.Runtime.ImageStatus(ctx, name)
		}
		if err == nil && img == nil {
			err = fmt.Errorf("the runtime does not have image %q after it pulled it", name)
		}
		if err == nil {
			w.a.event(pod, c.Name, normal, "Pulled", "Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.",
				c.Image, took.Round(time.Millisecond), w.a.Clock.Now().Sub(now).Round(time.Millisecond), img.Size)
			return img, nil
		}
	}
	msg := fmt.Sprintf("failed to pull image %q: %s", c.Image, cri.Message(err))
	w.a.event(pod, c.Name, warning, "Failed", "Failed to pull image %q: %s", c.Image, cri.Message(err))
	w.a.event(pod, c.Name, warning, "Failed", "Error: ErrImagePull")
	at := w.a.Clock.Now()
	w.with(func(m *memory) {
		if m.pulls[c.Name] == nil {
			m.pulls[c.Name] = &backoff{}
		}
		m.pulls[c.Name].next(at, at)
		m.pulls[c.Name].failed = msg
	})
	return nil, &waiting{reason: "ErrImagePull", message: msg, until: at.Add(showError), onImage: true}
}

// showError is how long ErrImagePull stands before it becomes ImagePullBackOff.
const showError = time.Second

// pullPause says how long the next pull of a container's image has to wait, or nil.
func (w *worker) pullPause(pod *corev1.Pod, c *corev1.Container, now time.Time) *waiting {
	w.mu.Lock()
	b := w.mem.pulls[c.Name]
	w.mu.Unlock()
	if b == nil || !now.Before(b.until(b.last)) {
		return nil
	}
	w.a.event(pod, c.Name, normal, "BackOff", "Back-off pulling image %q", c.Image)
	w.a.event(pod, c.Name, warning, "Failed", "Error: ImagePullBackOff")
	return &waiting{reason: "ImagePullBackOff", onImage: true, until: b.until(b.last),
		message: fmt.Sprintf("Back-off pulling image %q: ErrImagePull: %s", c.Image, b.failed)}
}

// pullImage pulls with each of the pod's credentials until one works. Pods that
// need the same image at once and bring no credentials share one pull.
func (a *Agent) pullImage(ctx context.Context, pod *corev1.Pod, name string) (ref string, took time.Duration, err error) {
	began := a.Clock.Now()
	auths := a.credentials(ctx, pod, name)
	if len(auths) > 0 {
		for _, auth := range auths {
			if ref, err = a.Runtime.Pull(ctx, name, auth, pullSandbox(pod)); err == nil {
				break
			}
		}
		return ref, a.Clock.Now().Sub(began), err
	}
	for {
		a.mu.Lock()
		p := a.images[name]
		if p == nil {
			p = &pull{done: make(chan struct{})}
			a.images[name] = p
			a.mu.Unlock()
			ref, p.err = a.Runtime.Pull(ctx, name, nil, pullSandbox(pod))
			p.took = a.Clock.Now().Sub(began)
			a.mu.Lock()
			delete(a.images, name)
			a.mu.Unlock()
			close(p.done)
			a.node.imagesChanged()
			return ref, p.took, p.err
		}
		a.mu.Unlock()
		select {
		case <-p.done:
		case <-ctx.Done():
			return "", 0, ctx.Err()
		}
		if p.err == nil {
			return name, p.took, nil
		}
		if ctx.Err() != nil {
			return "", 0, ctx.Err()
		}
		// The other one may have been cancelled with its pod: try for oneself.
	}
}

func pullSandbox(pod *corev1.Pod) *v1.PodSandboxConfig {
	return &v1.PodSandboxConfig{Metadata: &v1.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID)},
		Annotations: pod.Annotations}
}

// credentials reads the pod's imagePullSecrets and returns those for an image's registry.
func (a *Agent) credentials(ctx context.Context, pod *corev1.Pod, image string) (out []*v1.AuthConfig) {
	for _, ref := range pod.Spec.ImagePullSecrets {
		s, err := core.Secret.Get(ctx, a.Handler, pod.Namespace, ref.Name)
		if err != nil {
			a.event(pod, "", warning, "FailedToRetrieveImagePullSecret", "Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name)
			continue
		}
		out = append(out, registryAuths(s, image)...)
	}
	return out
}

// registryAuths reads a kubernetes.io/dockerconfigjson or dockercfg Secret.
func registryAuths(s *corev1.Secret, image string) (out []*v1.AuthConfig) {
	type entry struct{ Username, Password, Auth, IdentityToken string }
	var file struct{ Auths map[string]entry }
	if b, ok := s.Data[corev1.DockerConfigJsonKey]; ok {
		_ = json.Unmarshal(b, &file)
	} else if b, ok := s.Data[corev1.DockerConfigKey]; ok {
		_ = json.Unmarshal(b, &file.Auths)
	}
	for host, e := range file.Auths {
		if !registryMatches(host, image) {
			continue
		}
		if raw, err := base64.StdEncoding.DecodeString(e.Auth); err == nil && e.Username == "" {
			e.Username, e.Password, _ = strings.Cut(string(raw), ":")
		}
		out = append(out, &v1.AuthConfig{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken})
	}
	return out
}

func registryMatches(entry, image string) bool {
	entry = strings.TrimPrefix(strings.TrimPrefix(entry, "https://"), "http://")
	entry = strings.TrimSuffix(strings.TrimSuffix(entry, "/v1/"), "/v2/")
	entry = strings.TrimSuffix(entry, "/")
	host, _, ok := strings.Cut(image, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		image = "docker.io/" + image
	}
	if entry == "index.docker.io" {
		entry = "docker.io"
	}
	return image == entry || strings.HasPrefix(image, entry+"/") || strings.HasPrefix(image, entry+":")
}
