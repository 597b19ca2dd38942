package apiserver

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"unicode/utf8"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	kjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/scheme"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/store/memory"
)

var fuzzedKind = corev1.SchemeGroupVersion.WithKind("Pod")

// theirs decodes as Kubernetes' own serializer of a media type does.
func theirs(media string, strict bool, body []byte) (o runtime.Object, kind *schema.GroupVersionKind, err error) {
	var s runtime.Serializer
	switch media {
	case api.MediaProtobuf:
		s = protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	case api.MediaCBOR:
		s = cbor.NewSerializer(scheme.Scheme, scheme.Scheme, cbor.Strict(strict))
	default:
		s = kjson.NewSerializerWithOptions(kjson.DefaultMetaFactory, scheme.Scheme, scheme.Scheme,
			kjson.SerializerOptions{Yaml: media == api.MediaYAML, Strict: strict})
	}
	defer func() {
		if p := recover(); p != nil { // not ours to answer for
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return s.Decode(body, &fuzzedKind, &corev1.Pod{})
}

// FuzzDecode reads bodies as apimachinery does: what one takes the other takes,
// with the same strict errors and the same object.
func FuzzDecode(f *testing.F) {
	pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	js, _ := json.Marshal(pod)
	pb, _ := api.NewItem(core.Pod.Def(), 0, nil, pod.DeepCopy()).Protobuf(nil)
	cb, _ := api.EncodeCBOR(pod)
	for i, b := range [][]byte{js, []byte("kind: Pod\nmetadata:\n  name: x\n  name: y\n"), pb, cb,
		[]byte(`{"kind":"Pod","apiVersion":"v1","spec":{"containers":[{"name":"a","name":"b","Image":"x","odd":1}]}}`)} {
		f.Add(uint8(i%4), b)
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		media := []string{api.MediaJSON, api.MediaYAML, api.MediaProtobuf, api.MediaCBOR}[which%4]
		for _, mode := range []string{validateStrict, validateIgnore} {
			want, kind, err := theirs(media, mode == validateStrict, body)
			if kind == nil || *kind != fuzzedKind || media == api.MediaProtobuf && err != nil {
				kind = nil // they look for the kind first, or refuse a kind that ours takes from the path
			}
			d, derr := newDecoder(fuzzedKind, api.Options{FieldValidation: validateWarn})
			if mode == validateIgnore {
				d.mode = validateIgnore
			}
			if derr != nil {
				t.Fatal(derr)
			}
			var got corev1.Pod
			gerr := d.decode(body, media, &got)
			if kind == nil {
				continue
			}
			strict, isStrict := runtime.AsStrictDecodingError(err)
			switch {
			case isStrict && gerr == nil && len(d.warnings) != len(strict.Errors()):
				t.Fatalf("%s %q: warnings %q, apimachinery says %v", media, body, d.warnings, strict.Errors())
			case (err == nil || isStrict) != (gerr == nil):
				t.Fatalf("%s %s %q: %v, apimachinery says %v", media, mode, body, gerr, err)
			case gerr == nil:
				w := want.(*corev1.Pod)
				w.TypeMeta = got.TypeMeta
				if !equality.Semantic.DeepEqual(w, &got) {
					t.Fatalf("%s %q: %+v, apimachinery has %+v", media, body, got, w)
				}
			}
		}
	})
}

// FuzzPatch applies patches to a pod as the libraries alone would.
func FuzzPatch(f *testing.F) {
	for _, p := range []string{`[{"op":"add","path":"/metadata/labels","value":{"a":"b"}}]`, `[{"op":"test","path":"/spec/containers/0/name","value":"x"}]`,
		`{"spec":{"containers":[{"name":"c","image":"new"},{"$patch":"delete","name":"d"}]}}`, `{"metadata":{"labels":null,"labels":{"x":"y"}}}`,
		`{"spec":{"$setElementOrder/containers":[{"name":"d"},{"name":"c"}],"containers":[{"name":"d","env":[{"name":"e","value":"1"}]}]}}`,
		`{"spec":{"containers":[{"$patch":"replace"},{"name":"z"}],"$retainKeys":["x"]}}`} {
		for i := range 3 {
			f.Add(uint8(i), p)
		}
	}
	base := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", Labels: map[string]string{"l": "1"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{ContainerPort: 1, Protocol: "TCP"}}}, {Name: "d", Image: "j"}}}}
	form, err := json.Marshal(base)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, which uint8, patch string) {
		typ := []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType}[which%3]
		want, werr := patchedByLibrary(typ, form, []byte(patch))
		p, err := newPatcher(core.Pod.Def().New, fuzzedKind, &api.Request{Patch: typ, Body: []byte(patch), Options: api.Options{FieldValidation: validateIgnore}})
		var got api.Object
		if err == nil {
			got, err = p.apply(base.DeepCopy(), form)
		}
		if err != nil {
			var st apierrors.APIStatus
			if st, _ = err.(apierrors.APIStatus); st == nil || st.Status().Code >= 500 {
				t.Fatalf("%s %q: %v", typ, patch, err)
			}
		}
		switch {
		case werr == nil && err != nil && !strings.Contains(err.Error(), "does not match") && !strings.Contains(err.Error(), "kind in the data"):
			t.Fatalf("%s %q: refused with %v, the library makes %+v", typ, patch, err, want)
		case werr != nil && err == nil:
			t.Fatalf("%s %q: makes %+v, the library says %v", typ, patch, got, werr)
		case err == nil:
			want.TypeMeta = got.(*corev1.Pod).TypeMeta
			if !equality.Semantic.DeepEqual(want, got) {
				t.Fatalf("%s %q: %+v, the library makes %+v", typ, patch, got, want)
			}
		}
	})
}

func patchedByLibrary(typ types.PatchType, form, patch []byte) (out *corev1.Pod, err error) {
	switch typ {
	case types.JSONPatchType:
		var p jsonpatch.Patch
		if p, err = jsonpatch.DecodePatch(patch); err == nil {
			func() {
				defer func() {
					if bad := recover(); bad != nil {
						err = fmt.Errorf("panic: %v", bad)
					}
				}()
				form, err = p.Apply(form)
			}()
		}
	case types.MergePatchType:
		var object map[string]json.RawMessage
		if err = json.Unmarshal(patch, &object); err == nil {
			form, err = jsonpatch.MergePatch(form, patch)
		}
	default:
		form, err = strategicpatch.StrategicMergePatch(form, patch, &corev1.Pod{})
	}
	if err != nil {
		return nil, err
	}
	o, _, err := theirs(api.MediaJSON, false, form)
	if err != nil {
		return nil, err
	}
	out, ok := o.(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("a %T", o)
	}
	return out, nil
}

// fuzzServer is a server in memory.
func fuzzServer(f *testing.F) *Server {
	e := memory.New(nil)
	s, err := New(f.Context(), Config{Engine: e, Kinds: []api.Definition{core.ConfigMap, core.Namespace}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close(); e.Close() })
	return s
}

// FuzzApply applies anything twice: it never fails on the server's account, and
// the second time changes nothing.
func FuzzApply(f *testing.F) {
	for _, p := range []string{`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"},"data":{"a":"b"}}`, "apiVersion: v1\nkind: ConfigMap\nmetadata: {labels: {x: y}}\n",
		`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"managedFields":[{}]}}`, `{"data":{"a":1}}`, `[]`, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"ownerReferences":[{"uid":"u"},{"uid":"u"}]}}`} {
		f.Add(p, false)
		f.Add(p, true)
	}
	s := fuzzServer(f)
	f.Fuzz(func(t *testing.T, patch string, force bool) {
		apply := func(who string) (*corev1.ConfigMap, error) {
			resp, err := s.Handle(t.Context(), &api.Request{Verb: api.Patch, Resource: core.ConfigMap.Def(), Namespace: "n", Name: "m", Patch: types.ApplyYAMLPatchType,
				Body: []byte(patch), Options: api.Options{FieldManager: who, Force: force}})
			if err != nil {
				if st, ok := err.(apierrors.APIStatus); !ok || st.Status().Code >= 500 {
					t.Fatalf("%q: %v", patch, err)
				}
				return nil, err
			}
			return resp.Item.Object().(*corev1.ConfigMap), nil
		}
		one, err := apply("a")
		if err == nil {
			two, err := apply("a")
			if err != nil || one.ResourceVersion != two.ResourceVersion {
				t.Fatalf("%q: applied again: %v\n%+v\n%+v", patch, err, one, two)
			}
			if _, err := apply("b"); err != nil && !apierrors.IsConflict(err) { // null is a value that is not kept
				t.Fatalf("%q: another cannot apply the same: %v", patch, err)
			}
		}
		err = core.ConfigMap.Delete(t.Context(), s, "n", "m", api.Options{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		if m, err := core.ConfigMap.Get(t.Context(), s, "n", "m"); err == nil { // finalizers hold it
			m = m.DeepCopy()
			m.Finalizers = nil
			if _, err := core.ConfigMap.Update(t.Context(), s, m); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzContinue reads tokens as they may come from anywhere, and its own.
func FuzzContinue(f *testing.F) {
	f.Add(formatContinue(7, "a/b\x00"))
	f.Add("eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi94In0")
	f.Fuzz(func(t *testing.T, token string) {
		rev, start, err := parseContinue(token)
		if err != nil {
			if !apierrors.IsBadRequest(err) {
				t.Fatalf("%q: %v", token, err)
			}
		} else if rev == 0 || start == "" || strings.HasPrefix(start, "/") || strings.HasPrefix(start, "../") {
			t.Fatalf("%q is %d, %q", token, rev, start)
		}
		if err == nil || !strings.ContainsAny(token, "/.") && token != "" && utf8.ValidString(token) {
			key := start
			if err != nil {
				key = "ns/" + token
			}
			if again, from, err := parseContinue(formatContinue(rev+1, key)); rev != -1 && (err != nil || again != rev+1 || from != key) {
				t.Fatalf("%q came back as %d, %q, %v", key, again, from, err)
			}
		}
	})
}

// FuzzSelect lists by selectors what they match one by one, index or not.
func FuzzSelect(f *testing.F) {
	for _, l := range []string{"", "a", "!a", "a=1", "a!=1", "a in (1,2)", "a notin (1),b", "b>1", "b<2,a==2"} {
		for _, x := range []string{"", "data.color=1", "data.color!=1", "metadata.name=m3,data.color=0", "data.color=0,data.color=1"} {
			f.Add(l, x)
		}
	}
	color := func(m *corev1.ConfigMap) string { return m.Data["color"] }
	kind := &api.Kind[*corev1.ConfigMap]{API: "v1", Resource: "configmaps", Scope: api.Namespaced, Fields: map[string]func(*corev1.ConfigMap) string{"data.color": color}}
	e := memory.New(nil)
	s, err := New(f.Context(), Config{Engine: e, Kinds: []api.Definition{kind}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close(); e.Close() })
	var all []*corev1.ConfigMap
	for i := range 12 {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: fmt.Sprintf("m%02d", i), Labels: map[string]string{}}, Data: map[string]string{"color": fmt.Sprint(i % 3)}}
		if i%2 == 0 {
			m.Labels["a"] = fmt.Sprint(i % 4)
		}
		if i%3 == 0 {
			m.Labels["b"] = fmt.Sprint(i)
		}
		if m, err = kind.Create(f.Context(), s, m); err != nil {
			f.Fatal(err)
		}
		all = append(all, m)
	}
	f.Fuzz(func(t *testing.T, byLabel, byField string) {
		l, err := labels.Parse(byLabel)
		if err != nil {
			return
		}
		x, err := fields.ParseSelector(byField)
		if err != nil {
			return
		}
		got, err := kind.List(t.Context(), s, "", api.Selectors{Labels: l, Fields: x})
		if err != nil {
			if !apierrors.IsBadRequest(err) {
				t.Fatal(err)
			}
			return
		}
		var want []string
		for _, m := range all {
			set := fields.Set{"metadata.name": m.Name, "metadata.namespace": m.Namespace, "data.color": color(m)}
			if l.Matches(labels.Set(m.Labels)) && x.Matches(set) {
				want = append(want, m.Name)
			}
		}
		var names []string
		for _, m := range got {
			names = append(names, m.Name)
		}
		if fmt.Sprint(names) != fmt.Sprint(want) {
			t.Fatalf("%q, %q: %v, want %v", byLabel, byField, names, want)
		}
	})
}
