package story

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	yamlutil "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// corpus is the folder of published manifests: where PROA_CORPUS says, or beside the repository.
func corpus(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("PROA_CORPUS"); dir != "" {
		return dir
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for dir := wd; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if at := filepath.Join(dir, "shared", "corpus"); exists(at) {
			return at
		}
	}
	t.Skip("needs a folder of published manifests: set PROA_CORPUS")
	return ""
}

// A published definition, and the published objects of its kind.
type definition struct {
	file    string
	crd     *apiextensionsv1.CustomResourceDefinition
	text    []byte
	objects []published
}

// A published object.
type published struct {
	file   string
	object map[string]any
}

// refusedObjects are the published objects that Kubernetes refuses too, and why.
var refusedObjects = map[string]string{
	"prometheus-operator/example/user-guides/scrapeclass/scrapeclass-example-servicemonitor.yaml": "spec.selector: Required value",
}

// documents calls f with every document of every YAML file below root.
func documents(root string, f func(file string, doc []byte)) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)) {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		docs := yamlutil.NewYAMLReader(bufio.NewReader(bytes.NewReader(raw)))
		for {
			doc, err := docs.Read()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			f(name, doc)
		}
	})
}

// publishedDefinitions are all definitions of a corpus.
func publishedDefinitions(t *testing.T, root string) (all []*definition) {
	t.Helper()
	var others []published
	err := documents(root, func(file string, doc []byte) {
		var head metav1.TypeMeta
		if yaml.Unmarshal(doc, &head) != nil {
			return // a template
		}
		if head.Kind != "CustomResourceDefinition" {
			var o map[string]any
			if yaml.Unmarshal(doc, &o) == nil && head.Kind != "" {
				others = append(others, published{file, o})
			}
			return
		}
		crd := new(apiextensionsv1.CustomResourceDefinition)
		if err := yaml.UnmarshalStrict(doc, crd); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, &definition{file: file, crd: crd, text: doc})
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		for _, o := range others {
			if o.object["apiVersion"] == d.crd.Spec.Group+"/"+d.storage().Name && o.object["kind"] == d.crd.Spec.Names.Kind {
				d.objects = append(d.objects, o)
			}
		}
	}
	return all
}

// storage is the version that is stored.
func (d *definition) storage() *apiextensionsv1.CustomResourceDefinitionVersion {
	for i, v := range d.crd.Spec.Versions {
		if v.Storage {
			return &d.crd.Spec.Versions[i]
		}
	}
	panic("a definition without a stored version")
}

func (d *definition) schema() *apiextensionsv1.JSONSchemaProps {
	return d.storage().Schema.OpenAPIV3Schema
}

// minimal is an object with no more than a schema requires.
func minimal(s *apiextensionsv1.JSONSchemaProps) any {
	switch {
	case s.Default != nil:
		var v any
		if yaml.Unmarshal(s.Default.Raw, &v) == nil {
			return v
		}
	case len(s.Enum) > 0:
		var v any
		if yaml.Unmarshal(s.Enum[0].Raw, &v) == nil {
			return v
		}
	case s.XIntOrString:
		return 1
	}
	switch s.Type {
	case "object":
		o := map[string]any{}
		for _, name := range s.Required {
			p := s.Properties[name]
			o[name] = minimal(&p)
		}
		return o
	case "array":
		var l []any
		if s.Items != nil && s.Items.Schema != nil && s.MinItems != nil {
			for range *s.MinItems {
				l = append(l, minimal(s.Items.Schema))
			}
		}
		return slices.Concat([]any{}, l)
	case "integer", "number":
		if s.Minimum != nil {
			return int64(*s.Minimum)
		}
		return 1
	case "boolean":
		return false
	}
	if s.Format == "date-time" {
		return "2026-01-02T03:04:05Z"
	}
	if s.Format == "byte" {
		return "Ynl0ZXM="
	}
	return "some"
}

// example is an object of the kind, published or made up.
func (d *definition) example() map[string]any {
	o := map[string]any{}
	if i := slices.IndexFunc(d.objects, func(p published) bool { return refusedObjects[p.file] == "" }); i >= 0 {
		o = maps.Clone(d.objects[i].object)
	} else if all, ok := minimal(d.schema()).(map[string]any); ok {
		o = all
	}
	o["apiVersion"], o["kind"] = d.crd.Spec.Group+"/"+d.storage().Name, d.crd.Spec.Names.Kind
	meta, _ := o["metadata"].(map[string]any)
	o["metadata"] = map[string]any{"name": "example", "labels": meta["labels"]}
	return o
}

// mistakes are values of the wrong type for some fields of the spec, by path.
func (d *definition) mistakes() map[string]any {
	out := map[string]any{}
	spec := d.schema().Properties["spec"]
	for _, name := range slices.Sorted(maps.Keys(spec.Properties)) {
		switch p := spec.Properties[name]; {
		case len(out) == 3:
			return out
		case p.XIntOrString:
		case p.Type == "object" || p.Type == "array":
			out["spec."+name] = "wrong"
		case p.Type == "string" || p.Type == "boolean" || p.Type == "integer": // in an object, it would be an unknown field
			out["spec."+name] = []any{"wrong"}
		}
	}
	return out
}

func text(t *testing.T, o map[string]any) string {
	t.Helper()
	b, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestCorpusDefinitions takes every published definition: it is served,
// explained, and its objects are taken, and refused where they are wrong.
func TestCorpusDefinitions(t *testing.T) {
	all := publishedDefinitions(t, corpus(t))
	if len(all) < 10 {
		t.Fatalf("only %d definitions are in the corpus", len(all))
	}
	c := newCluster(t, newHost(t, true), "--pretend", "--nodes", "1")
	c.up()
	for _, d := range all {
		t.Run(d.file, func(t *testing.T) {
			kubectl := c.in(t)
			play(t, d, func(stdin string, args ...string) (string, error) {
				return kubectl.run(stdin, c.kubectl, args...)
			})
		})
	}
}

// play takes one definition through its life.
func play(t *testing.T, d *definition, kubectl func(stdin string, args ...string) (string, error)) {
	ok := func(want, stdin string, args ...string) string {
		t.Helper()
		out, err := kubectl(stdin, args...)
		if err != nil || !strings.Contains(out, want) {
			t.Fatalf("kubectl %s: %v\n%.2000s\nwant %q", strings.Join(args, " "), err, out, want)
		}
		return out
	}
	names, resource := d.crd.Spec.Names, d.crd.Spec.Names.Plural+"."+d.crd.Spec.Group
	// The larger ones do not fit into the annotation of an apply by the client.
	ok(d.crd.Name+" serverside-applied", string(d.text), "apply", "--server-side", "--force-conflicts", "-f", "-")
	ok("condition met", "", "wait", "--for=condition=Established", "--timeout=10s", "crd/"+d.crd.Name)
	ok(resource, "", "api-resources", "--api-group="+d.crd.Spec.Group, "-o", "name")
	ok(`"kind":"`+names.Kind+`"`, "", "get", "--raw", "/openapi/v3/apis/"+d.crd.Spec.Group+"/"+d.storage().Name)
	ok(firstWords(d.schema().Description), "", "explain", resource)
	recursive := ok("FIELDS:", "", "explain", resource, "--recursive")
	for name := range d.schema().Properties["spec"].Properties {
		if !strings.Contains(recursive, name) {
			t.Errorf("kubectl explain --recursive does not name spec.%s", name)
		}
	}
	if len(d.schema().Properties["spec"].Properties) > 0 {
		ok("spec", "", "explain", resource+".spec")
	}
	example := d.example()
	ok("created", text(t, example), "create", "-f", "-")
	ok(names.Kind, "", "get", resource, "example", "-o", "yaml")
	ok("example", "", "get", resource)
	for path, wrong := range d.mistakes() {
		refusedAt(t, example, path, wrong, kubectl)
	}
	for i, p := range d.objects {
		o := maps.Clone(p.object)
		meta, _ := o["metadata"].(map[string]any)
		o["metadata"] = map[string]any{"name": fmt.Sprint("published-", i), "labels": meta["labels"]}
		if why := refusedObjects[p.file]; why != "" {
			if out, err := kubectl(text(t, o), "create", "-f", "-"); err == nil || !strings.Contains(out, why) {
				t.Errorf("%s: %v\n%s\nwant %q", p.file, err, out, why)
			}
			continue
		}
		ok("created", text(t, o), "create", "-f", "-")
	}
	ok("deleted", "", "delete", resource, "--all")
}

// firstWords are enough to know a description by; kubectl breaks lines.
func firstWords(description string) string {
	words := strings.Fields(description)
	return strings.Join(words[:min(3, len(words))], " ")
}

// refusedAt sets one field to a value of the wrong type, which is refused as
// invalid, with the path.
func refusedAt(t *testing.T, example map[string]any, path string, wrong any, kubectl func(string, ...string) (string, error)) {
	t.Helper()
	o := maps.Clone(example)
	spec, _ := o["spec"].(map[string]any)
	spec = maps.Clone(spec)
	if spec == nil {
		spec = map[string]any{}
	}
	spec[strings.TrimPrefix(path, "spec.")] = wrong
	o["spec"], o["metadata"] = spec, map[string]any{"name": "wrong"}
	out, err := kubectl(text(t, o), "create", "-f", "-")
	if err == nil || !strings.Contains(out, "is invalid:") || !strings.Contains(out, path+": Invalid value") {
		t.Errorf("%s set to %v: %v\n%.1000s", path, wrong, err, out)
	}
}
