package openapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
)

// Info is the title page of a document.
type Info struct {
	Title   string `json:"title"`
	Version string `json:"version"`
}

// V3 is the OpenAPI v3 document of the resources of one group and version.
func V3(info Info, resources []*api.Resource) ([]byte, error) {
	return build(info, resources, false)
}

// V2 is the OpenAPI v2 document of all resources, and of what others say.
func V2(info Info, resources []*api.Resource, others ...Other) ([]byte, error) {
	doc, err := build(info, resources, true)
	if err != nil || len(others) == 0 {
		return doc, err
	}
	return join(doc, others)
}

// A builder makes one document: paths, and the definitions that they lead to.
type builder struct {
	old   bool // OpenAPI v2
	defs  *definitions
	names map[string]bool // definitions that paths name
	extra map[string]json.RawMessage
	paths map[string]map[string]any
	errs  []error
}

// V2Proto is V2's document in protobuf (gnostic's openapi.v2.Document).
func V2Proto(info Info, resources []*api.Resource, others ...Other) ([]byte, error) {
	text, err := V2(info, resources, others...)
	if err != nil {
		return nil, err
	}
	doc, err := openapi_v2.ParseDocument(text)
	if err != nil && len(others) > 0 {
		return V2Proto(info, resources) // somebody else's is not as it should be
	}
	if err != nil {
		return nil, fmt.Errorf("OpenAPI v2 in protobuf: %w", err)
	}
	return proto.Marshal(doc)
}

func build(info Info, resources []*api.Resource, old bool) ([]byte, error) {
	defs, err := unpack()
	if err != nil {
		return nil, err
	}
	b := &builder{old: old, defs: defs, names: map[string]bool{}, extra: map[string]json.RawMessage{}, paths: map[string]map[string]any{}}
	for _, r := range resources {
		b.resource(r)
	}
	head, err1 := json.Marshal(info)
	paths, err2 := json.Marshal(b.paths)
	if err := errors.Join(append(b.errs, err1, err2)...); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if old {
		out.WriteString(`{"swagger":"2.0","info":`)
	} else {
		out.WriteString(`{"openapi":"3.0.0","info":`)
	}
	out.Write(head)
	out.WriteString(`,"paths":`)
	out.Write(paths)
	if old {
		out.WriteString(`,"definitions":{`)
	} else {
		out.WriteString(`,"components":{"schemas":{`)
	}
	b.schemas(&out)
	if old {
		out.WriteString(`},"securityDefinitions":{"BearerToken":` + bearer + `},"security":[{"BearerToken":[]}]}`)
	} else {
		out.WriteString(`},"securitySchemes":{"BearerToken":` + bearer + `}}}`)
	}
	return out.Bytes(), nil
}

const bearer = `{"type":"apiKey","description":"Bearer Token authentication","name":"authorization","in":"header"}`

func (b *builder) schemas(out *bytes.Buffer) {
	first := true
	add := func(name string, schema []byte) {
		if !first {
			out.WriteByte(',')
		}
		first = false
		key, _ := json.Marshal(name)
		out.Write(key)
		out.WriteByte(':')
		out.Write(schema)
	}
	for _, name := range b.defs.reach(b.names) {
		if b.old {
			add(name, b.defs.old(name))
		} else {
			add(name, b.defs.v3[name])
		}
	}
	for name, schema := range b.extra {
		if b.old {
			schema = swapRefs(schema)
		}
		add(name, schema)
	}
}

const metaName = "io.k8s.apimachinery.pkg.apis.meta.v1."

// ref is a schema that names a definition.
func (b *builder) ref(name string) map[string]any {
	b.names[name] = true
	if b.old {
		return map[string]any{"$ref": "#/definitions/" + name}
	}
	return map[string]any{"$ref": "#/components/schemas/" + name}
}

// define names the definition of a resource's kind, making up one that takes
// anything if there is none.
func (b *builder) define(r *api.Resource) (name, list string) {
	if r.Models != nil {
		return b.custom(r)
	}
	if n, ok := r.New().(interface{ OpenAPIModelName() string }); ok {
		name = n.OpenAPIModelName()
	} else {
		name = reverse(r.Group) + r.Version + "." + r.Kind
	}
	list = name[:strings.LastIndexByte(name, '.')+1] + r.ListKind
	if b.defs.v3[name] == nil {
		b.extra[name] = mustJSON(map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true,
			"x-kubernetes-group-version-kind": kinds(r.GVK()), "properties": map[string]any{
				"apiVersion": map[string]any{"type": "string"}, "kind": map[string]any{"type": "string"},
				"metadata": map[string]any{"allOf": []any{map[string]any{"$ref": "#/components/schemas/" + metaName + "ObjectMeta"}}},
			}})
		b.names[metaName+"ObjectMeta"] = true
	}
	if !r.Virtual && b.defs.v3[list] == nil {
		b.extra[list] = mustJSON(map[string]any{"type": "object", "required": []string{"items"},
			"x-kubernetes-group-version-kind": kinds(r.GroupVersion().WithKind(r.ListKind)), "properties": map[string]any{
				"apiVersion": map[string]any{"type": "string"}, "kind": map[string]any{"type": "string"},
				"metadata": map[string]any{"allOf": []any{map[string]any{"$ref": "#/components/schemas/" + metaName + "ListMeta"}}},
				"items":    map[string]any{"type": "array", "items": map[string]any{"$ref": "#/components/schemas/" + name}},
			}})
		b.names[metaName+"ListMeta"] = true
	}
	return name, list
}

// custom is define for a custom resource, which has its own definitions.
func (b *builder) custom(r *api.Resource) (name, list string) {
	m, err := r.Models(b.old)
	if err != nil {
		b.errs = append(b.errs, err)
		return "", ""
	}
	maps.Copy(b.extra, m.Definitions)
	for _, n := range m.Needs {
		b.names[n] = true
	}
	return m.Name, m.List
}

func mustJSON(v map[string]any) json.RawMessage {
	out, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps of strings
	}
	return out
}

func reverse(group string) string {
	parts := strings.Split(group, ".")
	out := ""
	for i := len(parts) - 1; i >= 0; i-- {
		out += parts[i] + "."
	}
	return out
}

type gvk struct {
	Group   string `json:"group"`
	Version string `json:"version"`
	Kind    string `json:"kind"`
}

func kinds(k schema.GroupVersionKind) []gvk { return []gvk{{k.Group, k.Version, k.Kind}} }
