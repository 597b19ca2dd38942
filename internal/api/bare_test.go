package api_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// What Bare reads off the stored form is what the decoded object says.
func TestBare(t *testing.T) {
	now := metav1.NewTime(time.Unix(1_700_000_000, 0))
	full := metav1.ObjectMeta{Name: "a", Namespace: "ns", UID: "7a0c9f5e-3d1b-4c58-9e21-000000000001", Labels: map[string]string{"l": "1"},
		Annotations: map[string]string{"a": "2"}, CreationTimestamp: now, GenerateName: "x-"}
	for name, change := range map[string]func(*metav1.ObjectMeta){
		"plain":     func(*metav1.ObjectMeta) {},
		"cluster":   func(m *metav1.ObjectMeta) { m.Namespace = "" },
		"deleted":   func(m *metav1.ObjectMeta) { m.DeletionTimestamp = &now },
		"finalizer": func(m *metav1.ObjectMeta) { m.Finalizers = []string{"example.com/f"} },
		"owner": func(m *metav1.ObjectMeta) {
			m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "u"}}
		},
		"managed": func(m *metav1.ObjectMeta) {
			m.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl", Operation: "Update", APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:data":{}}`)}}}
		},
	} {
		m := &corev1.ConfigMap{ObjectMeta: *full.DeepCopy(), Data: map[string]string{"k": "v"}}
		change(&m.ObjectMeta)
		r := core.ConfigMap.Def()
		body, err := r.Codec.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		kept := bytes.Clone(body)
		got, err := api.NewItem(r, 42, body, nil).Bare()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		clear(body) // it must share nothing
		o := api.NewItem(r, 42, kept, nil).Object()
		if d := cmp.Diff(api.BareOf(r, o), got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if got.Name != "a" || got.ResourceVersion != "42" || got.Kind != "ConfigMap" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if _, err := api.NewItem(core.ConfigMap.Def(), 1, []byte{0xff, 0xff, 0xff}, nil).Bare(); err == nil {
		t.Error("a broken form was read")
	}
}
