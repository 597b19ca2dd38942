package crd

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/jsonpath"
)

// A path finds one value in an object: a simple JSON path, as definitions have
// them for columns, selectable fields and replica counts.
type path struct {
	steps []string // of nothing but names; nil if it is more than that
	text  string

	once   sync.Once
	mu     sync.Mutex // a parsed path can be used by one at a time only
	parsed *jsonpath.JSONPath
}

// newPath parses a path that begins with a dot.
func newPath(text string) *path {
	p := &path{text: text}
	rest, ok := strings.CutPrefix(text, ".")
	if ok && rest != "" && !strings.ContainsAny(rest, `[]'"\*?@()$ {}`) && !strings.Contains(rest, "..") {
		p.steps = strings.Split(rest, ".")
	}
	return p
}

func (p *path) compiled() *jsonpath.JSONPath {
	p.once.Do(func() {
		j := jsonpath.New("path").AllowMissingKeys(true)
		if j.Parse("{"+p.text+"}") == nil {
			p.parsed = j
		}
	})
	return p.parsed
}

// of returns the value in an object; false if there is none.
func (p *path) of(o *Object) (any, bool) {
	if p.steps == nil {
		return p.search(o)
	}
	if p.steps[0] == "metadata" {
		if len(p.steps) == 2 && p.steps[1] == "creationTimestamp" && !o.CreationTimestamp.IsZero() {
			return o.CreationTimestamp.UTC().Format("2006-01-02T15:04:05Z"), true
		}
		return lookup(o.UnstructuredContent(), p.steps)
	}
	if len(p.steps) == 1 && (p.steps[0] == "kind" || p.steps[0] == "apiVersion") {
		return lookup(o.UnstructuredContent(), p.steps)
	}
	return lookup(o.Fields, p.steps)
}

func lookup(in map[string]any, steps []string) (any, bool) {
	for i, s := range steps {
		v, ok := in[s]
		if !ok || v == nil {
			return nil, false
		}
		if i == len(steps)-1 {
			return v, true
		}
		if in, ok = v.(map[string]any); !ok {
			return nil, false
		}
	}
	return nil, false
}

func (p *path) search(o *Object) (any, bool) {
	j := p.compiled()
	if j == nil {
		return nil, false
	}
	content := o.UnstructuredContent()
	p.mu.Lock()
	defer p.mu.Unlock()
	found, err := j.FindResults(content)
	if err != nil || len(found) == 0 || len(found[0]) == 0 {
		return nil, false
	}
	v := found[0][0].Interface()
	return v, v != nil
}

// print is a value as a column of strings shows it.
func (p *path) print(v any) (string, bool) {
	if s, ok := v.(string); ok {
		return s, true
	}
	j := p.compiled()
	if j == nil {
		return "", false
	}
	var b bytes.Buffer
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := j.PrintResults(&b, []reflect.Value{reflect.ValueOf(v)}); err != nil {
		return "", false
	}
	return b.String(), true
}

// selected is the value of a selectable field: text, empty if there is none.
func (p *path) selected(o *Object) string {
	v, ok := p.of(o)
	if !ok {
		return ""
	}
	if s, ok := v.(string); ok {
		return s
	}
	return fmt.Sprint(v)
}

// number is the value of a replica count; false if there is none.
func (p *path) number(o *Object) (int64, bool) {
	v, _ := p.of(o)
	n, ok := v.(int64)
	return n, ok
}

// set puts a value in the place, making what leads there.
func (p *path) set(o *Object, v any) {
	in := o.Fields
	for i, s := range p.steps {
		if i == len(p.steps)-1 {
			in[s] = v
			return
		}
		next, ok := in[s].(map[string]any)
		if !ok {
			next = map[string]any{}
			in[s] = next
		}
		in = next
	}
}

// date is a time as a column shows it.
func date(v any) any {
	s, ok := v.(string)
	if !ok {
		return nil
	}
	var t metav1.Time
	if t.UnmarshalQueryParameter(s) != nil {
		return "<invalid>"
	}
	return age(t)
}
