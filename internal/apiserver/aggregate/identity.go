package aggregate

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"

	"proa/internal/api"
)

// The headers that tell an extension server who asks. It believes them because
// they come with the front proxy's certificate.
const (
	headerPrefix = "X-Remote-"
	headerUser   = "X-Remote-User"
	headerUID    = "X-Remote-Uid"
	headerGroup  = "X-Remote-Group"
	headerExtra  = "X-Remote-Extra-"
)

// identify replaces whatever a request says of who sent it by the user.
func identify(h http.Header, u api.User) {
	for name := range h {
		if strings.HasPrefix(name, headerPrefix) || strings.HasPrefix(name, "Impersonate-") || name == "Authorization" {
			delete(h, name)
		}
	}
	h.Set(headerUser, u.Name)
	if u.UID != "" {
		h.Set(headerUID, u.UID)
	}
	for _, g := range u.Groups {
		h.Add(headerGroup, g)
	}
	for key, values := range u.Extra {
		for _, v := range values {
			h.Add(headerExtra+escaped(key), v)
		}
	}
}

// escaped writes a key so that it can be part of a header's name: what cannot be
// there, and the percent sign, becomes %XX. Case is lost, as ever.
func escaped(key string) string {
	var b strings.Builder
	for i := range len(key) {
		c := key[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$&'*+-.^_`|~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

var noLog = log.New(io.Discard, "", 0) // what goes wrong is told to the client
