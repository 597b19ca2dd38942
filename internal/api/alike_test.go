package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/randfill"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

func encodePod(t testing.TB, p *corev1.Pod) []byte {
	t.Helper()
	b, err := core.Pod.Def().Codec.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func copyOf(i int, image string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: fmt.Sprint("p", i), Labels: map[string]string{"app": "a"}},
		Spec: corev1.PodSpec{NodeName: fmt.Sprint("n", i%7), Hostname: fmt.Sprint("h", i), ServiceAccountName: "default",
			Containers: []corev1.Container{{Name: "c", Image: image, Env: []corev1.EnvVar{{Name: "A", Value: "1"}}}},
			Volumes:    []corev1.Volume{{Name: "v"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: fmt.Sprint(i)},
	}
}

// Copies of a pod have their containers in common, and each is what it was.
func TestAlike(t *testing.T) {
	codec := core.Pod.Def().Codec
	var first *corev1.Pod
	for i := range 3000 {
		image := fmt.Sprint("image", i/1500)
		want := copyOf(i, image)
		o, err := codec.Decode(encodePod(t, want))
		if err != nil {
			t.Fatal(err)
		}
		got := o.(*corev1.Pod)
		want.TypeMeta = got.TypeMeta
		if !equality.Semantic.DeepEqual(got, want) {
			t.Fatalf("pod %d is not what was stored:\n%v\n%v", i, got, want)
		}
		if i%1500 == 0 {
			first = got
		} else if &got.Spec.Containers[0] != &first.Spec.Containers[0] {
			t.Fatalf("pod %d has containers of its own", i)
		}
	}
	// What there is no template of, and what is forgotten.
	for i := range 3000 {
		want := copyOf(i, fmt.Sprint("of its own ", i))
		o, err := codec.Decode(encodePod(t, want))
		if err != nil {
			t.Fatal(err)
		}
		if c := o.(*corev1.Pod).Spec.Containers[0]; c.Image != want.Spec.Containers[0].Image {
			t.Fatalf("pod %d has image %s", i, c.Image)
		}
	}
	if o, err := codec.Decode(encodePod(t, &corev1.Pod{})); err != nil || !reflect.DeepEqual(o.(*corev1.Pod).Spec, corev1.PodSpec{}) {
		t.Errorf("an empty pod became %v, %v", o, err)
	}
}

// What copies have in common is made into JSON once, and who owns it is told once: each copy
// is written as it would be alone, whatever it has to itself.
func TestAlikeWritten(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	words := []string{"a", "b", "with \"quotes\" & }more", "10", ""}
	filler := randfill.NewWithSeed(r.Int64()).NilChance(0.6).NumElements(1, 3).MaxDepth(12).Funcs(
		func(s *string, _ randfill.Continue) { *s = words[r.IntN(len(words))] },
		func(m *metav1.Time, _ randfill.Continue) { *m = metav1.Unix(r.Int64N(3), 0) },
		func(m *[]metav1.ManagedFieldsEntry, _ randfill.Continue) {},
		func(m *corev1.PodStatus, c randfill.Continue) { m.Message = words[r.IntN(len(words))] },
	)
	excepts := []string{"", `{"f:spec":{"f:nodeName":{},"f:containers":{"*":{}}}}`, `{"f:spec":{"*":{}}}`, `{"f:metadata":{"*":{}}}`, `{"broken`}
	at := metav1.Unix(1700000000, 0)
	pod := core.Pod.Def()
	for range 300 {
		var spec corev1.PodSpec
		filler.Fill(&spec)
		for range 6 {
			p := &corev1.Pod{Spec: *spec.DeepCopy()}
			filler.Fill(&p.ObjectMeta)
			filler.Fill(&p.Status)
			p.ResourceVersion = ""
			p.Spec.NodeName, p.Spec.Hostname = words[r.IntN(len(words))], words[r.IntN(len(words))]
			for range r.IntN(3) {
				e := metav1.ManagedFieldsEntry{Manager: "m", Operation: "Update", APIVersion: "v1", Time: &at}
				if x := excepts[r.IntN(len(excepts))]; x != "" {
					e.FieldsType, e.FieldsV1 = "Except", metav1.NewFieldsV1(x)
				}
				p.ManagedFields = append(p.ManagedFields, e)
			}
			body := encodePod(t, p)
			alone := new(corev1.Pod)
			if err := alone.Unmarshal(body); err != nil {
				t.Fatal(err)
			}
			public := api.NewItem(pod, 7, nil, alone)
			want, err := json.Marshal(public.Public())
			if err != nil {
				t.Fatal(err)
			}
			wire, err := public.Protobuf(nil)
			if err != nil {
				t.Fatal(err)
			}
			held := api.NewItem(pod, 7, body, nil)
			held.Object()
			for name, item := range map[string]*api.Item{"stored": api.NewItem(pod, 7, body, nil), "held": held} {
				got, err := item.AppendJSON([]byte("x"))
				if err != nil || string(got) != "x"+string(want) {
					t.Fatalf("seed %d, %s: %v\ngot  %s\nwant %s", seed, name, err, got, want)
				}
				if got, err := item.Protobuf(nil); err != nil || !bytes.Equal(got, wire) {
					t.Fatalf("seed %d, %s: %v\ngot  %q\nwant %q", seed, name, err, got, wire)
				}
				if err := item.Verify(); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
		}
	}
}

// What was written has its containers in common with others as what was read has.
func TestSettle(t *testing.T) {
	pod := core.Pod.Def()
	first := copyOf(1, "settled")
	pod.Settle(first, encodePod(t, first))
	for i := 2; i < 5; i++ {
		p, want := copyOf(i, "settled"), copyOf(i, "settled")
		pod.Settle(p, encodePod(t, p))
		if !equality.Semantic.DeepEqual(p, want) || &p.Spec.Containers[0] != &first.Spec.Containers[0] {
			t.Fatalf("%v became %v", want, p)
		}
	}
	other := copyOf(9, "another")
	pod.Settle(other, []byte{2<<3 | 2, 200})
	if other.Spec.Containers[0].Image != "another" {
		t.Error("a body that cannot be read was followed")
	}
}

// Damaged bytes are told of, or are something, as they are without templates; they
// harm no other pod.
func TestAlikeDamaged(t *testing.T) {
	codec := core.Pod.Def().Codec
	good := encodePod(t, copyOf(1, "x"))
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 20_000 {
		bad := append([]byte(nil), good...)
		for range 1 + r.IntN(3) {
			bad[r.IntN(len(bad))] = byte(r.Uint32())
		}
		bad = bad[:len(bad)-r.IntN(2)*r.IntN(len(bad))]
		var plain corev1.Pod
		perr := plain.Unmarshal(bad)
		o, err := codec.Decode(bad)
		if (err == nil) != (perr == nil) {
			t.Fatalf("seed %d: %v, and without templates %v", seed, err, perr)
		}
		if err != nil {
			continue
		}
		got := o.(*corev1.Pod)
		plain.TypeMeta = got.TypeMeta
		if !equality.Semantic.DeepEqual(got, &plain) {
			t.Fatalf("seed %d: %v\nand without templates %v", seed, got, &plain)
		}
	}
	if _, err := codec.Decode([]byte{2<<3 | 5, 1, 2, 3, 4}); err == nil {
		t.Error("a number was taken for a spec")
	}
	o, err := codec.Decode(good)
	if want := copyOf(1, "x"); err != nil || !equality.Semantic.DeepEqual(o.(*corev1.Pod).Spec, want.Spec) {
		t.Errorf("%v, %v", o, err)
	}
	var _ api.Object = o
}

// BenchmarkDecodeCopies is reading copies of a pod, with and without a template.
func BenchmarkDecodeCopies(b *testing.B) {
	body := encodePod(b, copyOf(1, "x"))
	b.Run("alike", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := core.Pod.Def().Codec.Decode(body); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := new(corev1.Pod).Unmarshal(body); err != nil {
				b.Fatal(err)
			}
		}
	})
}
