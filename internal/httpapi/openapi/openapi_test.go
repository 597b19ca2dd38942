package openapi

import (
	"encoding/json"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"proa/internal/api"
	builtin "proa/internal/kinds"
)

func all() (out []*api.Resource) {
	for _, d := range builtin.All {
		out = append(out, d.Def())
	}
	return out
}

// refs calls f with every reference in a document.
func refs(v any, f func(string)) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if s, ok := e.(string); ok && k == "$ref" {
				f(s)
			}
			refs(e, f)
		}
	case []any:
		for _, e := range v {
			refs(e, f)
		}
	}
}

// TestV3 parses the documents with the library that clients use, and checks
// that every reference leads somewhere and every kind is there.
func TestV3(t *testing.T) {
	groups := map[string][]*api.Resource{}
	for _, r := range all() {
		groups[r.GroupVersion().String()] = append(groups[r.GroupVersion().String()], r)
	}
	for gv, rs := range groups {
		b, err := V3(Info{"Kubernetes", "v1"}, rs)
		if err != nil {
			t.Fatal(err)
		}
		var doc spec3.OpenAPI
		if err := json.Unmarshal(b, &doc); err != nil {
			t.Fatalf("%s: %v", gv, err)
		}
		var plain map[string]any
		if err := json.Unmarshal(b, &plain); err != nil {
			t.Fatal(err)
		}
		refs(plain, func(ref string) {
			if doc.Components.Schemas[strings.TrimPrefix(ref, "#/components/schemas/")] == nil {
				t.Errorf("%s: %s leads nowhere", gv, ref)
			}
		})
		for _, r := range rs {
			found := false
			for _, s := range doc.Components.Schemas {
				ks, _ := s.Extensions["x-kubernetes-group-version-kind"].([]any)
				for _, k := range ks {
					m := k.(map[string]any)
					found = found || m["group"] == r.Group && m["version"] == r.Version && m["kind"] == r.Kind && s.Properties["kind"].Description != ""
				}
			}
			if !found {
				t.Errorf("%s: no schema says that it is of kind %s", gv, r.Kind)
			}
			if r.Can(api.Patch) {
				checkPatch(t, &doc, r)
			}
		}
	}
}

// checkPatch looks for what kubectl looks for before it sends a patch.
func checkPatch(t *testing.T, doc *spec3.OpenAPI, r *api.Resource) {
	t.Helper()
	root := r.Path("")
	if r.Scope == api.Namespaced {
		root = r.Path("{namespace}")
	}
	p := doc.Paths.Paths[root+"/{name}"]
	if p == nil || p.Patch == nil {
		t.Errorf("no patch of %s", r.Resource)
		return
	}
	have := map[string]bool{}
	for _, q := range p.Patch.Parameters {
		have[q.Name] = true
	}
	if !have["fieldValidation"] || !have["dryRun"] || p.Patch.Extensions["x-kubernetes-group-version-kind"] == nil {
		t.Errorf("patch of %s takes %v", r.Resource, have)
	}
}

func TestV2(t *testing.T) {
	b, err := V2(Info{"Kubernetes", "v1"}, all())
	if err != nil {
		t.Fatal(err)
	}
	var doc spec.Swagger
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	var plain map[string]any
	if err := json.Unmarshal(b, &plain); err != nil {
		t.Fatal(err)
	}
	refs(plain, func(ref string) {
		if _, ok := doc.Definitions[strings.TrimPrefix(ref, "#/definitions/")]; !ok {
			t.Errorf("%s leads nowhere", ref)
		}
	})
	containers := doc.Definitions["io.k8s.api.core.v1.PodSpec"].Properties["containers"]
	if containers.Extensions["x-kubernetes-patch-merge-key"] != "name" || containers.Extensions["x-kubernetes-list-type"] != "map" {
		t.Errorf("containers carry %v", containers.Extensions)
	}
	if i := doc.Definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]; len(i.Type) != 1 || i.Type[0] != "string" || i.Format != "int-or-string" {
		t.Errorf("IntOrString is %v %s", i.Type, i.Format)
	}
	if doc.Paths.Paths["/api/v1/namespaces/{namespace}/pods"].Get == nil {
		t.Error("no list of pods")
	}
}

func BenchmarkV3(b *testing.B) {
	var core []*api.Resource
	for _, r := range all() {
		if r.Group == "" {
			core = append(core, r)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		doc, err := V3(Info{}, core)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(doc)), "bytes")
	}
}

func TestV2Proto(t *testing.T) {
	b, err := V2Proto(Info{"Kubernetes", "v1"}, all())
	if err != nil {
		t.Fatal(err)
	}
	var doc openapi_v2.Document
	if err := proto.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", len(b))
	found := false
	for _, d := range doc.GetDefinitions().GetAdditionalProperties() {
		found = found || d.Name == "io.k8s.api.core.v1.Pod" && len(d.Value.GetProperties().GetAdditionalProperties()) > 3
	}
	if doc.Swagger != "2.0" || doc.Info.Version != "v1" || !found || len(doc.GetPaths().GetPath()) < 10 {
		t.Errorf("%s %v: %d paths, Pod defined: %v", doc.Swagger, doc.Info, len(doc.GetPaths().GetPath()), found)
	}
}
