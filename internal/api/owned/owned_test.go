package owned

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/randfill"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

type object interface {
	metav1.Object
	runtime.Object
}

var groups = []string{"", "apps", "batch", "autoscaling", "policy", "networking.k8s.io", "discovery.k8s.io", "coordination.k8s.io", "events.k8s.io",
	"node.k8s.io", "scheduling.k8s.io", "storage.k8s.io", "rbac.authorization.k8s.io", "certificates.k8s.io",
	"admissionregistration.k8s.io", "flowcontrol.apiserver.k8s.io", "resource.k8s.io",
	"apiextensions.k8s.io", "apiregistration.k8s.io"}

// stable lists every GA kind that is stored.
func stable() (out []schema.GroupVersionKind) {
	for gvk, typ := range known.AllKnownTypes() {
		_, stored := typ.FieldByName("ObjectMeta")
		if stored && slices.Contains(groups, gvk.Group) && (gvk.Version == "v1" || gvk.Version == "v2") &&
			!strings.HasSuffix(gvk.Kind, "Options") && !strings.HasSuffix(gvk.Kind, "Review") && gvk.Kind != "Scale" && gvk.Kind != "RangeAllocation" && gvk.Kind != "Binding" && gvk.Kind != "Eviction" {
			out = append(out, gvk)
		}
	}
	slices.SortFunc(out, func(a, b schema.GroupVersionKind) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// library is what the ownership is compared with.
func library(t testing.TB, gvk schema.GroupVersionKind, sub string) *managedfields.FieldManager {
	t.Helper()
	m, err := managedfields.NewDefaultFieldManager(typesOf(t, gvk), same{}, same{}, same{}, gvk, gvk.GroupVersion(), sub,
		map[fieldpath.APIVersion]fieldpath.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

type same struct{}

func (same) New(gvk schema.GroupVersionKind) (runtime.Object, error) { return known.New(gvk) }
func (same) Default(runtime.Object)                                  {}
func (same) Convert(_, _, _ any) error                               { return nil }
func (same) ConvertToVersion(o runtime.Object, _ runtime.GroupVersioner) (runtime.Object, error) {
	return o, nil
}
func (same) ConvertFieldLabel(_ schema.GroupVersionKind, l, v string) (string, string, error) {
	return l, v, nil
}

// filler fills objects with few different values, so that they repeat. Lists are
// absent or not empty, as in what is decoded from the store.
func filler(r *rand.Rand) *randfill.Filler {
	words := []string{"a", "b", "c", "with \"quotes\" & more", "10", "9"}
	return randfill.NewWithSeed(r.Int64()).NilChance(0.6).NumElements(1, 3).MaxDepth(12).Funcs(
		func(s *string, _ randfill.Continue) { *s = words[r.IntN(len(words))] },
		func(i *int32, _ randfill.Continue) { *i = r.Int32N(4) },
		func(i *int64, _ randfill.Continue) { *i = r.Int64N(4) },
		func(t *metav1.Time, _ randfill.Continue) { *t = metav1.Unix(r.Int64N(3), 0) },
		func(t *metav1.MicroTime, _ randfill.Continue) { *t = metav1.MicroTime{Time: time.Unix(r.Int64N(3), 0)} },
		func(m *[]metav1.ManagedFieldsEntry, _ randfill.Continue) {},
		func(x *runtime.RawExtension, _ randfill.Continue) { x.Raw = []byte(`{"a":1}`) },
		func(x *apiextensionsv1.JSON, _ randfill.Continue) { x.Raw = []byte(`{"a":1}`) },
		func(x *apiextensionsv1.JSONSchemaPropsOrBool, _ randfill.Continue) { x.Allows = true },
	)
}

func newObject(t testing.TB, gvk schema.GroupVersionKind) object {
	o, err := known.New(gvk)
	if err != nil {
		t.Fatal(err)
	}
	o.GetObjectKind().SetGroupVersionKind(gvk)
	return o.(object)
}

func clone(o object) object { return o.DeepCopyObject().(object) }

// shown is entries without their times, in words.
func shown(list []metav1.ManagedFieldsEntry) string {
	var b strings.Builder
	for _, e := range list {
		s, err := Parse(e.FieldsV1.GetRawString())
		fmt.Fprintln(&b, e.Manager, e.Operation, e.APIVersion, e.Subresource, e.FieldsType, s, err)
	}
	return b.String()
}

// differ shows where two texts begin to differ.
func differ(got, want string) string {
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	cut := func(s string) string { return s[max(0, i-300):min(len(s), i+200)] }
	return fmt.Sprintf("got\n...%s...\nwant\n...%s...", cut(got), cut(want))
}

// TestAgainstLibrary writes random objects of every kind, again and again under
// several names, and compares what each owns with what the library says.
func TestAgainstLibrary(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(uint64(seed), 0))
	compared := 0
	defer func() {
		if compared < 100 {
			t.Errorf("only %d objects compared", compared)
		}
	}()
	for _, gvk := range stable() {
		lib := library(t, gvk, "")
		for range 6 {
			fill := filler(r)
			make := func() object {
				o := newObject(t, gvk)
				fill.Fill(o)
				o.GetObjectKind().SetGroupVersionKind(gvk)
				o.SetUID("u")
				o.SetDeletionTimestamp(nil)
				o.SetDeletionGracePeriodSeconds(nil)
				return o
			}
			have := make()
			w := Writer{Manager: "maker", APIVersion: gvk.GroupVersion().String(), Time: metav1.Unix(1, 0)}
			ours := Create(w, Set{})
			first, err := lib.Update(newObject(t, gvk), clone(have), "maker")
			if err != nil {
				continue // not an object that validation lets in
			}
			compared++
			theirs := first.(object).GetManagedFields()
			for step := range 6 {
				got, want := shown(Full(ours, have, false, Shared{})), shown(theirs)
				if got != want {
					t.Fatalf("%v, step %d: %s", gvk, step, differ(got, want))
				}
				next := mixed(r, have, make())
				name := []string{"maker", "other", "third"}[r.IntN(3)]
				w.Manager = name
				d := Compare(have, next)
				live := clone(have)
				live.SetManagedFields(theirs)
				out, err := lib.Update(live, clone(next), name)
				if err != nil {
					break // not an object that validation lets in
				}
				// Times are equal in both, so that the order is.
				theirs = out.(object).GetManagedFields()
				for i := range theirs {
					theirs[i].Time = &metav1.Time{Time: time.Unix(1, 0)}
				}
				Arrange(theirs)
				ours = Update(ours, &d, w, have, false)
				have = next
			}
		}
	}
}

// mixed is a copy of o in which some fields, at any depth, are those of other.
func mixed(r *rand.Rand, o, other object) object {
	out := clone(o)
	mix(r, reflect.ValueOf(out).Elem(), reflect.ValueOf(other).Elem(), 0)
	out.SetUID(o.GetUID())
	out.SetManagedFields(nil)
	out.GetObjectKind().SetGroupVersionKind(o.GetObjectKind().GroupVersionKind())
	return out
}

func mix(r *rand.Rand, dst, src reflect.Value, depth int) {
	for i := range dst.NumField() {
		d, s := dst.Field(i), src.Field(i)
		switch {
		case !d.CanSet():
		case d.Kind() == reflect.Struct && depth < 3 && d.Type() != reflect.TypeFor[metav1.Time]():
			mix(r, d, s, depth+1)
		case r.IntN(4) == 0:
			d.Set(s)
		}
	}
}

func TestSets(t *testing.T) {
	for _, s := range []string{
		`{}`, `{"f:a":{}}`, `{"f:a":{".":{},"f:b":{}}}`, `{"f:l":{"k:{\"port\":80}":{},"k:{\"port\":443}":{".":{},"f:x":{}}}}`,
		`{"f:s":{"v:\"\\u003ca\"":{}}}`,
	} {
		set, err := Parse(s)
		if err != nil || set.String() != s {
			t.Errorf("%s: %s, %v", s, set, err)
		}
		var lib fieldpath.Set
		if err := lib.FromJSON(strings.NewReader(s)); err != nil {
			t.Fatal(err)
		}
		if b, _ := lib.ToJSON(); string(b) != s {
			t.Errorf("the library writes %s", b)
		}
	}
	for _, s := range []string{`{`, `[]`, `{"a":{}}`, `{"f:a":1}`, `{"f:a":{}} x`, `{"f:a" {}}`, `{"f:a\`} {
		if set, err := Parse(s); err == nil {
			t.Errorf("%s is taken for %v", s, set)
		}
	}
}

// An exception may be of all that is below a path.
func TestWhole(t *testing.T) {
	var s Set
	s.Put(false, "f:spec", "f:b")
	s.Put(true, "f:spec", "f:a")
	s.Put(false, "f:spec", "f:a", "f:x")
	if got := s.String(); got != `{"f:spec":{"f:a":{"*":{}},"f:b":{}}}` {
		t.Error(got)
	}
	again := must(Parse(s.String()))
	all := must(Parse(`{"f:spec":{"f:a":{".":{},"f:x":{}},"f:b":{},"f:c":{}}}`))
	if got := all.Minus(again).String(); got != `{"f:spec":{"f:c":{}}}` {
		t.Error(got)
	}
	if got := again.Union(all).String(); got != `{"f:spec":{"f:a":{"*":{}},"f:b":{},"f:c":{}}}` {
		t.Error(got)
	}
	if got := again.Minus(all).String(); got != `{"f:spec":{"f:a":{"*":{}}}}` || !again.whole() || all.whole() {
		t.Error(got)
	}
}

func bigPod() *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "default", UID: "u", Labels: map[string]string{"app": "web", "tier": "front", "pod-template-hash": "5d4f8c7b9"}}}
	c := corev1.Container{Name: "c", Image: "i", ImagePullPolicy: "Always", TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: "File"}
	for i := range 8 {
		c.Env = append(c.Env, corev1.EnvVar{Name: fmt.Sprint("VARIABLE_", i), Value: "the value of this variable"})
	}
	c.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: "TCP"}}
	p.Spec.Containers = []corev1.Container{c}
	p.Spec.RestartPolicy = "Always"
	p.Spec.DNSPolicy = "ClusterFirst"
	return p
}

func BenchmarkFull(b *testing.B) {
	p := bigPod()
	e := Create(Writer{Manager: "m", APIVersion: "v1"}, Set{})
	b.ReportAllocs()
	for range b.N {
		Full(e, p, true, Shared{})
	}
}

func BenchmarkCompareEqual(b *testing.B) {
	p, q := bigPod(), bigPod()
	b.ReportAllocs()
	for range b.N {
		if d := Compare(p, q); !d.Empty() {
			b.Fatal(d)
		}
	}
}

// TestPrint compares what is printed in one pass with what a comparison with the
// zero object says.
func TestPrint(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(uint64(seed), 0))
	for _, gvk := range stable() {
		for range 20 {
			o := newObject(t, gvk)
			filler(r).Fill(o)
			d := Compare(reflect.New(reflect.TypeOf(o).Elem()).Interface(), o)
			all := d.Touched()
			var skip Set
			if r.IntN(2) == 0 {
				skip = some(r, all)
			}
			want := ""
			if left := all.Minus(skip); !left.Empty() {
				want = left.String()
			}
			tell := &told{skip: skip}
			for _, common := range []string{"", "f:spec", "f:spec"} { // the last is printed from what is known by then
				if got := pathsText(o, tell, common); got != want {
					t.Fatalf("%v without %v: %s", gvk, skip, differ(got, want))
				}
			}
		}
	}
}

// some is a part of a set, with steps that stand for all below them.
func some(r *rand.Rand, s Set) (out Set) {
	for _, e := range s.elems {
		switch r.IntN(6) {
		case 0:
			out.elems = append(out.elems, elem{key: e.key, member: true, all: true})
		case 1, 2:
		default:
			out.add(e.key, e.member && r.IntN(2) == 0, some(r, e.kids))
		}
	}
	return out
}

// TestAppendJSON compares with the encoder.
func TestAppendJSON(t *testing.T) {
	at := metav1.Unix(1700000000, 0)
	zero := metav1.Time{}
	list := []metav1.ManagedFieldsEntry{
		{Manager: "kubectl", Operation: "Update", APIVersion: "v1", Time: &at, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:a":{}}`)},
		{Manager: "a", Operation: "Apply", APIVersion: "apps/v1", Time: &at, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:a":{"k:{\"x\":\"y\"}":{}}}`), Subresource: "status"},
		{Time: &at, FieldsV1: metav1.NewFieldsV1(`{}`)},
		{Manager: `with "quotes" & <more>`, Operation: "Update", APIVersion: "v1", Time: &at, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:a":{}}`)},
		{Manager: "spaces", Operation: "Update", APIVersion: "v1", Time: &at, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{ "f:a": {"f:b": {}}, "f:<": {}}`)},
		{Manager: "unicode", Operation: "Update", APIVersion: "v1", Time: &at, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1("{\"f:ü\u2028\":{}}")},
		{Manager: "no time", Operation: "Update", APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:a":{}}`)},
		{Manager: "zero", Operation: "Update", APIVersion: "v1", Time: &zero, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:a":{}}`)},
		{Manager: "no fields", Operation: "Update", APIVersion: "v1", Time: &at},
		{Manager: "empty fields", Operation: "Update", APIVersion: "v1", Time: &at, FieldsV1: &metav1.FieldsV1{}},
	}
	for n := range len(list) + 1 {
		got, err := AppendJSON(nil, list[:n], &corev1.Pod{}, true, Shared{})
		if err != nil {
			t.Fatal(err)
		}
		want := ""
		if shown := Full(list[:n], &corev1.Pod{}, true, Shared{}); len(shown) > 0 {
			b, err := json.Marshal(shown)
			if want = string(b); err != nil {
				t.Fatal(err)
			}
		}
		if string(got) != want {
			t.Fatalf("%v: %s", err, differ(string(got), want))
		}
	}
	// Entries that are kept in short, among others and in another order.
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	p := bigPod()
	p.Annotations = map[string]string{"<odd>": "x"}
	for range 200 {
		var some []metav1.ManagedFieldsEntry
		for _, e := range list {
			if e.FieldsV1 == nil || r.IntN(3) > 0 {
				continue
			}
			e.FieldsType = full
			when := metav1.Unix(r.Int64N(3), 0)
			e.Time = &when
			some = append(some, e)
		}
		for range r.IntN(3) {
			when := metav1.Unix(r.Int64N(3), 0)
			c := Create(Writer{Manager: "m", APIVersion: "v1", Time: when}, must(Parse([]string{`{}`, `{"f:metadata":{"*":{}},"f:spec":{"*":{}}}`, `{"f:metadata":{"f:annotations":{"f:<odd>":{}}}}`}[r.IntN(3)])))
			some = append(some, c...)
		}
		got, err := AppendJSON(nil, some, p, true, Shared{})
		if err != nil {
			t.Fatal(err)
		}
		want := ""
		if shown := Full(some, p, true, Shared{}); len(shown) > 0 {
			b, err := json.Marshal(shown)
			if want = string(b); err != nil {
				t.Fatal(err)
			}
		}
		if string(got) != want {
			t.Fatal(differ(string(got), want))
		}
	}
}
