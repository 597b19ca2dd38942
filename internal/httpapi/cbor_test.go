package httpapi

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/client-go/kubernetes/scheme"

	"proa/internal/api"
)

// cborOf encodes as a client does.
func cborOf(t *testing.T, o runtime.Object) string {
	t.Helper()
	var b bytes.Buffer
	if err := cbor.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(o, &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// fromCBOR reads as a client does, every unknown field an error.
func fromCBOR(t *testing.T, body string) runtime.Object {
	t.Helper()
	s := cbor.NewSerializer(scheme.Scheme, scheme.Scheme, cbor.Strict(true))
	if ok, _, _ := s.RecognizesData([]byte(body)); !ok {
		t.Fatalf("%q is no CBOR", body)
	}
	o, _, err := s.Decode([]byte(body), nil, nil)
	if err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	return o
}

// live is the real server on the wire, with a namespace.
func live(t *testing.T) *rig {
	r := serve(t, realServer(t), Config{})
	r.want(201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"default"}}`)
	return r
}

// want sends a request and checks the code of the answer.
func (r *rig) want(code int, method, path, body string, headers ...string) string {
	r.t.Helper()
	resp, got := r.call(method, path, "", body, headers...)
	if resp.StatusCode != code {
		r.t.Fatalf("%s %s: %d %s, want %d", method, path, resp.StatusCode, got, code)
	}
	return got
}

func TestCBOR(t *testing.T) {
	rig := live(t)
	const secrets = "/api/v1/namespaces/default/secrets"
	in := &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Name: "s"}, Data: map[string][]byte{"k": {0, 255, 'x'}}}
	resp, body := rig.call("POST", secrets, "application/cbor", cborOf(t, in), "Content-Type", "application/cbor")
	if resp.StatusCode != 201 || resp.Header.Get("Content-Type") != "application/cbor" {
		t.Fatalf("%d %s %q", resp.StatusCode, resp.Header, body)
	}
	if got := fromCBOR(t, body).(*corev1.Secret); string(got.Data["k"]) != "\x00\xffx" || got.Kind != "Secret" || got.UID == "" || got.CreationTimestamp.IsZero() {
		t.Errorf("created %+v", got)
	}
	if got := rig.want(200, "GET", secrets+"/s", ""); !strings.Contains(got, `"data":{"k":"AP94"}`) {
		t.Errorf("as JSON: %s", got)
	}
	_, body = rig.call("GET", secrets, "application/cbor", "")
	if l := fromCBOR(t, body).(*corev1.SecretList); len(l.Items) != 1 || l.Items[0].Kind != "" || l.ResourceVersion == "" || string(l.Items[0].Data["k"]) != "\x00\xffx" {
		t.Errorf("listed %+v", l)
	}
	if ours, theirs := body, cborOf(t, fromCBOR(t, body)); len(ours) != len(theirs) {
		t.Errorf("the list is %d bytes, apimachinery's of the same is %d", len(ours), len(theirs))
	}
	for _, as := range []string{"Table", "PartialObjectMetadataList"} {
		resp, body = rig.call("GET", secrets, "application/cbor;as="+as+";g=meta.k8s.io;v=v1", "")
		var u map[string]any
		if err := direct.Unmarshal([]byte(body), &u); err != nil || u["kind"] != as || resp.Header.Get("Content-Type") != "application/cbor" {
			t.Errorf("%s: %v, %v", as, u, err)
		}
	}
	resp, body = rig.call("GET", secrets+"/nobody", "application/cbor", "")
	if st := fromCBOR(t, body).(*metav1.Status); resp.StatusCode != 404 || st.Reason != metav1.StatusReasonNotFound || st.Details.Name != "nobody" {
		t.Errorf("%d %+v", resp.StatusCode, st)
	}
	if resp, body = rig.call("GET", secrets, "application/cbor-seq", ""); resp.StatusCode != 406 || !strings.Contains(body, "application/cbor") {
		t.Errorf("a sequence that is none: %d %s", resp.StatusCode, body)
	}
}

func TestCBORRefused(t *testing.T) {
	rig := live(t)
	const maps = "/api/v1/namespaces/default/configmaps"
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "m"}, "dada": "x"}}
	unknown := cborOf(t, u)
	for _, c := range []struct{ query, body, says string }{
		{"", "\xd9\xd9\xf7\xa2\x41a\x01\x41a\x02", "found duplicate map key"},
		{"", unknown + "\x00", "extraneous data"},
		{"", unknown[:20], "unexpected EOF"},
		{"", "\xd9\xd9\xf7\x01", "cannot unmarshal"},
		{"?fieldValidation=Strict", unknown, "strict decoding error: cbor: found unknown field"},
		{"", cborOf(t, &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}}), "cannot be handled as a ConfigMap"},
		{"", strings.Repeat("\x81", 1<<20) + "\x01", "exceeded max nested level"},
	} {
		if got := rig.want(400, "POST", maps+c.query, c.body, "Content-Type", "application/cbor"); !strings.Contains(got, c.says) {
			t.Errorf("%.100q: %s, want %q", c.body, got, c.says)
		}
	}
	resp, body := rig.call("POST", maps, "", unknown, "Content-Type", "application/cbor")
	if w := resp.Header.Get("Warning"); resp.StatusCode != 201 || !strings.Contains(w, "found unknown field") {
		t.Errorf("%d %q %s", resp.StatusCode, w, body)
	}
	rig.want(409, "POST", maps+"?fieldValidation=Ignore", unknown, "Content-Type", "application/cbor")
}

func TestCBORApplyAndDelete(t *testing.T) {
	rig := live(t)
	const one = "/api/v1/namespaces/default/configmaps/m"
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "m"}, "data": map[string]any{"k": "v"}}}
	got := rig.want(201, "PATCH", one+"?fieldManager=me", cborOf(t, u), "Content-Type", "application/apply-patch+cbor")
	if !strings.Contains(got, `"manager":"me","operation":"Apply"`) {
		t.Error(got)
	}
	got = rig.want(400, "PATCH", one+"?fieldManager=me", "\xd9\xd9\xf7\xa2\x41a\x01\x41a\x02", "Content-Type", "application/apply-patch+cbor")
	if !strings.Contains(got, "error decoding patch: ") {
		t.Error(got)
	}
	uid := "other"
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": map[string]any{"uid": uid}}}
	rig.want(409, "DELETE", one, cborOf(t, o), "Content-Type", "application/cbor")
	o.SetKind("Pod")
	rig.want(400, "DELETE", one, cborOf(t, o), "Content-Type", "application/cbor")
}

func TestCBORWatch(t *testing.T) {
	rig := live(t)
	const maps = "/api/v1/namespaces/default/configmaps"
	for _, name := range []string{"a", "b"} {
		rig.want(201, "POST", maps, `{"metadata":{"name":"`+name+`"}}`)
	}
	for _, accept := range []string{"application/cbor", "application/cbor-seq"} {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", rig.URL+maps+"?watch=1&resourceVersion=0&timeoutSeconds=1&allowWatchBookmarks=true", nil)
		req.Header.Set("Accept", accept)
		resp, err := rig.client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if typ := resp.Header.Get("Content-Type"); typ != "application/cbor-seq" {
			t.Errorf("Content-Type %q", typ)
		}
		frames := cbor.NewFramer().NewFrameReader(resp.Body)
		var seen []string
		for {
			b := make([]byte, 1<<16)
			n, err := frames.Read(b)
			if err == io.EOF {
				break
			}
			var e metav1.WatchEvent
			if err == nil {
				err = direct.Unmarshal(b[:n], &e)
			}
			if err != nil {
				t.Fatal(err)
			}
			o := fromCBOR(t, string(e.Object.Raw)).(*corev1.ConfigMap)
			seen = append(seen, e.Type+" "+o.Name)
		}
		if got := strings.Join(seen, ", "); got != "ADDED a, ADDED b, "+"BOOKMARK , BOOKMARK " { // the initial state ends; the watch does
			t.Errorf("saw %s", got)
		}
	}
}

// What goes out in CBOR and comes in again is the same object.
func FuzzCBOR(f *testing.F) {
	f.Add([]byte(cborSeed(f)))
	f.Add([]byte("\xd9\xd9\xf7\xa1\x44data\xa1\x41k\x01"))
	f.Fuzz(func(t *testing.T, body []byte) {
		want := corev1.SchemeGroupVersion.WithKind("Pod")
		for _, strict := range []bool{true, false} {
			var ours, theirs corev1.Pod
			_, warned, err := api.DecodeCBOR(body, want, &ours, strict)
			_, kind, err2 := cbor.NewSerializer(scheme.Scheme, scheme.Scheme, cbor.Strict(strict)).Decode(body, &want, &theirs)
			if kind != nil && *kind != want {
				return // another kind; theirs then makes an object of that
			}
			if runtime.IsStrictDecodingError(err2) {
				if len(warned) == 0 || err != nil {
					t.Fatalf("%q: strict %v, %v; apimachinery says %v", body, warned, err, err2)
				}
				continue
			}
			if (err == nil) != (err2 == nil) || len(warned) > 0 {
				t.Fatalf("%q: %v, %v; apimachinery says %v", body, warned, err, err2)
			}
			if err != nil {
				continue
			}
			b, err := api.EncodeCBOR(&ours)
			if err != nil {
				continue // an invalid raw extension
			}
			var again corev1.Pod
			if _, _, err := api.DecodeCBOR(b, want, &again, true); err != nil {
				t.Fatalf("%q came back as %q: %v", body, b, err)
			}
		}
	})
}

func cborSeed(f *testing.F) string {
	var b bytes.Buffer
	p := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	if err := cbor.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(p, &b); err != nil {
		f.Fatal(err)
	}
	return b.String()
}

// An object of two groups comes in CBOR as either.
func TestCBORVersions(t *testing.T) {
	rig := live(t)
	rig.want(201, "POST", "/api/v1/namespaces/default/events", `{"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","namespace":"default","name":"p"},"reason":"r","type":"Normal","message":"m"}`)
	_, body := rig.call("GET", "/apis/events.k8s.io/v1/namespaces/default/events", "application/cbor", "")
	if l, ok := fromCBOR(t, body).(*eventsv1.EventList); !ok || len(l.Items) != 1 || l.Items[0].Note != "m" || l.Items[0].Kind != "" {
		t.Errorf("%q", body)
	}
	_, body = rig.call("GET", "/apis/events.k8s.io/v1/namespaces/default/events/e", "application/cbor", "")
	if e, ok := fromCBOR(t, body).(*eventsv1.Event); !ok || e.Regarding.Name != "p" {
		t.Errorf("%q", body)
	}
}
