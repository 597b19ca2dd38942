package kubeletapi

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	gwebsocket "github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/portforward"
	streamport "k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"
)

// Channels of a remote command over a WebSocket.
const (
	stdin = iota
	stdout
	stderr
	status
	resize
)

// serveWebSocket joins a client that speaks the remote command protocol over a
// WebSocket: version 5, which can close stdin, or version 4.
func serveWebSocket(w http.ResponseWriter, r *http.Request, o *remotecommand.Options, run func(Streams) error) {
	if o.TTY {
		o.Stderr = false
	}
	kinds := make([]wsstream.ChannelType, 5)
	set := func(i int, on bool, kind wsstream.ChannelType) {
		kinds[i] = wsstream.IgnoreChannel
		if on {
			kinds[i] = kind
		}
	}
	set(stdin, o.Stdin, wsstream.ReadChannel)
	set(stdout, o.Stdout, wsstream.WriteChannel)
	set(stderr, o.Stderr, wsstream.WriteChannel)
	set(status, true, wsstream.WriteChannel)
	set(resize, true, wsstream.ReadChannel)
	protocols := map[string]wsstream.ChannelProtocolConfig{}
	for name, binary := range map[string]bool{"": true, "channel.k8s.io": true, "base64.channel.k8s.io": false,
		"v4.channel.k8s.io": true, "v4.base64.channel.k8s.io": false, "v5.channel.k8s.io": true} {
		protocols[name] = wsstream.ChannelProtocolConfig{Binary: binary, Channels: kinds}
	}
	conn := wsstream.NewConn(protocols)
	conn.SetIdleTimeout(idleTimeout)
	protocol, ends, err := conn.Open(w, r)
	if err != nil {
		return // the handshake has answered
	}
	defer conn.Close()
	// An empty message tells the client that the connection stands.
	for _, i := range []int{stdout, stderr, status} {
		if kinds[i] == wsstream.WriteChannel {
			_, _ = ends[i].Write(nil)
			break
		}
	}
	st := Streams{TTY: o.TTY}
	if o.Stdin {
		st.Stdin = ends[stdin]
	}
	if o.Stdout {
		st.Stdout = ends[stdout]
	}
	if o.Stderr {
		st.Stderr = ends[stderr]
	}
	if o.TTY {
		sizes := make(chan Size)
		st.Resize = sizes
		go readSizes(r, ends[resize], sizes)
	}
	result := statusOf(run(st))
	if strings.HasPrefix(protocol, "v4.") || strings.HasPrefix(protocol, "v5.") {
		b, err := json.Marshal(result)
		if err == nil {
			_, _ = ends[status].Write(b)
		}
	} else if result.Status != metav1.StatusSuccess {
		_, _ = io.WriteString(ends[status], result.Message)
	}
}

func readSizes(r *http.Request, from io.Reader, to chan<- Size) {
	defer close(to)
	for d := json.NewDecoder(from); ; {
		var z Size
		if d.Decode(&z) != nil {
			return
		}
		select {
		case to <- z:
		case <-r.Context().Done():
			return
		}
	}
}

// statusOf is the end of a remote command as the status channel tells it.
func statusOf(err error) *metav1.Status {
	if err == nil {
		return &metav1.Status{Status: metav1.StatusSuccess}
	}
	var exit utilexec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return &metav1.Status{Status: metav1.StatusFailure, Reason: "NonZeroExitCode",
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: "ExitCode", Message: fmt.Sprint(exit.ExitStatus())}}}}
	}
	return &metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Code: http.StatusInternalServerError,
		Message: fmt.Sprintf("Internal error occurred: %v", err),
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Message: err.Error()}}}}
}

// serveTunnel takes SPDY out of a WebSocket (KEP-4006) and serves port-forward on it.
func serveTunnel(w http.ResponseWriter, r *http.Request, x executor, t Target) {
	up := gwebsocket.Upgrader{Subprotocols: []string{"SPDY/3.1+portforward.k8s.io"},
		CheckOrigin: func(*http.Request) bool { return true }} // who asks is known by certificate or token, not by origin
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return // answered
	}
	conn := portforward.NewTunnelingConnection("server", ws)
	defer conn.Close()
	// The SPDY server wants a request to upgrade: it gets one whose connection is the tunnel.
	inner := r.Clone(r.Context())
	inner.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {"portforward.k8s.io"}}
	streamport.ServePortForward(&tunnelWriter{conn: conn, header: http.Header{}}, inner, x, t.Pod, t.UID, nil, idleTimeout, createTimeout, streamport.SupportedProtocols)
}

// A tunnelWriter is a ResponseWriter whose answer nobody sees and whose
// connection is a tunnel.
type tunnelWriter struct {
	conn   net.Conn
	header http.Header
}

func (t *tunnelWriter) Header() http.Header         { return t.header }
func (t *tunnelWriter) Write(b []byte) (int, error) { return len(b), nil }
func (t *tunnelWriter) WriteHeader(int)             {}
func (t *tunnelWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return deadlines{t.conn}, bufio.NewReadWriter(bufio.NewReader(t.conn), bufio.NewWriter(t.conn)), nil
}

// deadlines keeps a deadline of zero from being taken for one that has passed.
type deadlines struct{ net.Conn }

func (d deadlines) SetDeadline(t time.Time) error {
	if t.IsZero() {
		return nil
	}
	return d.Conn.SetDeadline(t)
}
