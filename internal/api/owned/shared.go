package owned

import (
	"strings"
	"sync"
)

// A Shared is the part of an object that it has in common with others, such as the spec
// of pods of one template. What is owned of it is told once for all of them. The
// zero Shared is none.
type Shared struct {
	Key   string // the step that leads to it: "f:spec"
	Own   uint32 // which of the fields in it that are the object's own are set; these are strings
	Texts *Texts
}

// Texts is what is known of one part by now.
type Texts struct {
	mu    sync.Mutex
	known map[textKey]*told
}

// A textKey is what the paths of a part follow from.
type textKey struct {
	except string // the short form of an entry
	status bool
	own    uint32
}

// told is what is known of one short form: what its owner does not own, and the paths
// of the part that he does own, if somebody has asked.
type told struct {
	skip Set
	once sync.Once
	text string
}

// mostTold is how many short forms are known of one part: an object that has an
// exception to itself must not crowd out the others for ever, nor fill the memory.
const mostTold = 16

// of is what is known of the short form of an entry. The answer for the zero Shared is kept nowhere.
func (c *Shared) of(except string, status bool) *told {
	fresh := func() *told { return &told{skip: nobodys(status).Union(parsed(except))} }
	if c.Texts == nil {
		return fresh()
	}
	key := textKey{except, status, c.Own}
	c.Texts.mu.Lock()
	defer c.Texts.mu.Unlock()
	if t := c.Texts.known[key]; t != nil {
		return t
	}
	if c.Texts.known == nil || len(c.Texts.known) >= mostTold {
		c.Texts.known = map[textKey]*told{}
	}
	t := fresh()
	c.Texts.known[key] = t
	return t
}

// parsed is a set as it is stored; of what cannot be read, the empty one.
func parsed(text string) Set {
	s, err := Parse(text)
	if err != nil {
		return Set{} // as of an entry that is not there
	}
	return s
}

// print prints the paths of the part by print, if nobody has done that yet.
func (t *told) print(p *printer, print func()) {
	start := len(p.b)
	t.once.Do(func() {
		print()
		t.text = strings.TrimPrefix(string(p.b[start:]), ",")
	})
	if len(p.b) > start || t.text == "" {
		return
	}
	p.comma()
	p.b = append(p.b, t.text...)
}
