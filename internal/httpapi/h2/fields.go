package h2

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2/hpack"
)

// The names of headers that are nearly all there are, by their names on the wire,
// and the other way.
var onWire, inGo = names(
	"Accept", "Accept-Encoding", "Accept-Language", "Allow", "Audit-Id", "Authorization", "Cache-Control",
	"Content-Encoding", "Content-Length", "Content-Type", "Cookie", "Date", "Etag", "Expect", "Host",
	"If-Modified-Since", "If-None-Match", "Impersonate-Group", "Impersonate-Uid", "Impersonate-User",
	"Kubectl-Command", "Kubectl-Session", "Last-Modified", "Location", "Origin", "Referer", "Retry-After", "Te",
	"Trailer", "User-Agent", "Vary", "Warning", "X-Content-Type-Options", "X-Forwarded-For", "X-Forwarded-Host",
	"X-Forwarded-Proto", "X-Kubernetes-Pf-Flowschema-Uid", "X-Kubernetes-Pf-Prioritylevel-Uid",
	"X-Remote-Group", "X-Remote-User",
)

func names(all ...string) (lower, upper map[string]string) {
	lower, upper = map[string]string{}, map[string]string{}
	for _, name := range all {
		l := strings.ToLower(name)
		lower[name], upper[l] = l, name
	}
	return lower, upper
}

func canonical(name string) string {
	if v, ok := inGo[name]; ok {
		return v
	}
	return http.CanonicalHeaderKey(name)
}

// changing has headers whose values are not to be remembered: they come once.
var changing = map[string]bool{"audit-id": true, "content-length": true, "etag": true, "location": true, "retry-after": true}

// encodeStatus begins a header in c.fields. The lock is held.
func (c *conn) encodeStatus(code int) {
	c.fields = c.fields[:0]
	v := "200"
	if code != http.StatusOK {
		v = strconv.Itoa(code)
	}
	c.encodeField(":status", v, false)
}

// encodeField adds a header, whose value is remembered unless it comes once. The
// lock is held.
func (c *conn) encodeField(name, value string, once bool) {
	_ = c.enc.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: once}) // into memory
}

// encodeHeader adds what HTTP/2 lets through of h. The lock is held.
func (c *conn) encodeHeader(h http.Header) {
	for name, values := range h {
		lower, known := onWire[name]
		if !known {
			if strings.HasPrefix(name, http.TrailerPrefix) || !httpguts.ValidHeaderFieldName(name) {
				continue
			}
			lower = strings.ToLower(name)
			switch lower {
			case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
				continue
			}
		}
		for _, v := range values {
			if httpguts.ValidHeaderFieldValue(v) {
				c.encodeField(lower, v, changing[lower])
			}
		}
	}
}

type dated struct {
	second int64
	text   string
}

var today atomic.Pointer[dated]

// date is the value of a Date header now.
func date() string {
	now := time.Now()
	d := today.Load()
	if d == nil || d.second != now.Unix() {
		d = &dated{now.Unix(), now.UTC().Format(http.TimeFormat)}
		today.Store(d)
	}
	return d.text
}
