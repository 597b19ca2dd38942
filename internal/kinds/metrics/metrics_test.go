package metrics_test

import (
	"encoding/hex"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/metrics"
)

func used(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
}

// TestProtobuf compares the wire form with what the published generated code
// makes of the same object, and reads it back.
func TestProtobuf(t *testing.T) {
	at, window := metav1.NewTime(time.Unix(1, 0)), metav1.Duration{Duration: time.Second}
	for _, tt := range []struct {
		kind *api.Resource
		o    api.Object
		want string
	}{
		{metrics.Nodes.Def(), &metrics.NodeMetrics{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Timestamp: at, Window: window, Usage: used("2", "1Ki")},
			"0a110a016e12001a0022002a0032003800420012040801100" + "01a06088094ebdc03" + "220a0a0363707512030a013222" + "0f0a066d656d6f727912050a03314b69"},
		{metrics.Pods.Def(), &metrics.PodMetrics{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Timestamp: at, Window: window,
			Containers: []metrics.ContainerMetrics{{Name: "c", Usage: used("2", "1Ki")}, {Name: "d"}}},
			"0a110a016e12001a0022002a003200380042001204080110001a06088094ebdc03" + "22200a0163" + "120a0a0363707512030a0132" + "120f0a066d656d6f727912050a03314b69" + "22030a0164"},
	} {
		b, err := tt.o.(interface{ Marshal() ([]byte, error) }).Marshal()
		if err != nil || hex.EncodeToString(b) != tt.want {
			t.Errorf("%T: %v\n%x, want\n%s", tt.o, err, b, tt.want)
		}
		back, err := tt.kind.Codec.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		back.GetObjectKind().SetGroupVersionKind(tt.o.GetObjectKind().GroupVersionKind())
		if !equality.Semantic.DeepEqual(back, tt.o) {
			t.Errorf("read back: %+v, want %+v", back, tt.o)
		}
		for n := range b {
			_, _ = tt.kind.Codec.Decode(b[:n]) // must not panic
		}
	}
	if _, err := metrics.Nodes.Def().Codec.Decode([]byte{0x22, 0xff}); err == nil {
		t.Error("a message that breaks off was read")
	}
}

// TestDeepCopy checks that copies share nothing that can be changed.
func TestDeepCopy(t *testing.T) {
	for _, o := range []api.Object{
		&metrics.NodeMetrics{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Usage: used("1", "1")},
		&metrics.PodMetrics{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Containers: []metrics.ContainerMetrics{{Name: "c", Usage: used("1", "1")}}},
	} {
		was := api.Clone(o)
		if !reflect.DeepEqual(was, o) {
			t.Errorf("%+v became %+v", o, was)
		}
		o.GetLabels()["a"] = "c"
		switch o := o.(type) {
		case *metrics.NodeMetrics:
			o.Usage["cpu"] = resource.MustParse("7")
			if q := was.(*metrics.NodeMetrics).Usage["cpu"]; q.String() != "1" {
				t.Error("usage is shared")
			}
		case *metrics.PodMetrics:
			o.Containers[0].Usage["cpu"] = resource.MustParse("7")
			if q := was.(*metrics.PodMetrics).Containers[0].Usage["cpu"]; q.String() != "1" {
				t.Error("usage is shared")
			}
		}
		if was.GetLabels()["a"] != "b" {
			t.Error("labels are shared")
		}
	}
}
