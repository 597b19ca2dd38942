package kinds_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	yaml2 "go.yaml.in/yaml/v2"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-openapi/pkg/schemaconv"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v6/schema"

	"proa/internal/api"
	"proa/internal/httpapi/openapi"
	"proa/internal/kinds/apiextensions"
)

var writeTypes = flag.Bool("write", false, "write the types.yaml of the kinds anew")

// TestTypes compares the schemas by which fields of kinds are owned that
// client-go does not know with the OpenAPI definitions. They are in a file
// beside each kind.
func TestTypes(t *testing.T) {
	service := &api.Kind[*apiregistrationv1.APIService]{API: "apiregistration.k8s.io/v1", Resource: "apiservices"}
	for folder, r := range map[string]*api.Resource{
		"apiextensions":   apiextensions.CustomResourceDefinition.Def(),
		"apiregistration": service.Def(),
	} {
		want := typesOf(t, r)
		file := filepath.Join(folder, "types.yaml")
		if *writeTypes {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if have, err := os.ReadFile(file); err != nil || string(have) != string(want) {
			t.Errorf("%s is not what the API says now (%v): run go test ./internal/kinds -run TestTypes -write", file, err)
		}
	}
}

// typesOf is the schema of one kind and of all that is in it.
func typesOf(t *testing.T, r *api.Resource) []byte {
	t.Helper()
	raw, err := openapi.V3(openapi.Info{}, []*api.Resource{r})
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Components struct{ Schemas map[string]*spec.Schema }
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	all, err := schemaconv.ToSchemaFromOpenAPI(doc.Components.Schemas, false)
	if err != nil {
		t.Fatal(err)
	}
	root := r.New().(interface{ OpenAPIModelName() string }).OpenAPIModelName()
	keep := map[string]bool{}
	var reach func(name string)
	reach = func(name string) {
		i := slices.IndexFunc(all.Types, func(d schema.TypeDef) bool { return d.Name == name })
		if i < 0 || keep[name] {
			return
		}
		keep[name] = true
		if m := all.Types[i].Map; m != nil {
			slices.SortFunc(m.Fields, func(a, b schema.StructField) int { return strings.Compare(a.Name, b.Name) })
		}
		typesIn(all.Types[i].Atom, reach)
	}
	reach(root)
	if len(keep) < 5 {
		t.Fatalf("only %d types of %s", len(keep), r.Kind)
	}
	all.Types = slices.DeleteFunc(all.Types, func(d schema.TypeDef) bool { return !keep[d.Name] })
	slices.SortFunc(all.Types, func(a, b schema.TypeDef) int { return strings.Compare(a.Name, b.Name) })
	out, err := yaml2.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// typesIn calls f for the names of the types that an atom is made of.
func typesIn(a schema.Atom, f func(name string)) {
	ref := func(r schema.TypeRef) {
		if r.NamedType != nil {
			f(*r.NamedType)
		}
		typesIn(r.Inlined, f)
	}
	if a.List != nil {
		ref(a.List.ElementType)
	}
	if a.Map != nil {
		ref(a.Map.ElementType)
		for _, field := range a.Map.Fields {
			ref(field.Type)
		}
	}
}
