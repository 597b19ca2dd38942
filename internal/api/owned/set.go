// Package owned tells which fields of an object a writer owns: what the API
// shows as metadata.managedFields (KEP-555). It works on Go types, without
// schemas and without converting objects, and knows a short form for the usual
// case: whoever made an object owns all of it, some fields excepted.
//
// The results are those of sigs.k8s.io/structured-merge-diff, which is what
// applies use; the tests compare the two.
package owned

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Set is a set of paths in an object. The zero value is empty. Sets are
// values: the functions below do not change their operands and may share parts
// of them.
type Set struct {
	elems []elem // ascending, see order
}

// An elem is one step of a path: "f:name" (a field), `k:{"name":"x"}` (an item
// of a list, by its keys) or `v:"x"` (an item of a set).
type elem struct {
	key    string
	member bool // the path that ends here is in the set
	all    bool // and so is every path that goes on from here: in exceptions only
	kids   Set
}

// Empty says whether there is no path in the set.
func (s Set) Empty() bool { return len(s.elems) == 0 }

// order compares steps as structured-merge-diff does: numbers by their value,
// all else by bytes.
func order(a, b string) int {
	n := min(len(a), len(b))
	i := 0
	for i < n && a[i] == b[i] {
		i++
	}
	if i == n || a[0] == 'f' || !digit(a[i]) && !digit(b[i]) {
		return strings.Compare(a, b)
	}
	j := i
	for j > 0 && digit(a[j-1]) {
		j--
	}
	if j == 0 || a[j-1] != ':' {
		return strings.Compare(a, b)
	}
	if d := digits(a[j:]) - digits(b[j:]); d != 0 {
		return d
	}
	return strings.Compare(a, b)
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

func digits(s string) (n int) {
	for n < len(s) && digit(s[n]) {
		n++
	}
	return n
}

// add appends a step if it holds anything.
func (s *Set) add(key string, member bool, kids Set) {
	if member || !kids.Empty() {
		s.elems = append(s.elems, elem{key: key, member: member, kids: kids})
	}
}

// Put adds a path to s, in place. all says that everything below is meant too.
func (s *Set) Put(all bool, path ...string) {
	i := 0
	for i < len(s.elems) && order(s.elems[i].key, path[0]) < 0 {
		i++
	}
	if i == len(s.elems) || s.elems[i].key != path[0] {
		s.elems = slices.Insert(s.elems, i, elem{key: path[0]})
	}
	e := &s.elems[i]
	switch {
	case e.all:
	case len(path) > 1:
		e.kids.Put(all, path[1:]...)
	case all:
		*e = elem{key: e.key, member: true, all: true}
	default:
		e.member = true
	}
}

// whole says whether a path of s means everything below it.
func (s Set) whole() bool {
	return slices.ContainsFunc(s.elems, func(e elem) bool { return e.all || e.kids.whole() })
}

// Item is the step to the item of a list that has one key, a string.
func Item(key, value string) string { return `k:{"` + key + `":"` + value + `"}` }

// sort puts steps in order that were added in another one.
func (s *Set) sort() {
	byKey := func(a, b elem) int { return order(a.key, b.key) }
	if !slices.IsSortedFunc(s.elems, byKey) {
		slices.SortFunc(s.elems, byKey)
	}
}

// zip calls f for every step of a or b; the absent one is the zero elem.
func zip(a, b Set, f func(x, y elem)) {
	i, j := 0, 0
	for i < len(a.elems) || j < len(b.elems) {
		var c int
		switch {
		case i == len(a.elems):
			c = 1
		case j == len(b.elems):
			c = -1
		default:
			c = order(a.elems[i].key, b.elems[j].key)
		}
		var x, y elem
		if c <= 0 {
			x = a.elems[i]
			i++
		}
		if c >= 0 {
			y = b.elems[j]
			j++
		}
		f(x, y)
	}
}

// Union returns the paths of both.
func (s Set) Union(b Set) (out Set) {
	switch {
	case s.Empty():
		return b
	case b.Empty():
		return s
	}
	out.elems = make([]elem, 0, max(len(s.elems), len(b.elems)))
	zip(s, b, func(x, y elem) {
		switch {
		case x.all:
			out.elems = append(out.elems, x)
		case y.all:
			out.elems = append(out.elems, y)
		default:
			out.add(max(x.key, y.key), x.member || y.member, x.kids.Union(y.kids))
		}
	})
	return out
}

// Minus returns the paths of s that are not in b.
func (s Set) Minus(b Set) (out Set) {
	if s.Empty() || b.Empty() {
		return s
	}
	out.elems = make([]elem, 0, len(s.elems))
	zip(s, b, func(x, y elem) {
		switch {
		case y.all:
		case x.all:
			out.elems = append(out.elems, x)
		default:
			out.add(x.key, x.member && !y.member, x.kids.Minus(y.kids))
		}
	})
	return out
}

// Meets says whether a path is in both.
func (s Set) Meets(b Set) (yes bool) {
	if s.Empty() || b.Empty() {
		return false
	}
	zip(s, b, func(x, y elem) { yes = yes || x.member && y.member || x.kids.Meets(y.kids) })
	return yes
}

// without returns s without all that is at or below a top-level field.
func (s Set) without(field string) Set {
	i := slices.IndexFunc(s.elems, func(e elem) bool { return e.key == field })
	if i < 0 {
		return s
	}
	return Set{slices.Concat(s.elems[:i], s.elems[i+1:])}
}

// String is the set as JSON, in the form of FieldsV1.
func (s Set) String() string { return string(s.append(nil, false)) }

func (s Set) append(b []byte, member bool) []byte {
	b = append(b, '{')
	if member && len(s.elems) > 0 {
		b = append(b, `".":{}`...)
	}
	for i := range s.elems {
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		e := &s.elems[i]
		b = append(appendString(b, e.key), ':')
		if e.all {
			b = append(b, `{"*":{}}`...)
		} else {
			b = e.kids.append(b, e.member)
		}
	}
	return append(b, '}')
}

// appendString appends s as a JSON string.
func appendString(b []byte, s string) []byte {
	return appendRest(append(b, '"'), s)
}

// appendRest appends what follows in a JSON string that was begun, and its end.
func appendRest(b []byte, s string) []byte {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c < ' ':
			b = append(b, fmt.Sprintf(`\u%04x`, c)...)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

var errSet = errors.New("not a set of fields")

// maxDepth bounds how deep sets are nested; no object is that deep.
const maxDepth = 200

// Parse reads a set from FieldsV1.
func Parse(s string) (Set, error) {
	p := parser{s: s}
	if strings.TrimSpace(s) == "" {
		return Set{}, nil
	}
	set, _, _, err := p.set(0)
	if p.space(); err == nil && p.at < len(p.s) {
		err = errSet
	}
	return set, err
}

type parser struct {
	s  string
	at int
}

func (p *parser) space() {
	for p.at < len(p.s) && strings.IndexByte(" \t\r\n", p.s[p.at]) >= 0 {
		p.at++
	}
}

// take passes c over, if it is next.
func (p *parser) take(c byte) bool {
	p.space()
	if p.at < len(p.s) && p.s[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *parser) set(depth int) (s Set, member, all bool, err error) {
	if !p.take('{') || depth > maxDepth {
		return s, false, false, errSet
	}
	if p.take('}') {
		return s, true, false, nil
	}
	for {
		key, err := p.string()
		if err != nil || !p.take(':') {
			return s, false, false, errSet
		}
		kids, self, below, err := p.set(depth + 1)
		switch {
		case err != nil:
			return s, false, false, err
		case key == ".":
			member = true
		case key == "*":
			member, all = true, true
		case len(key) < 2 || key[1] != ':' || strings.IndexByte("fkvi", key[0]) < 0:
			return s, false, false, errSet
		case below:
			s.elems = append(s.elems, elem{key: key, member: true, all: true})
		default:
			s.add(key, self, kids)
		}
		if p.take('}') {
			break
		}
		if !p.take(',') {
			return s, false, false, errSet
		}
	}
	s.sort()
	return s, member, all, nil
}

func (p *parser) string() (string, error) {
	if !p.take('"') {
		return "", errSet
	}
	start := p.at
	for p.at < len(p.s) {
		switch c := p.s[p.at]; {
		case c == '"':
			p.at++
			return p.s[start : p.at-1], nil
		case c == '\\':
			return p.escaped(start)
		case c < ' ':
			return "", errSet
		}
		p.at++
	}
	return "", errSet
}

// escaped goes on with a string in which something is escaped.
func (p *parser) escaped(start int) (string, error) {
	for p.at < len(p.s) && p.s[p.at] != '"' {
		if p.s[p.at] == '\\' {
			p.at++
		}
		p.at++
	}
	if p.at >= len(p.s) {
		return "", errSet
	}
	p.at++
	raw := p.s[start-1 : p.at]
	if !strings.Contains(raw, `\/`) && !strings.Contains(raw, `\u`) {
		return strconv.Unquote(raw)
	}
	return unquoteJSON(raw)
}
