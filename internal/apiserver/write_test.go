package apiserver_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
	"proa/internal/store/memory"
)

func TestBodies(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	proto := func() []byte {
		raw, err := configMap("", "p").Marshal()
		if err != nil {
			t.Fatal(err)
		}
		u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, Raw: raw}
		b, err := u.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte("k8s\x00"), b...)
	}()
	for i, c := range []struct {
		media, body, mode string
		warnings          string
		code              int32
		text              string
	}{
		{"application/json", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"}}`, "Strict", "", 0, ""},
		{"application/json; charset=utf-8", `{"metadata":{"name":"b"}}`, "Strict", "", 0, ""},
		{"application/yaml", "metadata:\n  name: c\n", "Strict", "", 0, ""},
		{"application/vnd.kubernetes.protobuf", string(proto), "Strict", "", 0, ""},
		{"application/json", `{"metadata":{"name":"d"},"dada":{}}`, "Warn", `unknown field "dada"`, 0, ""},
		{"application/json", `{"metadata":{"name":"e"},"dada":{}}`, "", `unknown field "dada"`, 0, ""},
		{"application/json", `{"metadata":{"name":"f"},"dada":{}}`, "Ignore", "", 0, ""},
		{"application/json", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"},"dada":{}}`, "Strict", "", 400,
			`ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "dada"`},
		{"application/json", `{"metadata":{"name":"x"},"data":{"a":"1","a":"2"}}`, "Strict", "", 400, `strict decoding error: duplicate field "data.a"`},
		{"application/yaml", "metadata: {name: x}\ndata: {a: b}\ndata: {a: c}\n", "Strict", "", 400, `key "data" already set in map`},
		{"application/json", `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"}}`, "", "", 400, `Secret in version "v1" cannot be handled as a ConfigMap`},
		{"application/json", `{"kind":"ConfigMap","apiVersion":"v2","metadata":{"name":"x"}}`, "", "", 400, "the API version in the data (v2) does not match the expected API version (v1)"},
		{"application/json", `{"kind":"ConfigMap","apiVersion":"v1","data":{"a":1}}`, "", "", 400, `ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal number`},
		{"application/json", `{`, "", "", 400, `the object provided is unrecognized (must be of type ConfigMap): unexpected end of JSON input ("{")`},
		{"application/json", ``, "", "", 400, "no body"},
		{"text/html", `<`, "", "", 415, "accepted media types include"},
		{"application/vnd.kubernetes.protobuf", "x", "", "", 400, "does not begin with"},
		{"application/json", `{"metadata":{"name":"x"}}`, "Sometimes", "", 400, "fieldValidation: Unsupported value"},
		{"application/json", `{"metadata":{"name":"x","namespace":"other"}}`, "", "", 400, "the namespace of the provided object does not match the namespace sent on the request"},
		{"application/json", `{"metadata":{"name":"x","resourceVersion":"7"}}`, "", "", 400, "resourceVersion should not be set on objects to be created"},
		{"application/json", `{"metadata":{}}`, "", "", 422, "metadata.name: Required value: name or generateName is required"},
		{"application/json", `{"metadata":{"name":"X_"}}`, "", "", 422, `metadata.name: Invalid value: "X_"`},
	} {
		resp, err := s.Handle(t.Context(), &api.Request{Verb: api.Create, Resource: core.ConfigMap.Def(), Namespace: "ns",
			Body: []byte(c.body), ContentType: c.media, Options: api.Options{FieldValidation: c.mode}})
		if c.code == 0 {
			if err != nil {
				t.Errorf("%d: %v", i, err)
			} else if got := strings.Join(resp.Warnings, "|"); got != c.warnings {
				t.Errorf("%d: warnings %q, want %q", i, got, c.warnings)
			}
			continue
		}
		var status apierrors.APIStatus
		if !errors.As(err, &status) || status.Status().Code != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%d: got %v, want %d with %s", i, err, c.code, c.text)
		}
	}
}

const deployment = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","namespace":"a"},
	"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"},{"name":"e","image":"j"}]}}}}`

func deploy(t testing.TB, s *apiserver.Server) *appsv1.Deployment {
	t.Helper()
	resp, err := s.Handle(t.Context(), &api.Request{Verb: api.Create, Resource: apps.Deployment.Def(), Namespace: "a", Body: []byte(deployment), ContentType: api.MediaJSON})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Item.Object().(*appsv1.Deployment)
}

func TestPatch(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	d := deploy(t, s)
	for i, c := range []struct {
		typ   types.PatchType
		patch string
		mode  string
		check string // a JSON form of what is looked at
		code  int32
		text  string
	}{
		{types.StrategicMergePatchType, `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"new"}]}}}}`, "", `["new","j"]`, 0, ""},
		{types.MergePatchType, `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"only"}]}}}}`, "", `["only"]`, 0, ""},
		{types.JSONPatchType, `[{"op":"add","path":"/spec/template/spec/containers/-","value":{"name":"z","image":"zi"}}]`, "", `["only","zi"]`, 0, ""},
		{types.JSONPatchType, `[{"op":"test","path":"/metadata/name","value":"no"}]`, "", "", 422, "testing value /metadata/name failed"},
		{types.JSONPatchType, `{"a":1}`, "", "", 400, "error decoding patch"},
		{types.MergePatchType, `[`, "", "", 400, "error decoding patch"},
		{types.StrategicMergePatchType, `{"spec":{"foo":1}}`, "Strict", "", 422, `patch: Invalid value: "map[spec:map[foo:1]]": strict decoding error: unknown field "spec.foo"`},
		{types.JSONPatchType, `[{"op":"add","path":"/metadata/labels","value":{},"odd":1}]`, "Strict", "", 422, `strict decoding error: json patch unknown field "[0].odd"`},
		{types.MergePatchType, `{"metadata":{"labels":{}},"metadata":{}}`, "Strict", "", 422, `strict decoding error: duplicate field "metadata"`},
		{types.MergePatchType, `{"spec":{"foo":1}}`, "Strict", "", 422, `strict decoding error: unknown field "spec.foo"`},
		{types.StrategicMergePatchType, `{"spec":{"replicas":"many"}}`, "", "", 422, "patch: Invalid value"},
		{types.MergePatchType, `{"metadata":{"name":"other"}}`, "", "", 400, "does not match the name on the URL"},
		{types.MergePatchType, `{"metadata":{"resourceVersion":"1000"}}`, "", "", 409, "the object has been modified"},
		{types.MergePatchType, `{"metadata":{"labels":{"a b":"c"}}}`, "", "", 422, `metadata.labels: Invalid value: "a b"`},
		{types.ApplyCBORPatchType, `{}`, "", "", 415, "is not one of"},
		{"text/plain", `{}`, "", "", 415, "text/plain"},
	} {
		resp, err := s.Handle(t.Context(), &api.Request{Verb: api.Patch, Resource: apps.Deployment.Def(), Namespace: "a", Name: "d",
			Patch: c.typ, Body: []byte(c.patch), Options: api.Options{FieldValidation: c.mode}})
		if c.code != 0 {
			var status apierrors.APIStatus
			if !errors.As(err, &status) || status.Status().Code != c.code || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%d: got %v, want %d with %s", i, err, c.code, c.text)
			}
			continue
		}
		if err != nil {
			t.Errorf("%d: %v", i, err)
			continue
		}
		var images []string
		for _, c := range resp.Item.Object().(*appsv1.Deployment).Spec.Template.Spec.Containers {
			images = append(images, c.Image)
		}
		if got, _ := json.Marshal(images); string(got) != c.check {
			t.Errorf("%d: images %s, want %s", i, got, c.check)
		}
	}
	if d.Spec.Template.Spec.Containers[0].Image != "i" {
		t.Error("a patch changed a shared object")
	}
	if _, err := apps.Deployment.Patch(t.Context(), s, "a", "none", "", types.MergePatchType, []byte(`{}`)); !apierrors.IsNotFound(err) {
		t.Errorf("patched what is not there: %v", err)
	}
}

// Patches that say nothing of the version are all made, whatever runs at the same time.
func TestPatchesDoNotGetLost(t *testing.T) {
	each(t, func(t *testing.T, s *apiserver.Server) {
		must[*corev1.ConfigMap](t)(core.ConfigMap.Create(t.Context(), s, configMap("a", "x")))
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				_, err := core.ConfigMap.Patch(t.Context(), s, "a", "x", "", types.MergePatchType, fmt.Appendf(nil, `{"data":{"k%d":"v"}}`, i))
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if m := must[*corev1.ConfigMap](t)(core.ConfigMap.Get(t.Context(), s, "a", "x")); len(m.Data) != 20 {
			t.Errorf("%d patches of 20 are there", len(m.Data))
		}
	})
}

// Of the updates that were made from one version only one is made.
func TestUpdatesDoNotOverwriteEachOther(t *testing.T) {
	each(t, func(t *testing.T, s *apiserver.Server) {
		must[*corev1.ConfigMap](t)(core.ConfigMap.Create(t.Context(), s, configMap("a", "x", "n", "0")))
		var wg sync.WaitGroup
		var made, lost atomic.Int64
		for range 8 {
			wg.Go(func() {
				for range 50 {
					m, err := core.ConfigMap.Get(t.Context(), s, "a", "x")
					if err != nil {
						t.Error(err)
						return
					}
					m = api.Clone(m)
					n, _ := strconv.Atoi(m.Data["n"])
					m.Data["n"] = strconv.Itoa(n + 1)
					switch _, err := core.ConfigMap.Update(t.Context(), s, m); {
					case err == nil:
						made.Add(1)
					case apierrors.IsConflict(err):
						lost.Add(1)
					default:
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		m := must[*corev1.ConfigMap](t)(core.ConfigMap.Get(t.Context(), s, "a", "x"))
		if m.Data["n"] != strconv.FormatInt(made.Load(), 10) {
			t.Errorf("the count is %s after %d updates (%d refused)", m.Data["n"], made.Load(), lost.Load())
		}
		t.Logf("%d made, %d refused", made.Load(), lost.Load())
	})
}

func TestScale(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	d := deploy(t, s)
	ask := func(r *api.Request) (*autoscalingv1.Scale, error) {
		r.Resource, r.Namespace, r.Name, r.Sub = apps.Deployment.Def(), "a", "d", "scale"
		resp, err := s.Handle(t.Context(), r)
		if err != nil {
			return nil, err
		}
		return resp.Object.(*autoscalingv1.Scale), nil
	}
	m := must[*autoscalingv1.Scale](t)
	sc := m(ask(&api.Request{Verb: api.Get}))
	if sc.Spec.Replicas != 1 || sc.Status.Selector != "a=b" || sc.UID != d.UID || sc.Kind != "Scale" {
		t.Fatalf("%+v", sc)
	}
	in := api.Clone(sc)
	in.Spec.Replicas = 4
	if out := m(ask(&api.Request{Verb: api.Update, Object: in})); out.Spec.Replicas != 4 {
		t.Errorf("%+v", out)
	}
	in = api.Clone(sc)
	in.Spec.Replicas = 5
	_, err := ask(&api.Request{Verb: api.Update, Object: in})
	wantError(t, err, 409, metav1.StatusReasonConflict, "the object has been modified")
	in = api.Clone(sc)
	in.ResourceVersion, in.Spec.Replicas = "", -1
	_, err = ask(&api.Request{Verb: api.Update, Object: in})
	wantError(t, err, 422, metav1.StatusReasonInvalid, "spec.replicas: Invalid value: -1")
	if out := m(ask(&api.Request{Verb: api.Patch, Patch: types.StrategicMergePatchType, Body: []byte(`{"spec":{"replicas":2}}`)})); out.Spec.Replicas != 2 {
		t.Errorf("%+v", out)
	}
	_, err = ask(&api.Request{Verb: api.Delete})
	wantError(t, err, 405, metav1.StatusReasonMethodNotAllowed, "delete is not supported")
}

func TestGracefulDeletion(t *testing.T) {
	each(t, func(t *testing.T, s *apiserver.Server) {
		ctx := t.Context()
		p := must[*corev1.Pod](t)(core.Pod.Create(ctx, s, pod("a", "p", "n1")))
		del := func(grace *int64) *api.Response {
			t.Helper()
			return must[*api.Response](t)(s.Handle(ctx, &api.Request{Verb: api.Delete, Resource: core.Pod.Def(), Namespace: "a", Name: "p", Options: api.Options{GracePeriod: grace}}))
		}
		first := del(nil).Item.Object()
		if first.GetDeletionTimestamp() == nil || *first.GetDeletionGracePeriodSeconds() != 30 || first.GetGeneration() != p.Generation+1 {
			t.Fatalf("%+v", first)
		}
		if again := del(nil).Item.Object(); again.GetResourceVersion() != first.GetResourceVersion() {
			t.Error("a second delete wrote something")
		}
		if longer := del(new(int64(60))).Item.Object(); *longer.GetDeletionGracePeriodSeconds() != 30 {
			t.Error("the time to end was made longer")
		}
		short := del(new(int64(5))).Item.Object()
		if *short.GetDeletionGracePeriodSeconds() != 5 || short.GetDeletionTimestamp().Sub(first.GetDeletionTimestamp().Time).Seconds() != -25 {
			t.Errorf("shortened to %v, %v", short.GetDeletionTimestamp(), *short.GetDeletionGracePeriodSeconds())
		}
		if _, err := core.Pod.Get(ctx, s, "a", "p"); err != nil {
			t.Fatal(err)
		}
		if r := del(new(int64(0))); !r.Deleted || r.Item == nil {
			t.Errorf("%+v", r)
		}
		if _, err := core.Pod.Get(ctx, s, "a", "p"); !apierrors.IsNotFound(err) {
			t.Errorf("still there: %v", err)
		}
	})
}

func TestFinalizersAndPropagation(t *testing.T) {
	each(t, func(t *testing.T, s *apiserver.Server) {
		ctx := t.Context()
		m := must[*corev1.ConfigMap](t)
		cm := configMap("a", "x")
		cm.Finalizers = []string{"example.com/hold"}
		m(core.ConfigMap.Create(ctx, s, cm))
		if err := core.ConfigMap.Delete(ctx, s, "a", "x", api.Options{Propagation: new(metav1.DeletePropagationForeground)}); err != nil {
			t.Fatal(err)
		}
		held := m(core.ConfigMap.Get(ctx, s, "a", "x"))
		if held.DeletionTimestamp == nil || !slices.Equal(held.Finalizers, []string{"example.com/hold", "foregroundDeletion"}) {
			t.Fatalf("%+v", held.ObjectMeta)
		}
		more := api.Clone(held)
		more.Finalizers = append(more.Finalizers, "example.com/late")
		_, err := core.ConfigMap.Update(ctx, s, more)
		wantError(t, err, 422, metav1.StatusReasonInvalid, "no new finalizers can be added if the object is being deleted")
		less := api.Clone(held)
		less.Finalizers, less.DeletionTimestamp = []string{"foregroundDeletion"}, nil
		if got := m(core.ConfigMap.Update(ctx, s, less)); got.DeletionTimestamp == nil {
			t.Error("an update took a deletion back")
		}
		m(core.ConfigMap.Patch(ctx, s, "a", "x", "", types.JSONPatchType, []byte(`[{"op":"remove","path":"/metadata/finalizers"}]`)))
		if _, err := core.ConfigMap.Get(ctx, s, "a", "x"); !apierrors.IsNotFound(err) {
			t.Errorf("still there after its last finalizer: %v", err)
		}
		resp := must[*api.Response](t)(s.Handle(ctx, &api.Request{Verb: api.Create, Resource: core.ConfigMap.Def(), Namespace: "a", Object: configMap("a", "y")}))
		gone := must[*api.Response](t)(s.Handle(ctx, &api.Request{Verb: api.Delete, Resource: core.ConfigMap.Def(), Namespace: "a", Name: "y"}))
		if d := gone.Status.Details; gone.Status.Status != "Success" || d.Name != "y" || d.Kind != "configmaps" || d.UID != resp.Item.Object().GetUID() {
			t.Errorf("%+v", gone.Status)
		}
	})
}

func TestDryRun(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	ctx := t.Context()
	dry := api.Options{DryRun: true}
	do := func(r *api.Request) (*api.Response, error) {
		r.Resource, r.Namespace, r.Options = core.ConfigMap.Def(), "a", dry
		return s.Handle(ctx, r)
	}
	if resp, err := do(&api.Request{Verb: api.Create, Object: configMap("a", "x")}); err != nil || resp.Item.Object().GetUID() == "" {
		t.Fatal(err)
	}
	if _, err := core.ConfigMap.Get(ctx, s, "a", "x"); !apierrors.IsNotFound(err) {
		t.Fatal("a dry run wrote")
	}
	must[*corev1.ConfigMap](t)(core.ConfigMap.Create(ctx, s, configMap("a", "x", "k", "1")))
	rev := s.Revision()
	if _, err := do(&api.Request{Verb: api.Create, Object: configMap("a", "x")}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("%v", err)
	}
	if resp, err := do(&api.Request{Verb: api.Update, Name: "x", Object: configMap("a", "x", "k", "2")}); err != nil || resp.Item.Object().(*corev1.ConfigMap).Data["k"] != "2" {
		t.Errorf("%v", err)
	}
	if _, err := do(&api.Request{Verb: api.Delete, Name: "x"}); err != nil {
		t.Errorf("%v", err)
	}
	if s.Revision() != rev {
		t.Error("a dry run wrote")
	}
}

func TestDeleteCollection(t *testing.T) {
	each(t, func(t *testing.T, s *apiserver.Server) {
		ctx := t.Context()
		for i := range 40 {
			cm := configMap(string(rune('a'+i%2)), fmt.Sprint("m", i))
			cm.Labels = map[string]string{"half": fmt.Sprint(i % 4 / 2)}
			must[*corev1.ConfigMap](t)(core.ConfigMap.Create(ctx, s, cm))
		}
		resp := must[*api.Response](t)(s.Handle(ctx, &api.Request{Verb: api.DeleteCollection, Resource: core.ConfigMap.Def(), Namespace: "a",
			Select: api.WithLabels(map[string]string{"half": "1"})}))
		left := must[[]*corev1.ConfigMap](t)(core.ConfigMap.List(ctx, s, "", api.Selectors{}))
		if len(resp.List.Items) != 10 || len(left) != 30 {
			t.Errorf("%d deleted, %d left", len(resp.List.Items), len(left))
		}
	})
}

func TestRefusals(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	ctx := t.Context()
	_, err := s.Handle(ctx, &api.Request{Verb: api.Get, Path: "/nowhere"})
	wantError(t, err, 404, metav1.StatusReasonNotFound, "the server could not find the requested resource")
	_, err = s.Handle(ctx, &api.Request{Verb: api.DeleteCollection, Resource: core.Namespace.Def()})
	wantError(t, err, 405, metav1.StatusReasonMethodNotAllowed, "deletecollection is not supported")
	_, err = s.Handle(ctx, &api.Request{Verb: api.Get, Resource: core.Pod.Def(), Namespace: "a", Name: "x", Sub: "nothing"})
	wantError(t, err, 404, metav1.StatusReasonNotFound, "could not find")
	_, err = s.Handle(ctx, &api.Request{Verb: api.Get, Resource: core.Pod.Def(), Namespace: "a", Name: "x", Sub: "log"})
	wantError(t, err, 503, metav1.StatusReasonServiceUnavailable, "nothing here answers")
	_, err = s.Handle(ctx, &api.Request{Verb: api.Delete, Resource: core.Pod.Def(), Namespace: "a", Name: "x", Sub: "log"})
	wantError(t, err, 405, metav1.StatusReasonMethodNotAllowed, "pods/log")
	_, err = s.Handle(ctx, &api.Request{Verb: api.Delete, Resource: core.Pod.Def(), Namespace: "a", Name: "x", Options: api.Options{Propagation: new(metav1.DeletionPropagation("Maybe"))}})
	wantError(t, err, 400, metav1.StatusReasonBadRequest, "propagationPolicy")
}

// A subresource that somebody else answers gets its body, decoded, and the server.
func TestSubresource(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	ctx := t.Context()
	must[*corev1.Pod](t)(core.Pod.Create(ctx, s, pod("a", "p", "")))
	bind := func(node string) error {
		_, err := s.Handle(ctx, &api.Request{Verb: api.Create, Resource: core.Pod.Def(), Namespace: "a", Name: "p", Sub: "binding",
			ContentType: api.MediaJSON, Body: []byte(`{"apiVersion":"v1","kind":"Binding","metadata":{"name":"p"},"target":{"kind":"Node","name":"` + node + `"}}`)})
		return err
	}
	if err := bind("n1"); err != nil {
		t.Fatal(err)
	}
	if p := must[*corev1.Pod](t)(core.Pod.Get(ctx, s, "a", "p")); p.Spec.NodeName != "n1" {
		t.Errorf("node %q", p.Spec.NodeName)
	}
	wantError(t, bind("n2"), 409, metav1.StatusReasonConflict, "is already assigned to node")
}
