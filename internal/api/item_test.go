package api_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"proa/internal/api"
)

// widget is a kind with all that the erasure has to keep apart.
var widget = &api.Kind[*corev1.Pod]{
	API: "v1", Resource: "pods", Scope: api.Namespaced, Status: true,
	Fields:  map[string]func(*corev1.Pod) string{"spec.nodeName": func(p *corev1.Pod) string { return p.Spec.NodeName }},
	Columns: []api.Column[*corev1.Pod]{api.Wide("Node", func(p *corev1.Pod) string { return p.Spec.NodeName }), api.Col("Count", func(*corev1.Pod) int { return 3 })},
}

func stored(t *testing.T, revision int64) (*api.Item, *corev1.Pod) {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "x", Labels: map[string]string{"l": "1"}}}
	p.Spec.NodeName = "n1"
	p.Status.Phase = corev1.PodRunning
	body, err := widget.Def().Codec.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	return api.NewItem(widget.Def(), revision, body, nil), p
}

// The stored form holds no resourceVersion, and encoding changes nothing.
func TestCodec(t *testing.T) {
	_, p := stored(t, 0)
	p.ResourceVersion = "17"
	c := widget.Def().Codec
	b, err := c.Encode(p)
	if err != nil || p.ResourceVersion != "17" {
		t.Fatal(err, p.ResourceVersion)
	}
	o, err := c.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if o.GetResourceVersion() != "" || o.GetName() != "x" || o.GetObjectKind().GroupVersionKind().Kind != "Pod" {
		t.Errorf("%+v", o)
	}
	if _, err := c.Decode([]byte("no")); err == nil {
		t.Error("nonsense was decoded")
	}
}

// On the wire the revision is there, whatever its number of digits.
func TestProtobufRevision(t *testing.T) {
	for _, rev := range []int64{0, 7, 10, 123456, 1 << 60} {
		item, _ := stored(t, rev)
		raw, err := item.RawProtobuf([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		raw = bytes.TrimPrefix(raw, []byte("before"))
		if n, err := item.RawSize(); err != nil || n != len(raw) {
			t.Errorf("RawSize says %d of %d bytes, %v", n, len(raw), err)
		}
		wire, err := item.Protobuf(nil)
		if err != nil || !bytes.HasPrefix(wire, api.ProtobufMagic) {
			t.Fatal(err)
		}
		var u runtime.Unknown
		if err := u.Unmarshal(wire[4:]); err != nil || u.Kind != "Pod" || !bytes.Equal(u.Raw, raw) {
			t.Fatalf("%v %+v", err, u)
		}
		var p corev1.Pod
		if err := p.Unmarshal(raw); err != nil {
			t.Fatal(err)
		}
		want := item.Object().GetResourceVersion()
		if p.ResourceVersion != want || p.Name != "x" || p.Namespace != "a" || p.Labels["l"] != "1" || p.Spec.NodeName != "n1" {
			t.Errorf("revision %d: %q, want %q: %+v", rev, p.ResourceVersion, want, p.ObjectMeta)
		}
	}
}

func TestItem(t *testing.T) {
	item, _ := stored(t, 5)
	if item.Object() != item.Object() {
		t.Error("the object is decoded twice")
	}
	b, err := item.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var p corev1.Pod
	if err := json.Unmarshal(b, &p); err != nil || p.Kind != "Pod" || p.APIVersion != "v1" || p.ResourceVersion != "5" {
		t.Errorf("%s %v", b, err)
	}
	later := item.At(9)
	if later.Object().GetResourceVersion() != "9" || item.Object().GetResourceVersion() != "5" {
		t.Error("At changed the item or not its copy")
	}
	if err := item.Verify(); err != nil {
		t.Error(err)
	}
	item.Object().SetLabels(map[string]string{"changed": "in place"})
	if err := item.Verify(); err == nil || !strings.Contains(err.Error(), "Pod a/x of revision 5 was changed in place") {
		t.Errorf("not noticed: %v", err)
	}

	// What was used since the last sweep stays; the rest goes and comes back.
	item, _ = stored(t, 5)
	o := item.Object()
	item.Sweep()
	if item.Object() != o {
		t.Error("an object in use was dropped")
	}
	item.Sweep()
	item.Sweep()
	if item.Object() == o {
		t.Error("an object that nobody used was kept")
	}
	bad := api.NewItem(widget.Def(), 3, []byte("no"), nil)
	if err := bad.Check(); err == nil || !strings.Contains(err.Error(), "decode a stored Pod of revision 3") {
		t.Errorf("%v", err)
	}
}

func TestSelectors(t *testing.T) {
	_, p := stored(t, 0)
	for sel, want := range map[string]bool{
		"": true, "spec.nodeName=n1": true, "spec.nodeName=n2": false, "spec.nodeName!=n2": true,
		"metadata.name=x,metadata.namespace=a": true, "metadata.name=y": false,
	} {
		if got := (api.Selectors{Fields: fields.ParseSelectorOrDie(sel)}).Matches(widget.Def(), p); got != want {
			t.Errorf("%q matches: %v", sel, got)
		}
	}
	both := api.Selectors{Labels: labels.SelectorFromSet(labels.Set{"l": "1"}), Fields: fields.OneTermEqualSelector("spec.nodeName", "n1")}
	if !both.Matches(widget.Def(), p) || both.Empty() || !(api.Selectors{}).Empty() || !(api.Selectors{Labels: labels.Everything()}).Empty() {
		t.Error("two selectors at once")
	}
	if api.WithLabels(map[string]string{"l": "2"}).Matches(widget.Def(), p) {
		t.Error("matched another label")
	}
}

func TestResource(t *testing.T) {
	r := widget.Def()
	if r != widget.Def() {
		t.Error("two resources of one kind")
	}
	if r.Kind != "Pod" || r.ListKind != "PodList" || r.Singular != "pod" || r.Path("ns") != "/api/v1/namespaces/ns/pods" || r.Path("") != "/api/v1/pods" {
		t.Errorf("%+v", r)
	}
	var columns []string
	for _, c := range r.Columns {
		columns = append(columns, c.Name+":"+c.Type)
	}
	if want := []string{"Name:string", "Count:integer", "Age:string", "Node:string"}; !slices.Equal(columns, want) {
		t.Errorf("columns %v", columns)
	}
	_, a := stored(t, 0)
	b := api.Clone(a)
	b.Labels, b.Status.Phase = nil, corev1.PodFailed
	if !r.SpecEqual(a, b) {
		t.Error("metadata or status count as the spec")
	}
	b.Spec.NodeName = "n2"
	if r.SpecEqual(a, b) {
		t.Error("a changed spec is equal")
	}
	r.CopySpec(b, a)
	if b.Spec.NodeName != "n1" || b.Status.Phase != corev1.PodFailed || b.Labels != nil {
		t.Errorf("after CopySpec: %+v", b)
	}
	r.CopyStatus(b, a)
	if b.Status.Phase != corev1.PodRunning {
		t.Errorf("after CopyStatus: %+v", b)
	}
	if errs := r.Validate(a, nil); len(errs) != 0 {
		t.Error(errs)
	}
	plain := (&api.Kind[*corev1.ConfigMap]{API: "apps/v1", Resource: "things"}).Def()
	if plain.Generation || plain.HasStatus || !plain.Can(api.Watch) || plain.Path("") != "/apis/apps/v1/things" || plain.Propagation != metav1.DeletePropagationBackground {
		t.Errorf("%+v", plain)
	}
}

// TestJSONOwners: the JSON of an item is what the encoder makes of its public form.
func TestJSONOwners(t *testing.T) {
	at := metav1.Unix(1700000000, 0)
	entry := func(manager, operation, fieldsType, text string) metav1.ManagedFieldsEntry {
		e := metav1.ManagedFieldsEntry{Manager: manager, Operation: metav1.ManagedFieldsOperationType(operation), APIVersion: "v1", Time: &at, FieldsType: fieldsType}
		if text != "" {
			e.FieldsV1 = metav1.NewFieldsV1(text)
		}
		return e
	}
	for name, change := range map[string]func(p *corev1.Pod){
		"none":  func(*corev1.Pod) {},
		"short": func(p *corev1.Pod) { p.ManagedFields = []metav1.ManagedFieldsEntry{entry("m", "Update", "", "")} },
		"excepted": func(p *corev1.Pod) {
			p.ManagedFields = []metav1.ManagedFieldsEntry{entry("m", "Update", "Except", `{"f:spec":{"f:nodeName":{}}}`)}
		},
		"nothing left": func(p *corev1.Pod) {
			p.Labels, p.Spec, p.Status = nil, corev1.PodSpec{}, corev1.PodStatus{}
			p.ManagedFields = []metav1.ManagedFieldsEntry{entry("m", "Update", "Except", `{"f:spec":{"*":{}}}`)}
		},
		"full": func(p *corev1.Pod) {
			p.ManagedFields = []metav1.ManagedFieldsEntry{entry("a", "Apply", "FieldsV1", `{"f:metadata":{"f:labels":{}}}`), entry("m", "Update", "FieldsV1", `{ "f:spec": {} }`)}
		},
		"bare": func(p *corev1.Pod) {
			p.ObjectMeta = metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{entry("a", "Apply", "FieldsV1", `{"f:spec":{}}`)}}
		},
		"braces": func(p *corev1.Pod) {
			p.Annotations = map[string]string{"a": `}"\}{`, `"metadata":{`: `\\"`, "json": `{"a":["}"]}`}
			p.OwnerReferences = []metav1.OwnerReference{{Name: "]}"}}
			p.ManagedFields = []metav1.ManagedFieldsEntry{entry("m", "Update", "", "")}
		},
	} {
		for _, rev := range []int64{0, 12} {
			_, p := stored(t, 0)
			change(p)
			item := api.NewItem(widget.Def(), rev, nil, p)
			got, err := item.JSON()
			if err != nil {
				t.Fatal(name, err)
			}
			want, err := json.Marshal(item.Public())
			if err != nil || string(got) != string(want) {
				t.Errorf("%s: %v\ngot  %s\nwant %s", name, err, got, want)
			}
		}
	}
}
