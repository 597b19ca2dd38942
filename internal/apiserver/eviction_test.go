package apiserver_test

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds/core"
	"proa/internal/kinds/policy"
	"proa/internal/store/memory"
)

func evict(t *testing.T, s *apiserver.Server, name string, o *metav1.DeleteOptions, dry bool) error {
	_, err := s.Handle(t.Context(), &api.Request{Verb: api.Create, Resource: core.Pod.Def(), Namespace: "default", Name: name, Sub: "eviction",
		Object:  &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name}, DeleteOptions: o},
		Options: api.Options{DryRun: dry}})
	return err
}

// running makes a pod of the app web that runs on a node.
func running(t *testing.T, s *apiserver.Server, name string, phase corev1.PodPhase, ready bool) *corev1.Pod {
	t.Helper()
	p := pod("default", name, "n1")
	p.Labels = map[string]string{"app": "web"}
	p = api.Clone(must[*corev1.Pod](t)(core.Pod.Create(t.Context(), s, p)))
	p.Status.Phase = phase
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	return must[*corev1.Pod](t)(core.Pod.UpdateStatus(t.Context(), s, p))
}

// budget makes a budget of the app web.
func budget(t *testing.T, s *apiserver.Server, name string, change func(*policyv1.PodDisruptionBudget)) {
	t.Helper()
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: new(intstr.FromInt32(1)),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}
	status := policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 1, CurrentHealthy: 2, DesiredHealthy: 1, ExpectedPods: 2}
	b.Status = status
	if change != nil {
		change(b)
	}
	status = b.Status
	b = api.Clone(must[*policyv1.PodDisruptionBudget](t)(policy.PodDisruptionBudget.Create(t.Context(), s, b)))
	if b.Status.ExpectedPods != 0 {
		t.Fatal("a status can be given on create")
	}
	b.Status = status
	must[*policyv1.PodDisruptionBudget](t)(policy.PodDisruptionBudget.UpdateStatus(t.Context(), s, b))
}

// going says whether a pod is gone, or is ending and says why.
func going(t *testing.T, s *apiserver.Server, name string) bool {
	t.Helper()
	p, err := core.Pod.Get(t.Context(), s, "default", name)
	if apierrors.IsNotFound(err) {
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	c := core.PodCondition(p, corev1.DisruptionTarget)
	if (p.DeletionTimestamp != nil) != (c != nil) {
		t.Errorf("deleted at %v, condition %v", p.DeletionTimestamp, c)
	}
	return p.DeletionTimestamp != nil
}

func spent(t *testing.T, s *apiserver.Server, name string) *policyv1.PodDisruptionBudgetStatus {
	t.Helper()
	return &must[*policyv1.PodDisruptionBudget](t)(policy.PodDisruptionBudget.Get(t.Context(), s, "default", name)).Status
}

func TestEvictionWithinBudget(t *testing.T) {
	each(t, func(t *testing.T, s *apiserver.Server) {
		running(t, s, "a", corev1.PodRunning, true)
		running(t, s, "b", corev1.PodRunning, true)
		budget(t, s, "web", nil)
		if err := evict(t, s, "a", nil, true); err != nil || going(t, s, "a") || spent(t, s, "web").DisruptionsAllowed != 1 {
			t.Fatal("a dry run does something", err)
		}
		if err := evict(t, s, "a", &metav1.DeleteOptions{GracePeriodSeconds: new(int64(5))}, false); err != nil || !going(t, s, "a") {
			t.Fatal(err)
		}
		p := must[*corev1.Pod](t)(core.Pod.Get(t.Context(), s, "default", "a"))
		if *p.DeletionGracePeriodSeconds != 5 {
			t.Error("grace of", *p.DeletionGracePeriodSeconds)
		}
		st := spent(t, s, "web")
		if at, ok := st.DisruptedPods["a"]; !ok || time.Since(at.Time) > time.Minute || st.DisruptionsAllowed != 0 {
			t.Errorf("%+v", st)
		}
		if c := meta.FindStatusCondition(st.Conditions, policyv1.DisruptionAllowedCondition); c == nil || c.Status != metav1.ConditionFalse || c.Reason != policyv1.InsufficientPodsReason {
			t.Error(c)
		}
		err := evict(t, s, "b", nil, false)
		wantError(t, err, 429, metav1.StatusReasonTooManyRequests, "Cannot evict pod as it would violate the pod's disruption budget.")
		d := err.(apierrors.APIStatus).Status().Details
		if d.RetryAfterSeconds != 0 || len(d.Causes) != 1 || d.Causes[0].Type != policyv1.DisruptionBudgetCause ||
			d.Causes[0].Message != "The disruption budget web needs 1 healthy pods and has 2 currently" {
			t.Errorf("%+v", d)
		}
		if going(t, s, "b") {
			t.Error("evicted nevertheless")
		}
		if err := evict(t, s, "a", nil, false); err != nil {
			t.Error("what is ending already cannot be evicted again:", err)
		}
	})
}

// TestEvictionTogether evicts many pods at a time: never more than the budget allows.
func TestEvictionTogether(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	for _, n := range names {
		running(t, s, n, corev1.PodRunning, true)
	}
	budget(t, s, "web", func(b *policyv1.PodDisruptionBudget) { b.Status.DisruptionsAllowed = 3 })
	var wg sync.WaitGroup
	var done, refused atomic.Int32
	for _, n := range names {
		wg.Go(func() {
			switch err := evict(t, s, n, nil, false); {
			case err == nil:
				done.Add(1)
			case apierrors.IsTooManyRequests(err):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if st := spent(t, s, "web"); done.Load() != 3 || refused.Load() != 5 || len(st.DisruptedPods) != 3 || st.DisruptionsAllowed != 0 {
		t.Errorf("%d evicted, %d refused, %+v", done.Load(), refused.Load(), st)
	}
}

func TestEvictionRules(t *testing.T) {
	always := policyv1.AlwaysAllow
	none := func(b *policyv1.PodDisruptionBudget) { b.Status.DisruptionsAllowed = 0 }
	cases := []struct {
		name   string
		phase  corev1.PodPhase
		ready  bool
		budget func(*policyv1.PodDisruptionBudget)
		goes   bool
		after  int32 // RetryAfterSeconds of the refusal
		cause  string
	}{
		{"pending", corev1.PodPending, false, none, true, 0, ""},
		{"failed", corev1.PodFailed, false, none, true, 0, ""},
		{"succeeded", corev1.PodSucceeded, false, none, true, 0, ""},
		{"unready of a healthy app", corev1.PodRunning, false, none, true, 0, ""},
		{"unready of a disrupted app", corev1.PodRunning, false, func(b *policyv1.PodDisruptionBudget) {
			none(b)
			b.Status.CurrentHealthy = 0
		}, false, 0, "The disruption budget web needs 1 healthy pods and has 0 currently"},
		{"unready of an app that wants none", corev1.PodRunning, false, func(b *policyv1.PodDisruptionBudget) {
			none(b)
			b.Status.DesiredHealthy = 0
		}, false, 0, "The disruption budget web needs 0 healthy pods and has 2 currently"},
		{"unready is always allowed", corev1.PodRunning, false, func(b *policyv1.PodDisruptionBudget) {
			none(b)
			b.Status.CurrentHealthy = 0
			b.Spec.UnhealthyPodEvictionPolicy = &always
		}, true, 0, ""},
		{"ready is not always allowed", corev1.PodRunning, true, func(b *policyv1.PodDisruptionBudget) {
			none(b)
			b.Spec.UnhealthyPodEvictionPolicy = &always
		}, false, 0, "The disruption budget web needs 1 healthy pods and has 2 currently"},
		{"not seen yet", corev1.PodRunning, true, func(b *policyv1.PodDisruptionBudget) { b.Status.ObservedGeneration = 0 },
			false, 10, "The disruption budget web is still being processed by the server."},
		{"failed sync", corev1.PodRunning, true, func(b *policyv1.PodDisruptionBudget) {
			none(b)
			b.Status.Conditions = []metav1.Condition{{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse,
				Reason: policyv1.SyncFailedReason, Message: "no scale", LastTransitionTime: metav1.Now()}}
		}, false, 0, "The disruption budget web does not allow evicting pods currently because it failed sync: no scale"},
		{"another app", corev1.PodRunning, true, func(b *policyv1.PodDisruptionBudget) {
			none(b)
			b.Spec.Selector.MatchLabels["app"] = "db"
		}, true, 0, ""},
		{"no selector", corev1.PodRunning, true, func(b *policyv1.PodDisruptionBudget) {
			none(b)
			b.Spec.Selector = nil
		}, true, 0, ""},
		{"empty selector", corev1.PodRunning, true, func(b *policyv1.PodDisruptionBudget) {
			none(b)
			b.Spec.Selector = &metav1.LabelSelector{}
		}, false, 0, "The disruption budget web needs 1 healthy pods and has 2 currently"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, memory.New(nil), nil)
			running(t, s, "a", c.phase, c.ready)
			budget(t, s, "web", c.budget)
			before := spent(t, s, "web")
			err := evict(t, s, "a", nil, false)
			if c.goes {
				if err != nil || !going(t, s, "a") {
					t.Error("not evicted", err)
				}
			} else {
				wantError(t, err, 429, metav1.StatusReasonTooManyRequests, "Cannot evict pod")
				d := err.(apierrors.APIStatus).Status().Details
				if d.RetryAfterSeconds != c.after || d.Causes[0].Message != c.cause {
					t.Errorf("%+v", d)
				}
				if going(t, s, "a") {
					t.Error("evicted nevertheless")
				}
			}
			if after := spent(t, s, "web"); after.DisruptionsAllowed != before.DisruptionsAllowed || len(after.DisruptedPods) > 0 {
				t.Errorf("spent: %+v", after)
			}
		})
	}
}

func TestEvictionOfTwoBudgets(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	running(t, s, "a", corev1.PodRunning, true)
	budget(t, s, "one", nil)
	budget(t, s, "two", nil)
	wantError(t, evict(t, s, "a", nil, false), 500, metav1.StatusReasonInternalError,
		"This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.")
	if going(t, s, "a") {
		t.Error("evicted nevertheless")
	}
}

// TestEvictionWrites has an eviction cost one write of the pod, and one of the budget
// that it counts in.
func TestEvictionWrites(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	writes := func(name string, since string) int {
		if err := evict(t, s, name, nil, false); err != nil || !going(t, s, name) {
			t.Fatalf("%s: %v", name, err)
		}
		p := must[*corev1.Pod](t)(core.Pod.Get(t.Context(), s, "default", name))
		return must[int](t)(strconv.Atoi(p.ResourceVersion)) - must[int](t)(strconv.Atoi(since))
	}
	if n := writes("a", running(t, s, "a", corev1.PodRunning, true).ResourceVersion); n != 1 {
		t.Errorf("%d writes without a budget", n)
	}
	b := running(t, s, "b", corev1.PodRunning, true)
	budget(t, s, "web", nil)
	last := must[*policyv1.PodDisruptionBudget](t)(policy.PodDisruptionBudget.Get(t.Context(), s, "default", "web")).ResourceVersion
	if n := writes(b.Name, last); n != 2 {
		t.Errorf("%d writes with a budget", n)
	}
}

func TestEvictionAsked(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	p := running(t, s, "a", corev1.PodRunning, true)
	budget(t, s, "web", nil)
	for name, pre := range map[string]*metav1.Preconditions{
		"uid": {UID: new(types.UID("other"))}, "version": {ResourceVersion: new("1")},
	} {
		if err := evict(t, s, "a", &metav1.DeleteOptions{Preconditions: pre}, false); !apierrors.IsConflict(err) || going(t, s, "a") {
			t.Errorf("other %s: %v", name, err)
		}
	}
	if spent(t, s, "web").DisruptionsAllowed != 1 {
		t.Error("a refused eviction spends")
	}
	if err := evict(t, s, "a", &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}, false); err != nil || going(t, s, "a") {
		t.Error("a dry run of the deletion evicts", err)
	}
	sideways := metav1.DeletionPropagation("Sideways")
	wantError(t, evict(t, s, "a", &metav1.DeleteOptions{PropagationPolicy: &sideways}, false), 422, metav1.StatusReasonInvalid, "propagationPolicy")
	if spent(t, s, "web").DisruptionsAllowed != 1 {
		t.Error("a refused eviction spends")
	}
	if err := evict(t, s, "none", nil, false); !apierrors.IsNotFound(err) {
		t.Error(err)
	}
	err := evict(t, s, "a", &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID, ResourceVersion: &p.ResourceVersion}}, false)
	if err != nil || !going(t, s, "a") || spent(t, s, "web").DisruptionsAllowed != 0 {
		t.Error(err)
	}
	_, err = s.Handle(t.Context(), &api.Request{Verb: api.Create, Resource: core.Pod.Def(), Namespace: "default", Name: "a", Sub: "eviction",
		Object: &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "b"}}})
	wantError(t, err, 400, metav1.StatusReasonBadRequest, "name in URL does not match name in Eviction object")
}

// TestVersioned asks updates of some kinds for the version that they replace.
func TestVersioned(t *testing.T) {
	each(t, func(t *testing.T, s *apiserver.Server) {
		budget(t, s, "web", nil)
		b := api.Clone(must[*policyv1.PodDisruptionBudget](t)(policy.PodDisruptionBudget.Get(t.Context(), s, "default", "web")))
		blind := api.Clone(b)
		blind.ResourceVersion = ""
		const want = "metadata.resourceVersion: Invalid value: 0: must be specified for an update"
		_, err := policy.PodDisruptionBudget.Update(t.Context(), s, api.Clone(blind))
		wantError(t, err, 422, metav1.StatusReasonInvalid, want)
		_, err = policy.PodDisruptionBudget.UpdateStatus(t.Context(), s, blind)
		wantError(t, err, 422, metav1.StatusReasonInvalid, want)
		b.Spec.MinAvailable = new(intstr.FromInt32(2))
		if b = must[*policyv1.PodDisruptionBudget](t)(policy.PodDisruptionBudget.Update(t.Context(), s, b)); b.Generation != 2 {
			t.Error(b.Generation)
		}
		_, err = policy.PodDisruptionBudget.Patch(t.Context(), s, "default", "web", "", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`))
		if err != nil {
			t.Error(err)
		}
	})
}
