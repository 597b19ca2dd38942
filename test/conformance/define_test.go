package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
)

// definitions is where definitions of custom resources are.
const definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

// forVersion are the keys of a DEFINE that are a version's, where there is one version.
var forVersion = []string{"spec", "status", "root", "schema", "subresources", "additionalPrinterColumns", "selectableFields", "deprecated", "deprecationWarning"}

// define creates a definition and waits until what it defines is served.
func (p *play) define(ctx context.Context, s *step) error {
	v, err := parseYAML(s.body)
	if err != nil {
		return fmt.Errorf("the body is no YAML: %w", err)
	}
	if v, err = p.vars.expandAll(v); err != nil {
		return err
	}
	body, ok := v.(map[string]any)
	if !ok && v != nil {
		return errors.New("a DEFINE has a map")
	}
	def := p.definition(s.kind, body)
	post := &step{line: s.line, method: http.MethodPost, path: definitions, body: def.text(), want: s.want, literal: true}
	if err := p.once(ctx, post); err != nil || s.want.code != http.StatusCreated {
		return err
	}
	return p.established(ctx, def)
}

// A definition is what a DEFINE says, in full.
type definition struct {
	object, spec, names map[string]any
	versions            []map[string]any
}

func (d *definition) text() string {
	b, err := json.Marshal(d.object)
	if err != nil {
		panic(err) // it is made of JSON values
	}
	return string(b)
}

// definition fills in what a DEFINE does not say.
func (p *play) definition(kind string, body map[string]any) *definition {
	d := &definition{names: map[string]any{"kind": kind, "plural": strings.ToLower(kind) + "s"}}
	d.spec = map[string]any{"group": p.vars["g"], "scope": "Namespaced"}
	single := map[string]any{"name": "v1"}
	meta := map[string]any{}
	for k, v := range body {
		switch m, _ := v.(map[string]any); {
		case k == "names":
			maps.Copy(d.names, m)
		case k == "metadata":
			meta = m
		case k == "conversion" && m == nil:
			d.spec[k] = p.conversion(fmt.Sprint(v))
		case contains(forVersion, k):
			single[k] = v
		default:
			d.spec[k] = v
		}
	}
	d.spec["names"] = d.names
	if meta["name"] == nil {
		meta["name"] = fmt.Sprint(d.names["plural"], ".", d.spec["group"])
	}
	if list, ok := d.spec["versions"].([]any); ok {
		for _, v := range list {
			d.versions = append(d.versions, v.(map[string]any))
		}
	} else {
		d.versions = []map[string]any{single}
	}
	all := make([]any, len(d.versions))
	for i, v := range d.versions {
		fill(v, i == 0)
		all[i] = v
	}
	d.spec["versions"] = all
	d.object = map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": meta, "spec": d.spec}
	return d
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// fill completes a version: it is served, the first one is stored, and its
// schema is made of those of spec and status, or takes everything.
func fill(v map[string]any, first bool) {
	if v["served"] == nil {
		v["served"] = true
	}
	if v["storage"] == nil {
		v["storage"] = first
	}
	properties := map[string]any{}
	for _, k := range []string{"spec", "status"} {
		if v[k] != nil {
			properties[k] = v[k]
			delete(v, k)
		}
	}
	root := map[string]any{"type": "object", "properties": properties}
	if len(properties) == 0 {
		root = map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
	}
	if m, ok := v["root"].(map[string]any); ok {
		root = m
		delete(v, "root")
	}
	if _, there := v["schema"]; !there {
		v["schema"] = map[string]any{"openAPIV3Schema": root}
	}
}

// conversion is by a webhook at one of its paths.
func (p *play) conversion(path string) map[string]any {
	return map[string]any{"strategy": "Webhook", "webhook": map[string]any{
		"conversionReviewVersions": []any{"v1"},
		"clientConfig":             map[string]any{"url": p.vars["webhook"] + path, "caBundle": p.vars["webhookCA"]}}}
}

// established waits until a definition is, and every version that it serves
// answers; from now on the row knows an object of the kind.
func (p *play) established(ctx context.Context, d *definition) error {
	meta, _ := d.object["metadata"].(map[string]any)
	wait := &step{method: http.MethodGet, path: fmt.Sprint(definitions, "/", meta["name"]), literal: true,
		want: want{code: http.StatusOK, body: `{status: {conditions: [..., {type: Established, status: "True"}]}}`}}
	if err := p.until(ctx, wait); err != nil {
		return fmt.Errorf("the definition is not established: %w", err)
	}
	p.names = append(p.names, fmt.Sprint(meta["name"]))
	kind := fmt.Sprint(d.names["kind"])
	for _, v := range d.versions {
		gv := fmt.Sprint(d.spec["group"], "/", v["name"])
		object := json.RawMessage(fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":"a"}}`, gv, kind))
		p.defined[fmt.Sprint(v["name"], "/", kind)] = object
		if v["storage"] == true || p.defined[kind] == nil {
			p.defined[kind] = object
		}
		if v["served"] != true {
			continue
		}
		list := &step{method: http.MethodGet, path: fmt.Sprint("/apis/", gv, "/", d.names["plural"]), literal: true, want: want{code: http.StatusOK}}
		if d.spec["conversion"] != nil { // whose webhook may refuse to
			list.path += "/nothing"
			list.want.code = http.StatusNotFound
			list.want.reason = "NotFound"
			if d.spec["scope"] == "Namespaced" {
				list.path = fmt.Sprint("/apis/", gv, "/namespaces/", p.vars["ns"], "/", d.names["plural"], "/nothing")
			}
		}
		if err := p.until(ctx, list); err != nil {
			return fmt.Errorf("version %s is not served: %w", v["name"], err)
		}
	}
	return nil
}
