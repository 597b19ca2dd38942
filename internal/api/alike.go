package api

import (
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/encoding/protowire"

	"proa/internal/api/owned"
)

// Alike says of a kind whose objects are made in many copies, such as pods from
// a template, which part of them the copies have in common. Copies that are read
// from the store share it in memory, and it is decoded once: of a pod that is
// three quarters. Its JSON and its paths in managedFields are made once, too. Like everything
// that is read from the store it is not to be changed.
type Alike[T Object] struct {
	Field int            // number of the message in the object's protobuf form: 2 of a pod, its spec
	Own   []int          // fields of the message that differ between copies; all are strings
	Share func(to, of T) // gives to the message that of has, all but to's own fields
}

// mostAlike is how many templates are known, twice. Objects are read in order of
// their names, so that copies come one after the other.
const mostAlike = 2048

// alikes finds what objects have in common.
type alikes struct {
	field protowire.Number
	own   []protowire.Number
	share func(to, of Object)
	new   func() Object
	none  Object // has nothing
	named commonJSON

	mu           sync.Mutex
	known, older map[string]*template // by the encoded fields that copies have in common
}

// A template is what copies have in common.
type template struct {
	*alikes
	of    Object // has that, and nothing else
	uses  atomic.Uint32
	text  atomic.Pointer[[][]byte] // see commonJSON
	paths owned.Texts
}

func newAlikes[T Object](a *Alike[T], fresh func() Object) *alikes {
	n := &alikes{field: protowire.Number(a.Field), new: fresh, none: fresh(), share: func(to, of Object) { a.Share(to.(T), of.(T)) }}
	for _, f := range a.Own {
		n.own = append(n.own, protowire.Number(f))
	}
	n.named = newCommonJSON(reflect.TypeFor[T]().Elem(), a.Field, a.Own)
	return n
}

// parts is a body that is taken apart, and the memory for that.
type parts struct {
	at, end     int    // of the field
	common, own []byte // its fields
	set         uint32 // which of the own fields are not empty, by their places in Alike.Own
	left        []byte
}

var partings = sync.Pool{New: func() any { return new(parts) }}

// split takes a body apart; false if it has not what copies have in common.
func (a *alikes) split(body []byte, p *parts) bool {
	at, end, message := -1, 0, []byte(nil)
	for rest := body; len(rest) > 0; {
		number, value, after, ok := bytesField(rest)
		if !ok || number == a.field && (at >= 0 || value == nil) {
			return false
		}
		if number == a.field {
			at, end, message = len(body)-len(rest), len(body)-len(after), value
		}
		rest = after
	}
	if at < 0 {
		return false
	}
	p.at, p.end, p.common, p.own, p.set = at, end, p.common[:0], p.own[:0], 0
	for rest := message; len(rest) > 0; {
		number, value, after, ok := bytesField(rest)
		if !ok {
			return false
		}
		field := rest[:len(rest)-len(after)]
		if i := slices.Index(a.own, number); i < 0 {
			p.common = append(p.common, field...)
		} else {
			p.own = append(p.own, field...)
			if len(value) > 0 {
				p.set |= 1 << i
			}
		}
		rest = after
	}
	return true
}

// template takes a body apart and returns the template that it has what it has in common
// from; nil if there is none.
func (a *alikes) template(body []byte, p *parts) *template {
	if !a.split(body, p) {
		return nil
	}
	return a.find(p.common)
}

// give gives o what it has in common with others, and returns what of the body has
// still to be decoded into it, in the memory of p.
func (a *alikes) give(o Object, body []byte, p *parts) []byte {
	t := a.template(body, p)
	if t == nil {
		return body
	}
	a.share(o, t.of)
	left := append(p.left[:0], body[:p.at]...)
	if len(p.own) > 0 {
		left = protowire.AppendBytes(protowire.AppendTag(left, a.field, protowire.BytesType), p.own)
	}
	p.left = append(left, body[p.end:]...)
	return p.left
}

// Settle gives an object that has been encoded as body what it has in common with
// others. Whoever has it for himself calls it, before he stores it.
func (r *Resource) Settle(o Object, body []byte) {
	c, _ := r.Codec.(protobufCodec)
	if c.alikes == nil {
		return
	}
	p := partings.Get().(*parts)
	defer partings.Put(p)
	if t := c.alikes.template(body, p); t != nil {
		c.alikes.share(o, t.of)
	}
}

// template is what the item has in common with others, and which of its own fields
// there are set; nil if nothing is known.
func (i *Item) template() (t *template, set uint32) {
	c, _ := i.Resource.Codec.(protobufCodec)
	if c.alikes == nil || i.body == nil {
		return nil, 0
	}
	p := partings.Get().(*parts)
	defer partings.Put(p)
	t = c.alikes.template(i.body, p)
	return t, p.set
}

// shared is the template for those who tell what is owned.
func (t *template) shared(set uint32) owned.Shared {
	if t == nil || !t.named.usable() {
		return owned.Shared{}
	}
	return owned.Shared{Key: "f:" + t.named.key, Own: set, Texts: &t.paths}
}

// find returns the template of a message, or nil if it cannot be decoded.
func (a *alikes) find(message []byte) *template {
	a.mu.Lock()
	t := a.known[string(message)]
	if t == nil {
		if t = a.older[string(message)]; t != nil {
			a.remember(string(message), t)
		}
	}
	a.mu.Unlock()
	if t != nil {
		return t
	}
	o := a.new()
	m, ok := o.(protobufObject)
	if !ok || m.Unmarshal(protowire.AppendBytes(protowire.AppendTag(nil, a.field, protowire.BytesType), message)) != nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	t = &template{alikes: a, of: o}
	a.remember(string(message), t)
	return t
}

// remember keeps a template until mostAlike others have come. The lock is held.
func (a *alikes) remember(message string, t *template) {
	if len(a.known) >= mostAlike || a.known == nil {
		a.known, a.older = map[string]*template{}, a.known
	}
	a.known[message] = t
}
