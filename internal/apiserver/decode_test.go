package apiserver

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/randfill"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
)

// TestReadsWell: what the quick reader takes, the library with Kubernetes' errors
// takes without a complaint, and reads the same; for every kind, and for bodies
// that something was done to. And the quick one takes what is well.
func TestReadsWell(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(uint64(seed), 0))
	fill := randfill.NewWithSeed(seed).NilChance(0.5).NumElements(0, 3).MaxDepth(10).Funcs(
		func(f *metav1.FieldsV1, _ randfill.Continue) { *f = *metav1.NewFieldsV1(`{"f:x":{}}`) },
		func(x *runtime.RawExtension, _ randfill.Continue) { x.Raw = []byte(`{"a":[1, 2]}`) },
		func(d *metav1.Time, _ randfill.Continue) { *d = metav1.Unix(r.Int64N(1e9), 0) },
	)
	var kinds []schema.GroupVersionKind
	for gvk, typ := range scheme.Scheme.AllKnownTypes() {
		if _, has := typ.FieldByName("ObjectMeta"); has {
			kinds = append(kinds, gvk)
		}
	}
	slices.SortFunc(kinds, func(a, b schema.GroupVersionKind) int { return strings.Compare(a.String(), b.String()) })
	quick, tried := 0, 0
	for _, gvk := range kinds {
		empty := func() api.Object {
			o, err := scheme.Scheme.New(gvk)
			if err != nil {
				t.Fatal(err)
			}
			return o.(api.Object)
		}
		for range 4 {
			o := empty()
			fill.Fill(o)
			whole, err := json.Marshal(o)
			if err != nil {
				continue // such as a time that JSON cannot say
			}
			if !readsWell(whole, empty(), true) {
				t.Errorf("%s: not read: %s", gvk, whole)
			}
			for range 8 {
				body, check := damaged(r, whole), r.IntN(3) > 0
				tried++
				got, want := empty(), empty()
				if !readsWell(body, got, check) {
					if !reflect.DeepEqual(got, want) {
						t.Fatalf("%s: something is left of %s", gvk, body)
					}
					continue
				}
				quick++
				strict, err := kjson.UnmarshalStrict(body, want)
				if err != nil || check && len(strict) > 0 {
					t.Fatalf("%s: the library says %v %v of %s", gvk, strict, err, body)
				}
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("%s: differs from what the library reads: %s\n%s", gvk, cmp.Diff(want, got), body)
				}
			}
		}
	}
	if quick < 100 || quick == tried {
		t.Errorf("%d of %d bodies were read quickly", quick, tried)
	}
}

// damaged is a body with one value replaced, or one byte.
func damaged(r *rand.Rand, body []byte) []byte {
	values := []string{"null", "{}", "[]", "[null]", `""`, `"x"`, "1", "1.0", "1e2", "-0", "true", `{"a":null}`, `{"a":"b","a":"c"}`, `"\ud800"`, " 12 ", `"5"`, "0.5", `{"unknown":1}`}
	out := slices.Clone(body)
	i := r.IntN(len(out))
	if r.IntN(4) == 0 {
		out[i] ^= 1 << r.IntN(7)
		return out
	}
	for range len(out) {
		if i = (i + 1) % len(out); out[i] == ':' && i > 0 && out[i-1] == '"' {
			d := json.NewDecoder(strings.NewReader(string(out[i+1:])))
			var raw json.RawMessage
			if d.Decode(&raw) == nil {
				return slices.Concat(out[:i+1], []byte(values[r.IntN(len(values))]), out[i+1+len(raw):])
			}
		}
	}
	return out
}
