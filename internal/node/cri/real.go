package cri

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Real is a runtime behind a unix socket: containerd, CRI-O.
type Real struct {
	conn *grpc.ClientConn
	run  v1.RuntimeServiceClient
	img  v1.ImageServiceClient
}

var _ Runtime = (*Real)(nil)

// maxMessage is how large one answer may be; a node with many images has long lists.
const maxMessage = 16 << 20

// Dial returns the runtime behind a socket ("/run/x.sock" or "unix:///run/x.sock").
// It does not wait for it to be there: calls wait, within their context, up to
// the time that the socket comes (see [Real.Wait]) or fail.
func Dial(socket string) (*Real, error) {
	conn, err := grpc.NewClient("unix://"+strings.TrimPrefix(socket, "unix://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("runtime socket %s: %w", socket, err)
	}
	return &Real{conn, v1.NewRuntimeServiceClient(conn), v1.NewImageServiceClient(conn)}, nil
}

// Close lets go of the socket.
func (r *Real) Close() error { return r.conn.Close() }

// Wait returns once the runtime answers CRI calls, or ctx ends.
func (r *Real) Wait(ctx context.Context) error {
	for {
		_, err := r.run.Version(ctx, &v1.VersionRequest{}, grpc.WaitForReady(true))
		if err == nil || ctx.Err() != nil {
			return err
		}
		// The socket is there before the CRI service behind it is.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// Version implements Runtime.
func (r *Real) Version(ctx context.Context) (*v1.VersionResponse, error) {
	return r.run.Version(ctx, &v1.VersionRequest{})
}

// Status implements Runtime.
func (r *Real) Status(ctx context.Context) (*v1.StatusResponse, error) {
	return r.run.Status(ctx, &v1.StatusRequest{})
}

// SetPodCIDR implements Runtime.
func (r *Real) SetPodCIDR(ctx context.Context, cidr string) error {
	_, err := r.run.UpdateRuntimeConfig(ctx, &v1.UpdateRuntimeConfigRequest{
		RuntimeConfig: &v1.RuntimeConfig{NetworkConfig: &v1.NetworkConfig{PodCidr: cidr}}})
	return err
}

// Events implements Runtime.
func (r *Real) Events(ctx context.Context, ready func(), event func(*v1.ContainerEventResponse)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := r.run.GetContainerEvents(ctx, &v1.GetEventsRequest{})
	if err != nil {
		return err
	}
	// The stream has no header before its first event, so that the subscription
	// stands cannot be seen; a call that the server answers after it is the next best.
	if _, err := r.run.Version(ctx, &v1.VersionRequest{}); err != nil {
		return err
	}
	ready()
	for {
		e, err := s.Recv()
		if err != nil {
			return err
		}
		event(e)
	}
}

// RunSandbox implements Runtime.
func (r *Real) RunSandbox(ctx context.Context, c *v1.PodSandboxConfig, handler string) (string, error) {
	a, err := r.run.RunPodSandbox(ctx, &v1.RunPodSandboxRequest{Config: c, RuntimeHandler: handler})
	return a.GetPodSandboxId(), err
}

// StopSandbox implements Runtime.
func (r *Real) StopSandbox(ctx context.Context, id string) error {
	_, err := r.run.StopPodSandbox(ctx, &v1.StopPodSandboxRequest{PodSandboxId: id})
	return unlessGone(err)
}

// RemoveSandbox implements Runtime. After its shim was killed, the first try
// fails while containerd cleans up behind the shim, so it is tried again.
func (r *Real) RemoveSandbox(ctx context.Context, id string) error {
	var err error
	for pause := 50 * time.Millisecond; pause < time.Second; pause *= 2 {
		if _, err = r.run.RemovePodSandbox(ctx, &v1.RemovePodSandboxRequest{PodSandboxId: id}); unlessGone(err) == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		_ = r.StopSandbox(ctx, id)
	}
	return err
}

func unlessGone(err error) error {
	if NotFound(err) {
		return nil
	}
	return err
}

// SandboxStatus implements Runtime.
func (r *Real) SandboxStatus(ctx context.Context, id string) (*v1.PodSandboxStatus, error) {
	a, err := r.run.PodSandboxStatus(ctx, &v1.PodSandboxStatusRequest{PodSandboxId: id})
	return a.GetStatus(), err
}

// ListSandboxes implements Runtime.
func (r *Real) ListSandboxes(ctx context.Context, f *v1.PodSandboxFilter) ([]*v1.PodSandbox, error) {
	a, err := r.run.ListPodSandbox(ctx, &v1.ListPodSandboxRequest{Filter: f})
	return a.GetItems(), err
}

// ListSandboxStats implements Runtime.
func (r *Real) ListSandboxStats(ctx context.Context) ([]*v1.PodSandboxStats, error) {
	a, err := r.run.ListPodSandboxStats(ctx, &v1.ListPodSandboxStatsRequest{})
	return a.GetStats(), err
}

// CreateContainer implements Runtime.
func (r *Real) CreateContainer(ctx context.Context, sandbox string, c *v1.ContainerConfig, s *v1.PodSandboxConfig) (string, error) {
	a, err := r.run.CreateContainer(ctx, &v1.CreateContainerRequest{PodSandboxId: sandbox, Config: c, SandboxConfig: s})
	return a.GetContainerId(), err
}

// StartContainer implements Runtime.
func (r *Real) StartContainer(ctx context.Context, id string) error {
	_, err := r.run.StartContainer(ctx, &v1.StartContainerRequest{ContainerId: id})
	return err
}

// StopContainer implements Runtime.
func (r *Real) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	_, err := r.run.StopContainer(ctx, &v1.StopContainerRequest{ContainerId: id, Timeout: int64((grace + time.Second - 1) / time.Second)})
	return unlessGone(err)
}

// RemoveContainer implements Runtime.
func (r *Real) RemoveContainer(ctx context.Context, id string) error {
	_, err := r.run.RemoveContainer(ctx, &v1.RemoveContainerRequest{ContainerId: id})
	return unlessGone(err)
}

// ContainerStatus implements Runtime.
func (r *Real) ContainerStatus(ctx context.Context, id string) (*v1.ContainerStatus, error) {
	a, err := r.run.ContainerStatus(ctx, &v1.ContainerStatusRequest{ContainerId: id})
	return a.GetStatus(), err
}

// ListContainers implements Runtime.
func (r *Real) ListContainers(ctx context.Context, f *v1.ContainerFilter) ([]*v1.Container, error) {
	a, err := r.run.ListContainers(ctx, &v1.ListContainersRequest{Filter: f})
	return a.GetContainers(), err
}

// UpdateContainer implements Runtime.
func (r *Real) UpdateContainer(ctx context.Context, id string, l *v1.LinuxContainerResources) error {
	_, err := r.run.UpdateContainerResources(ctx, &v1.UpdateContainerResourcesRequest{ContainerId: id, Linux: l})
	return err
}

// ReopenLog implements Runtime.
func (r *Real) ReopenLog(ctx context.Context, id string) error {
	_, err := r.run.ReopenContainerLog(ctx, &v1.ReopenContainerLogRequest{ContainerId: id})
	return err
}

// ListContainerStats implements Runtime.
func (r *Real) ListContainerStats(ctx context.Context) ([]*v1.ContainerStats, error) {
	a, err := r.run.ListContainerStats(ctx, &v1.ListContainerStatsRequest{})
	return a.GetStats(), err
}

// ExecSync implements Runtime.
func (r *Real) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) ([]byte, []byte, int32, error) {
	if timeout > 0 {
		// The runtime enforces the timeout; the context is for when it hangs.
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, timeout+10*time.Second)
		defer cancel()
	}
	a, err := r.run.ExecSync(ctx, &v1.ExecSyncRequest{ContainerId: id, Cmd: cmd, Timeout: int64((timeout + time.Second - 1) / time.Second)})
	return a.GetStdout(), a.GetStderr(), a.GetExitCode(), err
}

// ImageStatus implements Runtime.
func (r *Real) ImageStatus(ctx context.Context, image string) (*v1.Image, error) {
	a, err := r.img.ImageStatus(ctx, &v1.ImageStatusRequest{Image: &v1.ImageSpec{Image: image}})
	return a.GetImage(), unlessGone(err)
}

// Pull implements Runtime.
func (r *Real) Pull(ctx context.Context, image string, auth *v1.AuthConfig, s *v1.PodSandboxConfig) (string, error) {
	a, err := r.img.PullImage(ctx, &v1.PullImageRequest{Image: &v1.ImageSpec{Image: image}, Auth: auth, SandboxConfig: s})
	if err == nil && a.GetImageRef() == "" {
		err = status.Errorf(codes.Internal, "the runtime pulled %q and named no image", image)
	}
	return a.GetImageRef(), err
}

// ListImages implements Runtime.
func (r *Real) ListImages(ctx context.Context) ([]*v1.Image, error) {
	a, err := r.img.ListImages(ctx, &v1.ListImagesRequest{})
	return a.GetImages(), err
}

// RemoveImage implements Runtime.
func (r *Real) RemoveImage(ctx context.Context, image string) error {
	_, err := r.img.RemoveImage(ctx, &v1.RemoveImageRequest{Image: &v1.ImageSpec{Image: image}})
	return unlessGone(err)
}

// ImageFS implements Runtime.
func (r *Real) ImageFS(ctx context.Context) ([]*v1.FilesystemUsage, error) {
	a, err := r.img.ImageFsInfo(ctx, &v1.ImageFsInfoRequest{})
	return a.GetImageFilesystems(), err
}

// Exec implements Runtime.
func (r *Real) Exec(ctx context.Context, id string, cmd []string, s IO) error {
	a, err := r.run.Exec(ctx, &v1.ExecRequest{ContainerId: id, Cmd: cmd, Tty: s.TTY,
		Stdin: s.Stdin != nil, Stdout: s.Stdout != nil, Stderr: s.Stderr != nil && !s.TTY})
	if err != nil {
		return err
	}
	return stream(ctx, a.GetUrl(), s)
}

// Attach implements Runtime.
func (r *Real) Attach(ctx context.Context, id string, s IO) error {
	a, err := r.run.Attach(ctx, &v1.AttachRequest{ContainerId: id, Tty: s.TTY,
		Stdin: s.Stdin != nil, Stdout: s.Stdout != nil, Stderr: s.Stderr != nil && !s.TTY})
	if err != nil {
		return err
	}
	return stream(ctx, a.GetUrl(), s)
}

// PortForward implements Runtime.
func (r *Real) PortForward(ctx context.Context, sandbox string, port int32, conn io.ReadWriteCloser) error {
	a, err := r.run.PortForward(ctx, &v1.PortForwardRequest{PodSandboxId: sandbox, Port: []int32{port}})
	if err != nil {
		return err
	}
	return forward(ctx, a.GetUrl(), port, conn)
}
