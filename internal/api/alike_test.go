package api_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
