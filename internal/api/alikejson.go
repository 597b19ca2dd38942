package api

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// commonJSON knows how the JSON of what copies have in common, and of what each has to
// itself in between, are one object. Of a template it is kept in pieces: what comes
// before the first of the own fields, between it and the next, and so on.
type commonJSON struct {
	key  string   // of the field in the object
	own  []string // keys of the own fields in it, in the order in which they are written
	rank map[string]int
}

// newCommonJSON looks at the Go type; what it returns is not usable if that has no such field.
func newCommonJSON(object reflect.Type, field int, own []int) (c commonJSON) {
	f, key := numbered(object, field)
	if key == "" || f.Type.Kind() != reflect.Struct {
		return c
	}
	c.rank = map[string]int{}
	for i := range f.Type.NumField() {
		key := jsonKey(f.Type.Field(i))
		if key == "" {
			return commonJSON{}
		}
		c.rank[key] = i
	}
	for _, n := range own {
		f, key := numbered(f.Type, n)
		if key == "" || f.Type.Kind() != reflect.String {
			return commonJSON{}
		}
		c.own = append(c.own, key)
	}
	slices.SortFunc(c.own, func(a, b string) int { return c.rank[a] - c.rank[b] })
	c.key = key
	return c
}

func (c *commonJSON) usable() bool { return c.key != "" }

// numbered is the field of a struct that has a number in its protobuf form, and its key in JSON.
func numbered(t reflect.Type, number int) (f reflect.StructField, key string) {
	for i := range t.NumField() {
		f := t.Field(i)
		if parts := strings.Split(f.Tag.Get("protobuf"), ","); len(parts) > 1 && parts[1] == strconv.Itoa(number) {
			return f, jsonKey(f)
		}
	}
	return f, ""
}

// jsonKey is empty of a field that has no key of its own.
func jsonKey(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// pieces are the JSON of t in pieces, made when it is asked for the second time: what has no
// copies needs none. Nil if it is not there.
func (t *template) pieces() [][]byte {
	if p := t.text.Load(); p != nil {
		return *p
	}
	if !t.named.usable() || t.uses.Add(1) < 2 {
		return nil
	}
	b, err := json.Marshal(t.of)
	if err != nil {
		return nil
	}
	from, to := t.named.find(b, endOfMetadata(b))
	if from < 0 {
		return nil
	}
	out := make([][]byte, len(t.named.own)+1)
	members(b[from:to], func(key string, member []byte) {
		at := 0
		for at < len(t.named.own) && t.named.rank[t.named.own[at]] < t.named.rank[key] {
			at++
		}
		if len(out[at]) > 0 {
			out[at] = append(out[at], ',')
		}
		out[at] = append(out[at], member...)
	})
	t.text.Store(&out)
	return out
}

// find finds the field's value in JSON of an object that encoding/json has written,
// which has it right after its metadata, that ends at end; from is negative if it does not.
func (c *commonJSON) find(b []byte, end int) (from, to int) {
	if end < 0 {
		return -1, 0
	}
	rest, ok := bytes.CutPrefix(b[end+1:], []byte(`,"`+c.key+`":`))
	if !ok || len(rest) == 0 || rest[0] != '{' {
		return -1, 0
	}
	from = len(b) - len(rest)
	return from, endOfValue(b, from) + 1
}

// appendTo appends the field's value of a copy: the pieces, and from its own value, in
// which is nothing else that counts, the own fields.
func (c *commonJSON) appendTo(dst []byte, pieces [][]byte, own []byte) []byte {
	dst = append(dst, '{')
	add := func(member []byte) {
		if len(member) == 0 {
			return
		}
		if dst[len(dst)-1] != '{' {
			dst = append(dst, ',')
		}
		dst = append(dst, member...)
	}
	at := 0
	members(own, func(key string, member []byte) {
		i := slices.Index(c.own, key)
		if i < 0 {
			return
		}
		for ; at <= i; at++ {
			add(pieces[at])
		}
		add(member)
	})
	for ; at < len(pieces); at++ {
		add(pieces[at])
	}
	return append(dst, '}')
}

// members goes through the members of an object that encoding/json has written.
func members(object []byte, do func(key string, member []byte)) {
	for i := 1; i < len(object) && object[i] == '"'; {
		start := i
		i = endOfValue(object, i) + 1
		key := object[start+1 : i-1]
		i = endOfValue(object, i+1) + 1
		do(string(key), object[start:i])
		if i < len(object) && object[i] == ',' {
			i++
		}
	}
}

// endOfValue is the place of the last byte of the value in JSON without spaces that begins at i.
func endOfValue(b []byte, i int) int {
	depth := 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i
			}
			if depth < 0 {
				return i - 1 // of a number or a word at the end
			}
		case ',':
			if depth == 0 {
				return i - 1
			}
		}
	}
	return i - 1
}
