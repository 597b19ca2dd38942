// Package cri is the border between the node agent and what runs containers:
// the calls of the Container Runtime Interface, version 1, that the agent makes.
// [Dial] gives the real one, over a unix socket; package pretend gives one whose
// containers only exist in memory. Both pass the suite in critest.
package cri

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Labels and annotations that the agent puts on sandboxes and containers. The
// names are those that crictl and log collectors know.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"

	AnnotationHash         = "io.kubernetes.container.hash"
	AnnotationRestartCount = "io.kubernetes.container.restartCount"
	AnnotationGrace        = "io.kubernetes.pod.terminationGracePeriod"
	AnnotationMessagePath  = "io.kubernetes.container.terminationMessagePath"
	AnnotationMessagePol   = "io.kubernetes.container.terminationMessagePolicy"
)

// A Runtime runs sandboxes and containers. Errors carry a gRPC code; see [NotFound].
// Every method may be called from many goroutines.
type Runtime interface {
	Sandboxes
	Containers
	Images
	Streams

	// Version names the runtime, for Node.status.nodeInfo.
	Version(ctx context.Context) (*v1.VersionResponse, error)
	// Status says whether the runtime and its network are ready.
	Status(ctx context.Context) (*v1.StatusResponse, error)
	// SetPodCIDR tells the runtime the node's pod subnet.
	SetPodCIDR(ctx context.Context, cidr string) error
	// Events calls ready once what happens from now on will be told, and then
	// event for each change, until ctx ends or the stream breaks. A runtime
	// without events fails with codes.Unimplemented.
	Events(ctx context.Context, ready func(), event func(*v1.ContainerEventResponse)) error
}

// Sandboxes are the pod-level calls.
type Sandboxes interface {
	RunSandbox(ctx context.Context, c *v1.PodSandboxConfig, handler string) (id string, err error)
	// StopSandbox ends the sandbox's network and what still runs in it. It may be repeated.
	StopSandbox(ctx context.Context, id string) error
	// RemoveSandbox forgets a sandbox and its containers. It may be repeated.
	RemoveSandbox(ctx context.Context, id string) error
	SandboxStatus(ctx context.Context, id string) (*v1.PodSandboxStatus, error)
	ListSandboxes(ctx context.Context, f *v1.PodSandboxFilter) ([]*v1.PodSandbox, error)
	ListSandboxStats(ctx context.Context) ([]*v1.PodSandboxStats, error)
}

// Containers are the container-level calls.
type Containers interface {
	CreateContainer(ctx context.Context, sandbox string, c *v1.ContainerConfig, s *v1.PodSandboxConfig) (id string, err error)
	StartContainer(ctx context.Context, id string) error
	// StopContainer asks the container to end and kills it after grace. It returns
	// when the container has ended, and may be repeated.
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	RemoveContainer(ctx context.Context, id string) error
	ContainerStatus(ctx context.Context, id string) (*v1.ContainerStatus, error)
	ListContainers(ctx context.Context, f *v1.ContainerFilter) ([]*v1.Container, error)
	UpdateContainer(ctx context.Context, id string, r *v1.LinuxContainerResources) error
	ReopenLog(ctx context.Context, id string) error
	ListContainerStats(ctx context.Context) ([]*v1.ContainerStats, error)
	// ExecSync runs a command to its end. A command that runs longer than timeout
	// (0: forever) fails with codes.DeadlineExceeded; one that cannot start, with another code.
	ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, code int32, err error)
}

// Images are the calls on the image store.
type Images interface {
	// ImageStatus returns nil if the image is not there.
	ImageStatus(ctx context.Context, image string) (*v1.Image, error)
	Pull(ctx context.Context, image string, auth *v1.AuthConfig, s *v1.PodSandboxConfig) (ref string, err error)
	ListImages(ctx context.Context) ([]*v1.Image, error)
	RemoveImage(ctx context.Context, image string) error
	ImageFS(ctx context.Context) ([]*v1.FilesystemUsage, error)
}

// Streams are the calls that join a client's streams to a container.
type Streams interface {
	// Exec runs a command. A command that ends with a code other than 0 fails with
	// an error that implements k8s.io/utils/exec.ExitError.
	Exec(ctx context.Context, id string, cmd []string, io IO) error
	// Attach joins the container's main process until it or the client ends.
	Attach(ctx context.Context, id string, io IO) error
	// PortForward joins one connection to a port inside the sandbox.
	PortForward(ctx context.Context, sandbox string, port int32, conn io.ReadWriteCloser) error
}

// IO is what a client brings to an exec or attach. Nil streams are not joined.
type IO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
	Resize         <-chan Size // nil: the terminal never changes its size
}

// Size is that of a terminal, in characters.
type Size struct{ Width, Height uint16 }

// A Prober is a runtime that answers network probes itself, because its
// containers cannot be reached over a network. Kind is "httpGet", "tcpSocket"
// or "grpc". A nil error is a success.
type Prober interface {
	Probe(ctx context.Context, container, kind string) error
}

// NotFound says whether the sandbox, container or image of a call is not there.
func NotFound(err error) bool { return status.Code(err) == codes.NotFound }

// Unimplemented says whether the runtime does not know a call.
func Unimplemented(err error) bool { return status.Code(err) == codes.Unimplemented }

// Message is the text of a runtime's error, without the "rpc error: code = …"
// before it, which kubectl users know how to read but nobody needs.
func Message(err error) string {
	if err == nil {
		return ""
	}
	if s, ok := status.FromError(err); ok && !errors.Is(err, context.Canceled) {
		return s.Message()
	}
	return err.Error()
}
