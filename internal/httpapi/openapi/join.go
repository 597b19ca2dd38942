package openapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// An Other is the OpenAPI v2 document of another server, of which the paths at
// and below one are taken over.
type Other struct {
	Under    string // "/apis/group/version"
	Document []byte
}

// A shelf is one section of a document that references point into.
type shelf = map[string]json.RawMessage

// A joint is a v2 document that others are added to.
type joint struct {
	doc     map[string]json.RawMessage
	paths   shelf
	shelves map[string]shelf // "definitions" and "parameters"
}

var shelves = []string{"definitions", "parameters"}

// join adds others to a document. What they lead to comes along, under another
// name if there is something else by that name. One that cannot be read is left out.
func join(doc []byte, others []Other) ([]byte, error) {
	j := joint{}
	if err := json.Unmarshal(doc, &j.doc); err != nil {
		return nil, fmt.Errorf("read the OpenAPI v2 document that others are added to: %w", err)
	}
	var err error
	if j.paths, j.shelves, err = open(j.doc); err != nil {
		return nil, fmt.Errorf("read the OpenAPI v2 document that others are added to: %w", err)
	}
	for _, o := range others {
		var from map[string]json.RawMessage
		if json.Unmarshal(o.Document, &from) != nil {
			continue
		}
		if paths, theirs, err := open(from); err == nil {
			j.add(o.Under, paths, theirs)
		}
	}
	for _, name := range shelves {
		if len(j.shelves[name]) > 0 {
			j.doc[name], err = json.Marshal(j.shelves[name])
		}
		if err != nil {
			return nil, err
		}
	}
	if j.doc["paths"], err = json.Marshal(j.paths); err != nil {
		return nil, err
	}
	return json.Marshal(j.doc)
}

// open reads the sections of a document that are joined.
func open(doc map[string]json.RawMessage) (paths shelf, by map[string]shelf, err error) {
	paths, by = shelf{}, map[string]shelf{}
	if err := json.Unmarshal(doc["paths"], &paths); err != nil {
		return nil, nil, fmt.Errorf("paths: %w", err)
	}
	for _, name := range shelves {
		entries := shelf{}
		if raw := doc[name]; raw != nil {
			if err := json.Unmarshal(raw, &entries); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		by[name] = entries
	}
	return paths, by, nil
}

var pointers = regexp.MustCompile(`("\$ref"\s*:\s*"#/)(definitions|parameters)/([^"]*)"`)

// A place is where a reference points: a name on a shelf.
type place struct{ shelf, name string }

// add takes over the paths under a prefix and what they lead to.
func (j *joint) add(under string, paths shelf, theirs map[string]shelf) {
	mine := maps.Clone(paths)
	maps.DeleteFunc(mine, func(p string, _ json.RawMessage) bool { return p != under && !strings.HasPrefix(p, under+"/") })
	needed := map[place]bool{}
	for _, raw := range mine {
		reach(raw, theirs, needed)
	}
	names := j.names(needed, theirs)
	for at := range needed {
		j.shelves[at.shelf][names[at]] = renamed(theirs[at.shelf][at.name], names)
	}
	for p, raw := range mine {
		j.paths[p] = renamed(raw, names)
	}
}

// reach notes everything that a part of a document refers to.
func reach(raw json.RawMessage, theirs map[string]shelf, seen map[place]bool) {
	for _, m := range pointers.FindAllSubmatch(raw, -1) {
		at := place{string(m[2]), string(m[3])}
		next, ok := theirs[at.shelf][at.name]
		if ok && !seen[at] {
			seen[at] = true
			reach(next, theirs, seen)
		}
	}
}

// names finds a name for everything that comes along: its own if that is free or
// means the same here, else one with a number. What refers to something renamed
// does not mean the same any more.
func (j *joint) names(needed map[place]bool, theirs map[string]shelf) map[place]string {
	names := map[place]string{}
	order := slices.SortedFunc(maps.Keys(needed), func(a, b place) int { return strings.Compare(a.shelf+"/"+a.name, b.shelf+"/"+b.name) })
	differs := map[place]bool{}
	for _, at := range order {
		have, ok := j.shelves[at.shelf][at.name]
		differs[at] = ok && !equal(have, theirs[at.shelf][at.name])
	}
	for again := true; again; {
		again = false
		for _, at := range order {
			if _, there := j.shelves[at.shelf][at.name]; differs[at] || !there {
				continue
			}
			for _, m := range pointers.FindAllSubmatch(theirs[at.shelf][at.name], -1) {
				if differs[place{string(m[2]), string(m[3])}] {
					differs[at], again = true, true
				}
			}
		}
	}
	taken := map[place]bool{}
	for _, at := range order {
		name := at.name
		for i := 2; differs[at]; i++ {
			name = fmt.Sprintf("%s_v%d", at.name, i)
			_, here := j.shelves[at.shelf][name]
			if _, there := theirs[at.shelf][name]; !here && !there && !taken[place{at.shelf, name}] {
				break
			}
		}
		taken[place{at.shelf, name}] = true
		names[at] = name
	}
	return names
}

// renamed is a part of a document with its references under their new names.
func renamed(raw json.RawMessage, names map[place]string) json.RawMessage {
	return pointers.ReplaceAllFunc(raw, func(ref []byte) []byte {
		m := pointers.FindSubmatch(ref)
		name, ok := names[place{string(m[2]), string(m[3])}]
		if !ok {
			return ref
		}
		return slices.Concat(m[1], m[2], []byte("/"+name+`"`))
	})
}

// equal says whether two parts of documents are the same, however they are spaced.
func equal(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	return bytes.Equal(canonical(a), canonical(b))
}

func canonical(raw json.RawMessage) []byte {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return raw
	}
	out, err := json.Marshal(v)
	if err != nil {
		return raw
	}
	return out
}
