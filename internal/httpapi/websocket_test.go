package httpapi

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"proa/internal/api"
)

// socket opens a WebSocket on a path.
func (r *rig) socket(path, accept string, protocols ...string) *websocket.Conn {
	r.t.Helper()
	d := websocket.Dialer{TLSClientConfig: &tls.Config{RootCAs: r.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}, Subprotocols: protocols}
	h := http.Header{"X-Test-User": {"tester"}}
	if accept != "" {
		h.Set("Accept", accept)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
	defer cancel()
	c, resp, err := d.DialContext(ctx, "wss"+strings.TrimPrefix(r.URL, "https")+path, h)
	if err != nil {
		r.t.Fatalf("%s: %v, %v", path, err, resp)
	}
	r.t.Cleanup(func() { c.Close() })
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	return c
}

func TestWatchWebSocket(t *testing.T) {
	rig := live(t)
	const maps = "/api/v1/namespaces/default/configmaps"
	rig.want(201, "POST", maps, `{"metadata":{"name":"a"}}`)
	const from = maps + "?watch=1&resourceVersion=0&timeoutSeconds=2"
	t.Run("text", func(t *testing.T) {
		c := rig.socket(from, "", "one", "two")
		if c.Subprotocol() != "one" {
			t.Errorf("subprotocol %q", c.Subprotocol())
		}
		typ, b, err := c.ReadMessage()
		if err != nil || typ != websocket.TextMessage || !strings.HasPrefix(string(b), `{"type":"ADDED","object":{"kind":"ConfigMap",`) || !strings.HasSuffix(string(b), "}\n") {
			t.Errorf("%d %s %v", typ, b, err)
		}
		rig.want(200, "DELETE", maps+"/a", "")
		if _, b, err = c.ReadMessage(); err != nil || !strings.HasPrefix(string(b), `{"type":"DELETED"`) {
			t.Errorf("%s %v", b, err)
		}
		if _, b, err = c.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Errorf("the watch ended with %s %v", b, err)
		}
		rig.want(201, "POST", maps, `{"metadata":{"name":"a"}}`)
	})
	t.Run("protobuf", func(t *testing.T) {
		typ, b, err := rig.socket(from, api.MediaProtobuf).ReadMessage()
		var e metav1.WatchEvent
		var u runtime.Unknown
		var m corev1.ConfigMap
		if err == nil {
			err = e.Unmarshal(b)
		}
		if err == nil {
			err = unwrap(e.Object.Raw, &u)
		}
		if err == nil {
			err = m.Unmarshal(u.Raw)
		}
		if err != nil || typ != websocket.BinaryMessage || e.Type != "ADDED" || m.Name != "a" {
			t.Errorf("%d %q %v", typ, b, err)
		}
	})
	t.Run("CBOR", func(t *testing.T) {
		typ, b, err := rig.socket(from, api.MediaCBOR).ReadMessage()
		if err != nil || typ != websocket.BinaryMessage || !strings.HasPrefix(string(b), "\xd9\xd9\xf7\xa2\x44type\x45ADDED") {
			t.Errorf("%d %q %v", typ, b, err)
		}
	})
	t.Run("a refusal is an ordinary answer", func(t *testing.T) {
		resp, body := rig.call("GET", from+"&sendInitialEvents=true", "", "", "Connection", "Upgrade", "Upgrade", "websocket")
		if resp.StatusCode != 422 {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
	})
}

// A watch ends when its client goes, though nothing happens that it would be told.
func TestWatchWebSocketGone(t *testing.T) {
	ended := make(chan struct{})
	rig := serve(t, api.HandlerFunc(func(ctx context.Context, r *api.Request) (*api.Response, error) {
		return &api.Response{Events: func(yield func(api.Event, error) bool) {
			<-ctx.Done()
			close(ended)
		}}, nil
	}), Config{})
	rig.socket("/api/v1/configmaps?watch=1", "").Close()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the watch goes on")
	}
}

func TestProtocolToken(t *testing.T) {
	token := base64.RawURLEncoding.EncodeToString([]byte("secret"))
	for _, c := range []struct{ protocols, wantAuth, wantLeft string }{
		{bearerProtocol + token + ", base64.binary.k8s.io", "Bearer secret", "base64.binary.k8s.io"},
		{"x, " + bearerProtocol + token, "Bearer secret", "x"},
		{bearerProtocol + token, "", bearerProtocol + token},
		{bearerProtocol + "!, x", "", bearerProtocol + "!, x"},
		{bearerProtocol + token + "," + bearerProtocol + token + ",x", "", bearerProtocol + token + "," + bearerProtocol + token + ",x"},
		{"x", "", "x"},
	} {
		req, _ := http.NewRequest("GET", "/", nil)
		req.Header = http.Header{"Connection": {"upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {c.protocols}}
		got := withProtocolToken(req)
		if a, p := got.Header.Get("Authorization"), got.Header.Get("Sec-Websocket-Protocol"); a != c.wantAuth || p != c.wantLeft {
			t.Errorf("%q: Authorization %q, left %q", c.protocols, a, p)
		}
	}
}
