package kinds_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"proa/internal/api"
	"proa/internal/httpapi/openapi"
	"proa/internal/kinds"
)

// A schemaNode is what is read of a schema.
type schemaNode struct {
	Ref        string                 `json:"$ref"`
	AllOf      []schemaNode           `json:"allOf"`
	Type       string                 `json:"type"`
	Format     string                 `json:"format"`
	Properties map[string]*schemaNode `json:"properties"`
	Items      *schemaNode            `json:"items"`
	Values     *schemaNode            `json:"additionalProperties"`
	Kinds      []struct {
		Group, Version, Kind string
	} `json:"x-kubernetes-group-version-kind"`
}

type schemas map[string]*schemaNode

func loadSchemas(t *testing.T) schemas {
	t.Helper()
	var rs []*api.Resource
	for _, d := range kinds.All {
		rs = append(rs, d.Def())
	}
	raw, err := openapi.V3(openapi.Info{}, rs)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct{ Components struct{ Schemas schemas } }
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Components.Schemas
}

// of is the name of a kind's definition.
func (s schemas) of(t *testing.T, r *api.Resource) string {
	t.Helper()
	for name, n := range s {
		for _, k := range n.Kinds {
			if k.Group == r.Group && k.Version == r.Version && k.Kind == r.Kind && n.Properties["kind"] != nil {
				return name
			}
		}
	}
	t.Fatalf("no schema of %s", r.GVK())
	return ""
}

const objectMeta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"

// resolve follows arrays and maps to what they hold, and references to what
// they name; keyed says whether there was a map.
func (s schemas) resolve(n *schemaNode) (at *schemaNode, name string, keyed bool) {
	for {
		switch {
		case n.Items != nil:
			n, name = n.Items, ""
		case n.Values != nil && len(n.Properties) == 0:
			n, name, keyed = n.Values, "", true
		case len(n.AllOf) == 1:
			n = &n.AllOf[0]
		case n.Ref != "":
			name = strings.TrimPrefix(n.Ref, "#/components/schemas/")
			n = s[name]
		default:
			return n, name, keyed
		}
	}
}

// walk notes the leaves of a definition at a path.
func (s schemas) walk(c *coverage, name, path string, above []string) {
	if slices.Contains(above, name) {
		return // a type that holds itself is counted once
	}
	above = append(slices.Clip(above), name)
	for prop, n := range s[name].Properties {
		at := strings.TrimPrefix(path+"."+prop, ".")
		if len(s[name].Kinds) > 0 && slices.Contains([]string{"apiVersion", "kind", "status"}, prop) || at == "metadata" {
			continue
		}
		to, typ, keyed := s.resolve(n)
		if len(to.Properties) > 0 && typ != objectMeta {
			c.types[at], c.keyed[at] = typ, keyed
			s.walk(c, typ, at, above)
			continue
		}
		c.leaves[at] = true
		owner := strings.TrimPrefix(name, "io.k8s.api.") + "." + prop
		for _, sort := range []string{owner, "*." + prop, to.Type, to.Format} {
			if why := everywhere[sort]; why != "" {
				c.exempt[at] = why
			}
		}
	}
}

// pathOf is the field of an error's text.
func pathOf(text string) string {
	depth := 0
	for i, r := range text {
		switch {
		case r == '[':
			depth++
		case r == ']':
			depth--
		case r == ':' && depth <= 0:
			return text[:i]
		}
	}
	return text
}

// plain is a path without keys and indices.
func plain(path string) string {
	var out strings.Builder
	depth := 0
	for _, r := range path {
		switch {
		case r == '[':
			depth++
		case r == ']':
			depth--
		case depth == 0:
			out.WriteRune(r)
		}
	}
	return out.String()
}

// valuesOf are the values of a document by their paths without indices, and
// without the keys of maps of objects; null is a value, too.
func (c *coverage) valuesOf(t *testing.T, doc json.RawMessage) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	if doc == nil {
		return out
	}
	var v any
	if err := json.Unmarshal(doc, &v); err != nil {
		t.Fatal(err)
	}
	var walk func(v any, path string)
	walk = func(v any, path string) {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				at := strings.TrimPrefix(path+"."+k, ".")
				if e, ok := e.(map[string]any); ok && c.keyed[at] {
					for _, of := range e {
						walk(of, at)
					}
					continue
				}
				walk(e, at)
			}
		case []any:
			for _, e := range v {
				walk(e, path)
			}
		case nil:
			out[path] = append(out[path], "null")
		default:
			out[path] = append(out[path], fmt.Sprint(v))
		}
	}
	walk(v, "")
	return out
}

// onlyLeaf is the leaf of a patch at or below an object, if it gives no other.
func (c *coverage) onlyLeaf(patch map[string][]string, at string) (one string, ok bool) {
	for p := range patch {
		if !below(p, at) {
			continue
		}
		l, ok := c.leafAt(p)
		if !ok || (one != "" && one != l) {
			return "", false
		}
		one = l
	}
	return one, one != ""
}

// TestCoverageRules checks what covers a leaf and what does not.
func TestCoverageRules(t *testing.T) {
	for text, want := range map[string]string{
		`spec.ports[0].port: Invalid value: 0: must be`: "spec.ports.port",
		`data[a: b].x: Required value`:                  "data.x",
		`spec.a[b][1]: Duplicate value: "c"`:            "spec.a",
	} {
		if got := plain(pathOf(text)); got != want {
			t.Errorf("%s: have %s, want %s", text, got, want)
		}
	}
	c := &coverage{
		leaves: map[string]bool{"spec.a": true, "spec.b": true, "spec.in.c": true, "spec.in.d": true, "spec.in.deep.e": true},
		types:  map[string]string{"spec": "S", "spec.in": "I"}, invalid: map[string]bool{}, defaulted: map[string]bool{}, exempt: map[string]string{},
		table: table{Object: json.RawMessage(`{"spec":{"a":1}}`), Cases: []tableCase{
			{Create: json.RawMessage(`{"spec":{"in":{"c":1}}}`), Errors: []string{"spec.in: Forbidden: c is alone"}},
			{Create: json.RawMessage(`{"spec":{"in":{"c":1,"d":2}}}`), Errors: []string{"spec.in: Forbidden: both"}},
			{Create: json.RawMessage(`{"spec":{"in":{"deep":{"e":1}}}}`), Errors: []string{"spec.in: Forbidden: too high above e"}},
			{Want: json.RawMessage(`{"spec":{"a":1,"b":2}}`)},
		}},
	}
	c.count(t)
	if !c.invalid["spec.in.c"] || len(c.invalid) != 1 || !c.defaulted["spec.b"] || len(c.defaulted) != 1 {
		t.Errorf("have invalid %v, default %v", c.invalid, c.defaulted)
	}
	for path, fine := range map[string]bool{"spec.in.d": true, "spec.in.c": false, "spec.in.*": false, "spec.in.deep.*": true, "spec.nothing": false, "spec.b": false} {
		if why := c.excuse(exemption{path, "a reason"}, nil); (why == "") != fine {
			t.Errorf("exempt %s: %q", path, why)
		}
	}
	if c.excuse(exemption{Path: "spec.in.d"}, nil) == "" {
		t.Error("an exemption without a reason is taken")
	}
	all := map[string]*coverage{"other": {types: map[string]string{"x": "I", "y": "S"}}}
	for to, fine := range map[string]bool{"other x": true, "other y": false, "other": false, "none x": false} {
		if why := c.shares("spec.in", to, all); (why == "") != fine {
			t.Errorf("shared %s: %q", to, why)
		}
	}
}
