package kinds_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
	"proa/internal/kinds"
)

// A table is the test of one kind: an object that is fine, and what becomes of
// it when it is changed.
type table struct {
	Object json.RawMessage `json:"object"`
	Cases  []tableCase     `json:"cases"`

	Shared map[string]string `json:"shared"` // what another kind's table covers, see TestCoverage
	Exempt []exemption       `json:"exempt"` // what needs no case, and why
}

// A tableCase changes the object by JSON merge patches: Create before it is
// created, then Update or Status, or a part by its name, afterwards.
type tableCase struct {
	Name   string          `json:"name"`
	Create json.RawMessage `json:"create"`
	Update json.RawMessage `json:"update"`
	Status json.RawMessage `json:"status"`
	Part   string          `json:"part"` // the subresource that Update goes to

	Errors  []string          `json:"errors"`  // of the last step, in any order
	Warn    []string          `json:"warn"`    // of the last step
	Want    json.RawMessage   `json:"want"`    // what the result holds, as a merge patch that changes nothing
	Columns map[string]string `json:"columns"` // cells of the result
	Fields  map[string]string `json:"fields"`  // what field selectors see
}

// tableFile is where a kind's table is: named by its plural and, if another
// kind before it has the same, by group and version too.
func tableFile(r *api.Resource) string {
	name := r.Resource
	first := slices.IndexFunc(kinds.All, func(d api.Definition) bool { return d.Def().Resource == name })
	if kinds.All[first].Def() != r {
		name += "." + r.Group + "." + r.Version
	}
	return filepath.Join("testdata", name+".yaml")
}

func TestTables(t *testing.T) {
	for _, d := range kinds.All {
		r := d.Def()
		if r.Virtual && r.Resource == "selfsubjectreviews" {
			continue // it has nothing to get wrong
		}
		t.Run(r.Resource, func(t *testing.T) {
			raw, err := os.ReadFile(tableFile(r))
			if err != nil {
				t.Fatalf("every kind has a table: %v", err)
			}
			var tab table
			if err := yaml.UnmarshalStrict(raw, &tab); err != nil {
				t.Fatal(err)
			}
			stored(t, r, tab.Object)
			for _, c := range tab.Cases {
				t.Run(strings.ReplaceAll(c.Name, " ", "-"), func(t *testing.T) { c.run(t, r, tab.Object) })
			}
		})
	}
}

// decode makes an object, strictly.
func decode(t *testing.T, r *api.Resource, raw []byte) api.Object {
	t.Helper()
	o := r.New()
	if err := yaml.UnmarshalStrict(raw, o); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	return o
}

func merge(t *testing.T, doc, patch []byte) []byte {
	t.Helper()
	if patch == nil {
		return doc
	}
	out, err := jsonpatch.MergePatch(doc, patch)
	if err != nil {
		t.Fatalf("%v: %s", err, patch)
	}
	return out
}

// born is far enough back that an age in days does not turn while the tests run.
var born = metav1.NewTime(time.Now().Add(-(10*24 + 12) * time.Hour).Truncate(time.Second))

// create does with a new object what the server does.
func create(r *api.Resource, o api.Object) field.ErrorList {
	if r.Scope == api.Namespaced && o.GetNamespace() == "" {
		o.SetNamespace("default")
	}
	o.SetUID("11111111-2222-3333-4444-555555555555")
	o.SetCreationTimestamp(born)
	r.Default(o)
	r.Prepare(o, nil)
	var errs field.ErrorList
	if !r.Virtual {
		errs = apivalidation.ValidateObjectMetaAccessor(o, bool(r.Scope), r.ValidName, field.NewPath("metadata"))
	}
	return append(errs, r.Validate(o, nil)...)
}

// stored creates an object that must be fine, and passes it through its stored form.
func stored(t *testing.T, r *api.Resource, raw []byte) api.Object {
	t.Helper()
	o := decode(t, r, raw)
	if errs := create(r, o); len(errs) > 0 {
		t.Fatalf("the object is not fine: %v", errs.ToAggregate())
	}
	body, err := r.Codec.Encode(o)
	if err != nil {
		t.Fatal(err)
	}
	back, err := r.Codec.Decode(body)
	if err != nil {
		t.Fatal(err)
	}
	again := api.Clone(back)
	r.Default(again)
	if a, b := toJSON(t, back), toJSON(t, again); string(a) != string(b) {
		t.Errorf("defaults are not stable:\n%s\n%s", a, b)
	}
	writtenBack(t, r, back)
	return back
}

// writtenBack checks that writing an object back as it was read changes nothing:
// neither refused, nor another generation.
func writtenBack(t *testing.T, r *api.Resource, old api.Object) {
	t.Helper()
	if r.Virtual {
		return
	}
	again := decode(t, r, toJSON(t, old))
	r.Default(again)
	r.Prepare(again, old)
	if errs := r.Validate(again, old); len(errs) > 0 {
		t.Errorf("written back: %v", errs.ToAggregate())
	}
	if !r.SpecEqual(again, old) || again.GetGeneration() != old.GetGeneration() {
		t.Errorf("written back, it is another:\n%s\n%s", toJSON(t, old), toJSON(t, again))
	}
	if !r.HasStatus {
		return
	}
	status := decode(t, r, toJSON(t, old))
	r.PrepareStatus(status, old)
	if errs := r.ValidateStatus(status, old); len(errs) > 0 {
		t.Errorf("status written back: %v", errs.ToAggregate())
	}
}

func toJSON(t *testing.T, o any) []byte {
	t.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (c *tableCase) run(t *testing.T, r *api.Resource, object []byte) {
	first := merge(t, object, c.Create)
	var got, old api.Object
	var errs field.ErrorList
	defer func() {
		if old != nil && string(toJSON(t, old)) != string(toJSON(t, stored(t, r, first))) {
			t.Error("the old object, which others read too, was changed")
		}
	}()
	switch {
	case c.Part != "":
		old = stored(t, r, first)
		got = decode(t, r, merge(t, toJSON(t, old), c.Update))
		r.Default(got)
		part := r.Subs[c.Part].Part
		part.Prepare(got, old)
		errs = part.Validate(got, old)
	case c.Update != nil:
		old = stored(t, r, first)
		got = decode(t, r, merge(t, toJSON(t, old), c.Update))
		got.SetResourceVersion("1")
		r.Default(got)
		r.Prepare(got, old)
		errs = apivalidation.ValidateObjectMetaAccessorUpdate(got, old, field.NewPath("metadata"))
		errs = append(errs, r.Validate(got, old)...)
	case c.Status != nil:
		old = stored(t, r, first)
		got = decode(t, r, merge(t, toJSON(t, old), c.Status))
		r.CopySpec(got, old)
		r.PrepareStatus(got, old)
		errs = r.ValidateStatus(got, old)
	default:
		got = decode(t, r, first)
		errs = create(r, got)
	}
	same(t, "errors", texts(errs), c.Errors)
	if c.Warn != nil {
		same(t, "warnings", r.Warn(got, old), c.Warn)
	}
	if c.Want != nil {
		have := toJSON(t, got)
		if !jsonpatch.Equal(merge(t, have, c.Want), have) {
			t.Errorf("have %s\nwant %s", have, c.Want)
		}
	}
	for name, want := range c.Columns {
		i := slices.IndexFunc(r.Columns, func(k api.Column[api.Object]) bool { return k.Name == name })
		if i < 0 {
			t.Errorf("no column %q", name)
		} else if cell := fmt.Sprint(r.Columns[i].Cell(got)); cell != want {
			t.Errorf("column %s is %q, want %q", name, cell, want)
		}
	}
	for name, want := range c.Fields {
		if f := r.Fields[name]; f == nil {
			t.Errorf("no field %q", name)
		} else if v := f(got); v != want {
			t.Errorf("field %s is %q, want %q", name, v, want)
		}
	}
}

// texts are the errors as users see them, without differences, which follow a line break.
func texts(errs field.ErrorList) (out []string) {
	for _, e := range errs {
		s, _, _ := strings.Cut(e.Error(), "\n")
		out = append(out, s)
	}
	return out
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	g, w := slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	if !slices.Equal(g, w) {
		t.Errorf("%s:\n  %s\nwant:\n  %s", what, strings.Join(g, "\n  "), strings.Join(w, "\n  "))
	}
}

func TestDeclarations(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range kinds.All {
		r := d.Def()
		id := r.GroupVersionResource.String()
		if seen[id] {
			t.Errorf("%s is there twice", id)
		}
		seen[id] = true
		if d.Def() != r {
			t.Errorf("%s has two definitions", id)
		}
		o := r.New()
		r.Default(o) // must not panic on an empty object
		r.Prepare(o, nil)
		r.Validate(o, nil)
		r.Warn(o, nil)
		for _, c := range r.Columns {
			c.Cell(o)
		}
		for _, f := range r.Fields {
			f(o)
		}
	}
}
