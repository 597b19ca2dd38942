package httpapi

import (
	"encoding/base64"
	"iter"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"proa/internal/api"
)

// upgrades says whether the client wants a WebSocket (RFC 6455), which only
// HTTP/1.1 can become.
func upgrades(req *http.Request) bool {
	return req.ProtoMajor == 1 && req.Header["Upgrade"] != nil && websocket.IsWebSocketUpgrade(req)
}

// bearerProtocol is what the name of a subprotocol begins with that is a token,
// for browsers, which cannot set headers.
const bearerProtocol = "base64url.bearer.authorization.k8s.io."

// withProtocolToken turns a subprotocol that is a token into the header that it
// stands for. There must be another subprotocol, for the server to choose; other
// requests are returned as they are.
func withProtocolToken(req *http.Request) *http.Request {
	if !upgrades(req) || req.Header.Get("Authorization") != "" {
		return req
	}
	var others []string
	token := ""
	for _, p := range websocket.Subprotocols(req) {
		t, is := strings.CutPrefix(p, bearerProtocol)
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(t, "="))
		switch {
		case !is:
			others = append(others, p)
		case err != nil || !utf8.Valid(b) || len(b) == 0 || token != "":
			return req // not authenticated, then
		default:
			token = string(b)
		}
	}
	if token == "" || len(others) == 0 {
		return req
	}
	out := req.Clone(req.Context())
	out.Header.Set("Authorization", "Bearer "+token)
	out.Header.Set("Sec-Websocket-Protocol", strings.Join(others, ", "))
	return out
}

// How long a client may take to be told something, or to answer a ping.
const (
	wsWrite = 10 * time.Second
	wsPing  = 30 * time.Second
)

// watchWebSocket is watch with each event as one message: of text where the
// media type is text, binary otherwise. What the client says is not listened to.
func (x *exchange) watchWebSocket(w *watcher, events iter.Seq2[api.Event, error]) {
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }} // credentials are never ambient here
	if p := websocket.Subprotocols(x.req); len(p) > 0 {
		up.Subprotocols = p[:1]
	}
	h := x.Header().Clone()
	for _, own := range []string{"Cache-Control", "Content-Type"} {
		h.Del(own)
	}
	conn, err := up.Upgrade(x.ResponseWriter, x.req, h)
	if err != nil {
		x.code = http.StatusBadRequest // and the client knows
		return
	}
	x.code = http.StatusSwitchingProtocols
	defer conn.Close()
	w.ws = conn
	x.hear(conn)
	w.run(events)
	bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	conn.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second))
}

// message writes one event.
func (w *watcher) message(b []byte) error {
	kind := websocket.BinaryMessage
	switch w.x.media.typ {
	case api.MediaJSON:
		kind = websocket.TextMessage
	case api.MediaProtobuf:
		b = b[4:] // the length is the message's own
	}
	w.ws.SetWriteDeadline(time.Now().Add(wsWrite))
	return w.ws.WriteMessage(kind, b)
}

// hear ends the request's context when the client goes, which net/http does not
// do for a connection that it has handed over.
func (x *exchange) hear(conn *websocket.Conn) {
	ctx, gone := x.ctx, x.cancel
	conn.SetReadLimit(1 << 10)
	alive := func(string) error { return conn.SetReadDeadline(time.Now().Add(3 * wsPing)) }
	conn.SetPongHandler(alive)
	_ = alive("")
	go func() {
		defer gone()
		for {
			if _, _, err := conn.NextReader(); err != nil {
				return
			}
		}
	}()
	ping := time.NewTicker(wsPing)
	go func() {
		defer ping.Stop()
		for {
			select {
			case <-ping.C:
				if conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(wsWrite)) != nil {
					conn.Close()
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
}
