package api

import (
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
)

// Alike says of a kind whose objects are made in many copies, such as pods from
// a template, which part of them the copies have in common. Copies that are read
// from the store share it in memory, and it is decoded once: of a pod that is
// three quarters. Like everything that is read from the store it is not to be
// changed.
type Alike[T Object] struct {
	Field int            // number of the message in the object's protobuf form: 2 of a pod, its spec
	Own   []int          // fields of the message that differ between copies
	Share func(to, of T) // gives to the message that of has
}

// mostAlike is how many templates are known, twice. Objects are read in order of
// their names, so that copies come one after the other.
const mostAlike = 2048

// alikes finds what objects have in common.
type alikes struct {
	field protowire.Number
	own   map[protowire.Number]bool
	share func(to, of Object)
	new   func() Object

	mu           sync.Mutex
	known, older map[string]Object // by the encoded fields that copies have in common
}

func newAlikes[T Object](a *Alike[T], fresh func() Object) *alikes {
	own := map[protowire.Number]bool{}
	for _, n := range a.Own {
		own[protowire.Number(n)] = true
	}
	return &alikes{field: protowire.Number(a.Field), own: own, new: fresh,
		share: func(to, of Object) { a.Share(to.(T), of.(T)) }}
}

// parts is the memory in which a body is taken apart.
type parts struct{ common, own, left []byte }

var partings = sync.Pool{New: func() any { return new(parts) }}

// give gives o what it has in common with others, and returns what of the body has
// still to be decoded into it, in the memory of p.
func (a *alikes) give(o Object, body []byte, p *parts) []byte {
	at, end, message := -1, 0, []byte(nil)
	for rest := body; len(rest) > 0; {
		number, value, after, ok := bytesField(rest)
		if !ok || number == a.field && (at >= 0 || value == nil) {
			return body
		}
		if number == a.field {
			at, end, message = len(body)-len(rest), len(body)-len(after), value
		}
		rest = after
	}
	if at < 0 {
		return body
	}
	common, own := p.common[:0], p.own[:0]
	for rest := message; len(rest) > 0; {
		number, _, after, ok := bytesField(rest)
		if !ok {
			return body
		}
		if field := rest[:len(rest)-len(after)]; a.own[number] {
			own = append(own, field...)
		} else {
			common = append(common, field...)
		}
		rest = after
	}
	p.common, p.own = common, own
	of := a.find(common)
	if of == nil {
		return body
	}
	a.share(o, of)
	left := append(p.left[:0], body[:at]...)
	if len(own) > 0 {
		left = protowire.AppendBytes(protowire.AppendTag(left, a.field, protowire.BytesType), own)
	}
	p.left = append(left, body[end:]...)
	return p.left
}

// find returns an object with the message, or nil if it cannot be decoded.
func (a *alikes) find(message []byte) Object {
	a.mu.Lock()
	o := a.known[string(message)]
	if o == nil {
		if o = a.older[string(message)]; o != nil {
			a.remember(string(message), o)
		}
	}
	a.mu.Unlock()
	if o != nil {
		return o
	}
	o = a.new()
	m, ok := o.(protobufObject)
	if !ok || m.Unmarshal(protowire.AppendBytes(protowire.AppendTag(nil, a.field, protowire.BytesType), message)) != nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.remember(string(message), o)
	return o
}

// remember keeps a template until mostAlike others have come. The lock is held.
func (a *alikes) remember(message string, o Object) {
	if len(a.known) >= mostAlike || a.known == nil {
		a.known, a.older = map[string]Object{}, a.known
	}
	a.known[message] = o
}
