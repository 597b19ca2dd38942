// Package cniwire is the wire between the CNI plugin that a container runtime
// starts and the node's network, both halves: [Call] in the plugin, [Serve] in
// the node. A connection to a unix socket carries one request and one answer,
// each a JSON object. It imports nothing heavy, because the plugin is started
// twice for every pod.
package cniwire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Versions are the CNI specification versions spoken, oldest first.
var Versions = []string{"1.0.0", "1.1.0"}

// A Command is what CNI_COMMAND asks for.
type Command string

// The commands of CNI 1.1.
const (
	Add     Command = "ADD"
	Del     Command = "DEL"
	Check   Command = "CHECK"
	GC      Command = "GC"
	Status  Command = "STATUS"
	Version Command = "VERSION"
)

// A Request is one call of the plugin: its environment and its standard input.
type Request struct {
	Command     Command         `json:"command"`
	ContainerID string          `json:"containerID,omitempty"`
	Netns       string          `json:"netns,omitempty"`
	IfName      string          `json:"ifName,omitempty"`
	Args        string          `json:"args,omitempty"`
	Config      json.RawMessage `json:"config,omitempty"`
}

// A Response is the answer: what to print, or an error in CNI's form.
type Response struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  *Error          `json:"error,omitempty"`
}

// Error codes of the CNI specification, section "Error".
const (
	CodeIncompatible   = 1
	CodeUnknown        = 3 // container unknown or does not exist
	CodeBadEnvironment = 4
	CodeIO             = 5
	CodeDecode         = 6
	CodeBadConfig      = 7
	CodeTryLater       = 11
	CodeNotAvailable   = 50 // STATUS: the plugin is not available
	CodeInternal       = 999
)

// An Error is what a plugin prints when it fails.
type Error struct {
	CNIVersion string `json:"cniVersion,omitempty"`
	Code       int    `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details,omitempty"`
}

func (e *Error) Error() string {
	if e.Details == "" {
		return e.Msg
	}
	return e.Msg + ": " + e.Details
}

// Errorf returns an Error with a code.
func Errorf(code int, format string, args ...interface{}) *Error {
	return &Error{Code: code, Msg: fmt.Sprintf(format, args...)}
}

// limit bounds a request or an answer, in bytes.
const limit = 1 << 20

// Call sends q to the node that listens on socket and returns its answer. It
// fails with [CodeTryLater] when nobody listens.
func Call(socket string, q *Request, timeout time.Duration) (json.RawMessage, error) {
	conn, err := net.DialTimeout("unix", socket, timeout)
	if err != nil {
		return nil, &Error{Code: CodeTryLater, Msg: "the node's network is not up", Details: err.Error()}
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(timeout))
	if err := json.NewEncoder(conn).Encode(q); err != nil {
		return nil, &Error{Code: CodeTryLater, Msg: "send the request", Details: err.Error()}
	}
	var r Response
	if err := json.NewDecoder(io.LimitReader(conn, limit)).Decode(&r); err != nil {
		return nil, &Error{Code: CodeTryLater, Msg: "read the answer", Details: err.Error()}
	}
	if r.Error != nil {
		return nil, r.Error
	}
	return r.Result, nil
}

// A Handler performs a request. An error that is an [*Error] keeps its code.
type Handler func(context.Context, *Request) (json.RawMessage, error)

// Serve answers calls on l with h until ctx ends; then it closes l, waits for
// the calls under way and returns.
func Serve(ctx context.Context, l net.Listener, h Handler) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var calls sync.WaitGroup
	defer calls.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		calls.Go(func() { serve(ctx, conn, h) })
	}
}

func serve(ctx context.Context, conn net.Conn, h Handler) {
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	var q Request
	var r Response
	if err := json.NewDecoder(io.LimitReader(conn, limit)).Decode(&q); err != nil {
		r.Error = Errorf(CodeDecode, "decode the request: %v", err)
	} else if res, err := h(ctx, &q); err != nil {
		if !errors.As(err, &r.Error) {
			r.Error = Errorf(CodeInternal, "%v", err)
		}
	} else {
		r.Result = res
	}
	_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	_ = json.NewEncoder(conn).Encode(&r)
}
