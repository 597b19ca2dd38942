package conformance

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// vars is what a row knows by name.
type vars map[string]string

var variable = regexp.MustCompile(`\$(\$|[a-zA-Z]\w*)`)

// expand puts in what the variables stand for.
func (v vars) expand(s string) (string, error) {
	var err error
	out := variable.ReplaceAllStringFunc(s, func(m string) string {
		if m == "$$" {
			return "$"
		}
		value, ok := v[m[1:]]
		if !ok {
			err = fmt.Errorf("nothing has set %s", m)
		}
		return value
	})
	return out, err
}

// expandAll expands every string in a tree of JSON values.
func (v vars) expandAll(x any) (any, error) {
	var err error
	switch x := x.(type) {
	case string:
		if strings.HasPrefix(x, "~") { // a dollar may be part of an expression
			return v.expandKnown(x), nil
		}
		return v.expand(x)
	case []any:
		out := make([]any, len(x))
		for i := range x {
			if out[i], err = v.expandAll(x[i]); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		out := make(map[string]any, len(x))
		for k := range x {
			key, err := v.expand(k)
			if err != nil {
				return nil, err
			}
			if out[key], err = v.expandAll(x[k]); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return x, nil
}

func (v vars) expandKnown(s string) string {
	return variable.ReplaceAllStringFunc(s, func(m string) string {
		if value, ok := v[m[1:]]; ok {
			return value
		}
		return m
	})
}

// A matcher compares an answer with what is expected and collects the differences.
type matcher struct {
	vars vars
	diff []string
}

func (m *matcher) fail(path, format string, args ...any) {
	if path == "" {
		path = "."
	}
	m.diff = append(m.diff, path+": "+fmt.Sprintf(format, args...))
}

func (m *matcher) match(path string, got, want any) {
	switch w := want.(type) {
	case nil:
		if !empty(got) {
			m.fail(path, "got %s, want it absent", show(got))
		}
	case map[string]any:
		m.matchMap(path, got, w)
	case []any:
		m.matchList(path, got, w)
	case string:
		m.matchString(path, got, w)
	default:
		if !reflect.DeepEqual(got, want) {
			m.fail(path, "got %s, want %s", show(got), show(want))
		}
	}
}

// empty is what leaves no trace in an object.
func empty(v any) bool {
	switch x := v.(type) {
	case nil:
		return true
	case []any:
		return len(x) == 0
	case map[string]any:
		return len(x) == 0
	case string:
		return x == ""
	}
	return false
}

func (m *matcher) matchMap(path string, got any, want map[string]any) {
	g, ok := got.(map[string]any)
	if !ok && !(got == nil && allAbsent(want)) {
		m.fail(path, "got %s, want %s", show(got), show(want))
		return
	}
	for _, k := range sortedKeys(want) {
		at := k
		if path != "" {
			at = path + "." + k
		}
		if want[k] == nil {
			if v, there := g[k]; there && v != nil {
				m.fail(at, "got %s, want it absent", show(v))
			}
			continue
		}
		m.match(at, g[k], want[k])
	}
}

func allAbsent(want map[string]any) bool {
	for _, v := range want {
		if v != nil {
			return false
		}
	}
	return len(want) > 0
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (m *matcher) matchList(path string, got any, want []any) {
	g, ok := got.([]any)
	if !ok && got != nil {
		m.fail(path, "got %s, want a list", show(got))
		return
	}
	if len(want) > 0 && want[0] == "..." {
		for _, w := range want[1:] {
			m.contains(path, g, w)
		}
		return
	}
	if len(g) != len(want) {
		m.fail(path, "got %d elements, want %d: %s", len(g), len(want), show(got))
		return
	}
	for i := range want {
		m.match(fmt.Sprintf("%s[%d]", path, i), g[i], want[i])
	}
}

func (m *matcher) contains(path string, got []any, want any) {
	for _, e := range got {
		try := matcher{vars: vars{}}
		for k, v := range m.vars {
			try.vars[k] = v
		}
		if try.match("", e, want); len(try.diff) == 0 {
			m.match(path, e, want) // to set what it sets
			return
		}
	}
	m.fail(path, "no element is like %s: %s", show(want), show(got))
}

var special = regexp.MustCompile(`^<(any|set|not|above|count)(?: (.*))?>$`)

func (m *matcher) matchString(path string, got any, want string) {
	if re, ok := strings.CutPrefix(want, "~"); ok {
		s, isString := got.(string)
		if exp, err := regexp.Compile("(?s)" + re); err != nil {
			m.fail(path, "%v", err)
		} else if !isString || !exp.MatchString(s) {
			m.fail(path, "got %s, want a match of %s", show(got), re)
		}
		return
	}
	sp := special.FindStringSubmatch(want)
	if sp == nil {
		if got != want {
			m.fail(path, "got %s, want %s", show(got), show(want))
		}
		return
	}
	text := fmt.Sprint(got)
	switch got.(type) {
	case map[string]any, []any:
		if b, err := json.Marshal(got); err == nil {
			text = string(b)
		}
	}
	if f, ok := got.(float64); ok {
		text = strconv.FormatFloat(f, 'f', -1, 64)
	}
	switch sp[1] {
	case "any", "set":
		if empty(got) {
			m.fail(path, "it is absent")
		} else if sp[1] == "set" {
			m.vars[sp[2]] = text
		}
	case "not":
		if text == sp[2] {
			m.fail(path, "got %s, want another", text)
		}
	case "above":
		g, err1 := strconv.ParseInt(text, 10, 64)
		w, err2 := strconv.ParseInt(sp[2], 10, 64)
		if err1 != nil || err2 != nil || g <= w {
			m.fail(path, "got %s, want more than %s", text, sp[2])
		}
	case "count":
		if l, _ := got.([]any); strconv.Itoa(len(l)) != sp[2] {
			m.fail(path, "got %d elements, want %s: %s", len(l), sp[2], show(got))
		}
	}
}

// show is a value in one line, cut if it is long.
func show(v any) string {
	if v == nil {
		return "nothing"
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	if len(b) > 600 {
		return string(b[:600]) + "…"
	}
	return string(b)
}

// showAll is a value as YAML, indented.
func showAll(v any) string {
	if s, ok := v.(string); ok {
		return indent(s)
	}
	b, err := yaml.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return indent(string(b))
}

func indent(s string) string {
	const most = 4000
	if len(s) > most {
		s = s[:most] + "…"
	}
	return "    " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n    ")
}
