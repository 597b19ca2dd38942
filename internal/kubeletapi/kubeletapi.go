// Package kubeletapi is the wire between the API server and a node: what
// Kubernetes' kubelet serves on port 10250. It holds both halves: [Serve] puts an
// [Agent] on the wire, [Dial] is one on another machine, and [Subs] answers the
// API's pod subresources (log, exec, attach, portforward) by way of it.
package kubeletapi

import (
	"context"
	"fmt"
	"io"
	"net/http"

	corev1 "k8s.io/api/core/v1"
)

// An Agent is what a node answers. Errors that are an [*Error] carry an HTTP
// status and a text for users; any other is an internal error.
type Agent interface {
	// Healthy returns why the node's agent does not work, or nil.
	Healthy(ctx context.Context) error
	// Pods are the pods that the node knows.
	Pods(ctx context.Context) (*corev1.PodList, error)
	// Logs writes a container's log to w. What is wrong with the request is found
	// before the first write.
	Logs(ctx context.Context, t Target, o *corev1.PodLogOptions, w io.Writer) error
	// Exec runs a command in a container. A status other than 0 is an error that
	// implements k8s.io/utils/exec.ExitError.
	Exec(ctx context.Context, t Target, cmd []string, s Streams) error
	// Attach joins a container's main process.
	Attach(ctx context.Context, t Target, s Streams) error
	// PortForward joins one connection to a port of a pod.
	PortForward(ctx context.Context, t Target, port int32, conn io.ReadWriteCloser) error
	// Summary is the node's use of resources, as JSON of kubelet.config.k8s.io's stats/summary.
	Summary(ctx context.Context) (*Summary, error)
	// Resources is what the node and its containers have used of processors and memory.
	Resources(ctx context.Context) (*Resources, error)
	// Metrics writes Prometheus' text format; which is "", "resource", "cadvisor" or "probes".
	Metrics(ctx context.Context, which string, w io.Writer) error
}

// A Target names a pod and, except for port-forward, one of its containers.
type Target struct {
	Namespace, Pod, Container string
	UID                       string // any if empty
}

// Streams are a client's ends. Nil ones are not joined.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
	Resize         <-chan Size
}

// Size is that of a terminal, in characters.
type Size struct{ Width, Height uint16 }

// An Error is an answer with a status other than 200.
type Error struct {
	Code int
	Text string
}

func (e *Error) Error() string { return e.Text }

// NotFound says that a pod or container is not on the node.
func NotFound(format string, args ...any) error {
	return &Error{http.StatusNotFound, fmt.Sprintf(format, args...)}
}

// BadRequest says that a request makes no sense for the pod as it is.
func BadRequest(format string, args ...any) error {
	return &Error{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}
