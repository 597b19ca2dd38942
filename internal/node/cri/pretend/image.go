package pretend

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// repository is an image's name without tag and digest.
func repository(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		image = image[:i]
	}
	return image
}

// image finds an image by name or by ID. The runtime is locked.
func (r *Runtime) image(name string) *v1.Image {
	if i := r.images[name]; i != nil {
		return i
	}
	for _, i := range r.images {
		if i.Id == name || slices.Contains(i.RepoDigests, name) {
			return i
		}
	}
	return nil
}

// ImageStatus implements cri.Runtime.
func (r *Runtime) ImageStatus(_ context.Context, image string) (*v1.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.image(image), r.fails("ImageStatus")
}

// Pull implements cri.Runtime. Every image can be pulled but those that the
// pod's script says fail, and those with "does-not-exist" in their name.
func (r *Runtime) Pull(ctx context.Context, image string, _ *v1.AuthConfig, s *v1.PodSandboxConfig) (string, error) {
	sc, err := r.pullScript(image, s)
	if err != nil {
		return "", err
	}
	if err := r.drag(ctx); err != nil {
		return "", err
	}
	if sc.pullTime > 0 {
		if err := r.pause(ctx, sc.pullTime); err != nil {
			return "", err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.fails("Pull"); err != nil {
		return "", err
	}
	if sc.pull != "" {
		return "", status.Error(codes.Unknown, sc.pull)
	}
	if strings.Contains(image, "does-not-exist") {
		return "", status.Errorf(codes.NotFound, "failed to pull and unpack image %q: failed to resolve reference %q: %s: not found", image, image, image)
	}
	if i := r.image(image); i != nil {
		return i.Id, nil
	}
	i := &v1.Image{Id: fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(image))), Size: 1 << 20, Spec: &v1.ImageSpec{Image: image}}
	i.RepoDigests = []string{repository(image) + "@" + i.Id}
	if !strings.Contains(image, "@") {
		i.RepoTags = []string{image}
	}
	r.images[image] = i
	return i.Id, nil
}

// pullScript finds the script of the pod for which an image is pulled: the CRI
// names the sandbox but no container, so the first script with a pull word counts.
func (r *Runtime) pullScript(image string, s *v1.PodSandboxConfig) (script, error) {
	for k, text := range s.GetAnnotations() {
		if strings.HasPrefix(k, Annotation) && strings.Contains(text, "pull") {
			return parse(text, 0)
		}
	}
	return script{}, nil
}

// ListImages implements cri.Runtime.
func (r *Runtime) ListImages(context.Context) (out []*v1.Image, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, i := range r.images {
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b *v1.Image) int { return strings.Compare(a.Id, b.Id) })
	return out, nil
}

// RemoveImage implements cri.Runtime.
func (r *Runtime) RemoveImage(_ context.Context, image string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, i := range r.images {
		if name == image || i.Id == image {
			delete(r.images, name)
		}
	}
	return nil
}

// ImageFS implements cri.Runtime.
func (r *Runtime) ImageFS(context.Context) ([]*v1.FilesystemUsage, error) {
	return []*v1.FilesystemUsage{{Timestamp: r.now(), FsId: &v1.FilesystemIdentifier{Mountpoint: "/pretend"},
		UsedBytes: &v1.UInt64Value{Value: 0}, InodesUsed: &v1.UInt64Value{Value: 0}}}, nil
}
