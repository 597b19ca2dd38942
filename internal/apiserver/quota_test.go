package apiserver_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/admit"
	"proa/internal/kinds/core"
)

func bound(t *testing.T, s *apiserver.Server, name string, hard map[string]string, scopes ...corev1.ResourceQuotaScope) {
	t.Helper()
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{}, Scopes: scopes}}
	for k, v := range hard {
		q.Spec.Hard[corev1.ResourceName(k)] = resource.MustParse(v)
	}
	if _, err := core.ResourceQuota.Create(t.Context(), s, q); err != nil {
		t.Fatal(err)
	}
}

func asking(name, cpu string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "img"}}}}
	if cpu != "" {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
	return p
}

func refused(t *testing.T, err error, text string) {
	t.Helper()
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want it forbidden with %q", err, text)
	}
}

// TestQuotaRefuses checks what a quota lets pass, and what it says of the rest.
func TestQuotaRefuses(t *testing.T) {
	s := admitting(t, admit.Settings{})
	ctx := t.Context()
	bound(t, s, "q", map[string]string{"requests.cpu": "1", "services.nodeports": "1", "count/configmaps": "1"})
	make := func(p *corev1.Pod) error { _, err := core.Pod.Create(ctx, s, p); return err }
	refused(t, make(asking("silent", "")), "failed quota: q: must specify requests.cpu for: c")
	if err := make(asking("a", "600m")); err != nil {
		t.Fatal(err)
	}
	refused(t, make(asking("b", "500m")), "exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1")
	if err := make(asking("b", "400m")); err != nil {
		t.Fatal(err)
	}
	if err := core.Pod.Delete(ctx, s, "default", "a", api.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := make(asking("c", "600m")); err != nil {
		t.Errorf("what a deleted pod used is not free: %v", err)
	}

	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "a", Port: 1}, {Name: "b", Port: 2}}}}
	made, err := core.Service.Create(ctx, s, svc)
	if err != nil {
		t.Fatal(err)
	}
	made = made.DeepCopy()
	made.Spec.Type = corev1.ServiceTypeNodePort
	_, err = core.Service.Update(ctx, s, made)
	refused(t, err, "exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1")

	one := func(name string) error {
		_, err := core.ConfigMap.Create(ctx, s, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}})
		return err
	}
	if err := one("one"); err != nil {
		t.Fatal(err)
	}
	refused(t, one("two"), "exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=1, limited: count/configmaps=1")
	invalid := asking("Not A Name", "10")
	if err := make(invalid); !apierrors.IsInvalid(err) {
		t.Errorf("what is invalid is not said to be: %v", err)
	}
}

// TestQuotaScopes checks that a quota only counts what it is about.
func TestQuotaScopes(t *testing.T) {
	s := admitting(t, admit.Settings{})
	bound(t, s, "best", map[string]string{"pods": "1"}, corev1.ResourceQuotaScopeBestEffort)
	bound(t, s, "short", map[string]string{"pods": "0"}, corev1.ResourceQuotaScopeTerminating)
	for i, tt := range []struct {
		cpu  string
		ends bool
		want string
	}{{"", false, ""}, {"", false, "exceeded quota: best"}, {"1", false, ""}, {"1", true, "exceeded quota: short"}} {
		p := asking(fmt.Sprint("p", i), tt.cpu)
		if tt.ends {
			p.Spec.ActiveDeadlineSeconds = new(int64(9))
		}
		_, err := core.Pod.Create(t.Context(), s, p)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%d: %v", i, err)
		case tt.want != "":
			refused(t, err, tt.want)
		}
	}
}

// TestQuotaAtOnce checks that many writes at once do not pass a bound together,
// and that as many pass as fit.
func TestQuotaAtOnce(t *testing.T) {
	s := admitting(t, admit.Settings{})
	bound(t, s, "q", map[string]string{"pods": "7"})
	var made atomic.Int32
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			if _, err := core.Pod.Create(t.Context(), s, asking(fmt.Sprint("p", i), "")); err == nil {
				made.Add(1)
			} else {
				refused(t, err, "exceeded quota")
			}
		})
	}
	wg.Wait()
	if n := made.Load(); n != 7 {
		t.Errorf("%d pods were made of 7", n)
	}
	dry := asking("dry", "")
	_, err := core.Pod.Create(t.Context(), s, dry)
	refused(t, err, "exceeded quota")
}

// TestQuotaOfResize checks that a pod does not grow beyond a quota in place.
func TestQuotaOfResize(t *testing.T) {
	s := admitting(t, admit.Settings{})
	bound(t, s, "q", map[string]string{"requests.cpu": "1"})
	p, err := core.Pod.Create(t.Context(), s, asking("a", "600m"))
	if err != nil {
		t.Fatal(err)
	}
	grow := func(cpu string) error {
		next := p.DeepCopy()
		next.ResourceVersion = ""
		next.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse(cpu)
		_, err := s.Handle(t.Context(), &api.Request{Verb: api.Update, Resource: core.Pod.Def(), Sub: "resize", Namespace: "default", Name: "a", Object: next})
		return err
	}
	refused(t, grow("1100m"), "exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1")
	if err := grow("900m"); err != nil {
		t.Error(err)
	}
	if err := grow("100m"); err != nil {
		t.Error(err)
	}
}
