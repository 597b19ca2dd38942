package core_test

import (
	"context"
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// server holds one pod.
type server struct{ pod *corev1.Pod }

func (s *server) Handle(context.Context, *api.Request) (*api.Response, error) {
	return nil, apierrors.NewBadRequest("no request was expected")
}

func (s *server) Mutate(_ context.Context, r *api.Request, change func(api.Object) (api.Object, error)) (*api.Item, error) {
	if r.Sub != "" || r.Resource != core.Pod.Def() || s.pod == nil || r.Name != s.pod.Name {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), r.Name)
	}
	o, err := change(api.Clone(s.pod))
	if err != nil {
		return nil, err
	}
	s.pod = o.(*corev1.Pod)
	return api.NewItem(core.Pod.Def(), 2, nil, api.Clone(s.pod)), nil
}

func newServer() *server {
	return &server{pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "u", ResourceVersion: "7"}}}
}

func (s *server) bind(b *corev1.Binding) (*api.Response, error) {
	return core.Pod.Sub["binding"].Do(context.Background(), s, &api.Request{
		Verb: api.Create, Resource: core.Pod.Def(), Namespace: "default", Name: "web", Sub: "binding", Object: b})
}

func node(name string) *corev1.Binding {
	return &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "web", Annotations: map[string]string{"a": "b"}},
		Target: corev1.ObjectReference{Kind: "Node", Name: name}}
}

func TestBind(t *testing.T) {
	s := newServer()
	resp, err := s.bind(node("n1"))
	if err != nil || resp.Code != http.StatusCreated || resp.Status.Status != metav1.StatusSuccess {
		t.Fatal(resp, err)
	}
	if s.pod.Spec.NodeName != "n1" || s.pod.Annotations["a"] != "b" {
		t.Error(s.pod)
	}
	c := s.pod.Status.Conditions
	if len(c) != 1 || c[0].Type != corev1.PodScheduled || c[0].Status != corev1.ConditionTrue || c[0].LastTransitionTime.IsZero() {
		t.Error(c)
	}
	if _, err := s.bind(node("n2")); !apierrors.IsConflict(err) {
		t.Error("bound twice", err)
	}
}

func TestBindRefused(t *testing.T) {
	cases := map[string]func(*corev1.Pod, *corev1.Binding){
		"ending": func(p *corev1.Pod, _ *corev1.Binding) { now := metav1.Now(); p.DeletionTimestamp = &now },
		"gated": func(p *corev1.Pod, _ *corev1.Binding) {
			p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}
		},
		"other uid":     func(_ *corev1.Pod, b *corev1.Binding) { b.UID = "other" },
		"other version": func(_ *corev1.Pod, b *corev1.Binding) { b.ResourceVersion = "8" },
	}
	for name, spoil := range cases {
		s, b := newServer(), node("n1")
		spoil(s.pod, b)
		if _, err := s.bind(b); !apierrors.IsConflict(err) {
			t.Errorf("%s: %v", name, err)
		}
		if s.pod.Spec.NodeName != "" {
			t.Errorf("%s: bound", name)
		}
	}
	s := newServer()
	if _, err := s.bind(node("")); !apierrors.IsInvalid(err) {
		t.Error("no target", err)
	}
	b := node("n1")
	b.Name = "other"
	if _, err := s.bind(b); !apierrors.IsBadRequest(err) {
		t.Error("other name", err)
	}
	s.pod.Name = "gone"
	if _, err := s.bind(node("n1")); !apierrors.IsNotFound(err) {
		t.Error("no pod", err)
	}
}

func TestOldBinding(t *testing.T) {
	s := newServer()
	_, err := core.Binding.Do(context.Background(), s, &api.Request{Verb: api.Create, Resource: core.Binding.Def(), Namespace: "default", Object: node("n1")})
	if err != nil || s.pod.Spec.NodeName != "n1" {
		t.Error(s.pod.Spec.NodeName, err)
	}
}

func TestPodGrace(t *testing.T) {
	n := func(i int64) *int64 { return &i }
	cases := []struct {
		name  string
		pod   corev1.Pod
		asked *int64
		want  int64
	}{
		{"not scheduled", corev1.Pod{Spec: corev1.PodSpec{TerminationGracePeriodSeconds: n(30)}}, n(10), 0},
		{"own", corev1.Pod{Spec: corev1.PodSpec{NodeName: "n", TerminationGracePeriodSeconds: n(30)}}, nil, 30},
		{"asked", corev1.Pod{Spec: corev1.PodSpec{NodeName: "n", TerminationGracePeriodSeconds: n(30)}}, n(5), 5},
		{"at once", corev1.Pod{Spec: corev1.PodSpec{NodeName: "n", TerminationGracePeriodSeconds: n(30)}}, n(0), 0},
		{"negative", corev1.Pod{Spec: corev1.PodSpec{NodeName: "n", TerminationGracePeriodSeconds: n(-3)}}, nil, 1},
		{"ended", corev1.Pod{Spec: corev1.PodSpec{NodeName: "n", TerminationGracePeriodSeconds: n(30)}, Status: corev1.PodStatus{Phase: corev1.PodFailed}}, nil, 0},
	}
	for _, c := range cases {
		if got := core.Pod.Grace(&c.pod, c.asked); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
