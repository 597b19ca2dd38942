package controllers_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/controllers"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
	"proa/internal/kinds/policy"
)

// flock is a kind with a scale that the controller does not know of: a
// StatefulSet of another group.
var flock = &api.Kind[*appsv1.StatefulSet]{
	API: "example.com/v1", Resource: "flocks", Scope: api.Namespaced,
	Scale: apps.StatefulSet.Scale, Status: true,
}

// disruptionWorld is a server that knows flocks too, with nothing but the
// disruption controller; scales says what reading a flock's scale fails with.
func disruptionWorld(t *testing.T, seed uint64, scales *error) *world {
	t.Helper()
	w := newWorld(t, flock)
	w.rand = rand.New(rand.NewPCG(seed, 3))
	h := api.HandlerFunc(func(ctx context.Context, r *api.Request) (*api.Response, error) {
		if r.Sub == "scale" && *scales != nil {
			return nil, *scales
		}
		return w.Server.Handle(ctx, r)
	})
	w.engine = control.New(h, []control.Runner{controllers.Disruption(w.Server.Kinds)}, w.config())
	w.prepare()
	return w
}

// prepare makes what a pod needs in the namespace default, as nobody else does.
func (w *world) prepare() {
	w.t.Helper()
	w.ensureNamespace("default")
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "default"}}
	if _, err := core.ServiceAccount.Create(w.t.Context(), w.h, sa); err != nil {
		w.t.Fatal(err)
	}
}

// own makes an object that can own pods, and returns the reference to it.
func own[T api.Object](w *world, k *api.Kind[T], doc string) metav1.OwnerReference {
	w.t.Helper()
	o := k.Def().New().(T)
	decode(w.t, doc, o)
	o.SetNamespace("default")
	o, err := k.Create(w.t.Context(), w.h, o)
	if err != nil {
		w.t.Fatal(err)
	}
	return control.OwnerRef(k, o)
}

func decode(t *testing.T, doc string, into api.Object) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(doc), into); err != nil {
		t.Fatal(err)
	}
}

func (w *world) readyPod(name string, labels map[string]string, refs ...metav1.OwnerReference) {
	w.t.Helper()
	p, err := core.Pod.Create(w.t.Context(), w.h, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: labels, OwnerReferences: refs},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "img"}}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.setPod(p, "Running")
}

const workload = `
spec:
  replicas: %d
  %sselector: {matchLabels: {app: x}}
  template:
    metadata: {labels: {app: x}}
    spec: {containers: [{name: c, image: img}]}
`

// TestDisruptionScales checks whom the controller asks how many pods there are to be.
func TestDisruptionScales(t *testing.T) {
	x := map[string]string{"app": "x"}
	ref := func(version, kind, name string, uid types.UID) metav1.OwnerReference {
		yes := true
		return metav1.OwnerReference{APIVersion: version, Kind: kind, Name: name, UID: uid, Controller: &yes}
	}
	sized := func(name string, n int, more string) string {
		return "metadata: {name: " + name + "}" + fmt.Sprintf(workload, n, more)
	}
	replicaSet := func(w *world, name string, n int32, by *metav1.OwnerReference) metav1.OwnerReference {
		rs := &appsv1.ReplicaSet{}
		decode(w.t, sized(name, int(n), ""), rs)
		rs.Namespace = "default"
		if by != nil {
			rs.OwnerReferences = []metav1.OwnerReference{*by}
		}
		rs, err := apps.ReplicaSet.Create(w.t.Context(), w.h, rs)
		if err != nil {
			w.t.Fatal(err)
		}
		return control.OwnerRef(apps.ReplicaSet, rs)
	}
	const good = "desired=%d healthy=1 allowed=0 DisruptionAllowed=False/InsufficientPods"
	failed := func(why string) string {
		return "pods=0 desired=0 healthy=0 allowed=0 DisruptionAllowed=False/SyncFailed (" + why + ")\n" +
			"Warning CalculateExpectedPodCountFailed PodDisruptionBudget/pdb: Failed to calculate the number of expected pods: " + why
	}
	var broken error
	for _, tt := range []struct {
		name string
		make func(w *world) []metav1.OwnerReference // of pods p0, p1, ...
		want string
	}{
		{"a stateful set", func(w *world) []metav1.OwnerReference {
			return []metav1.OwnerReference{own(w, apps.StatefulSet, sized("db", 7, "serviceName: s\n  "))}
		}, "pods=7 " + fmt.Sprintf(good, 6)},
		{"a replication controller", func(w *world) []metav1.OwnerReference {
			return []metav1.OwnerReference{own(w, core.ReplicationController, "metadata: {name: rc}\n"+
				"spec: {replicas: 5, selector: {app: x}, template: {metadata: {labels: {app: x}}, spec: {containers: [{name: c, image: img}]}}}")}
		}, "pods=5 " + fmt.Sprintf(good, 4)},
		{"a replica set of nobody", func(w *world) []metav1.OwnerReference {
			return []metav1.OwnerReference{replicaSet(w, "rs", 4, nil)}
		}, "pods=4 " + fmt.Sprintf(good, 3)},
		{"two replica sets of one deployment count once", func(w *world) []metav1.OwnerReference {
			d := own(w, apps.Deployment, sized("d", 9, ""))
			return []metav1.OwnerReference{replicaSet(w, "old", 2, &d), replicaSet(w, "new", 3, &d)}
		}, "pods=9 desired=8 healthy=2 allowed=0 DisruptionAllowed=False/InsufficientPods"},
		{"a replica set whose deployment is gone", func(w *world) []metav1.OwnerReference {
			d := ref("apps/v1", "Deployment", "d", "nowhere")
			return []metav1.OwnerReference{replicaSet(w, "rs", 4, &d)}
		}, "pods=4 " + fmt.Sprintf(good, 3)},
		{"several controllers add up", func(w *world) []metav1.OwnerReference {
			return []metav1.OwnerReference{replicaSet(w, "a", 1, nil), replicaSet(w, "b", 1, nil)}
		}, "pods=2 desired=1 healthy=2 allowed=1 DisruptionAllowed=True/SufficientPods"},
		{"another kind's scale", func(w *world) []metav1.OwnerReference {
			return []metav1.OwnerReference{own(w, flock, sized("geese", 6, "serviceName: s\n  "))}
		}, "pods=6 " + fmt.Sprintf(good, 5)},
		{"another of the name", func(w *world) []metav1.OwnerReference {
			f := own(w, flock, sized("geese", 6, "serviceName: s\n  "))
			f.UID = "other"
			return []metav1.OwnerReference{f}
		}, failed(`found no controllers for pod "p0"`)},
		{"no scale", func(w *world) []metav1.OwnerReference {
			return []metav1.OwnerReference{ref("apps/v1", "DaemonSet", "ds", "u")}
		}, failed("daemonsets.apps does not implement the scale subresource")},
		{"no such kind", func(w *world) []metav1.OwnerReference {
			return []metav1.OwnerReference{ref("nowhere.com/v1", "Thing", "t", "u")}
		}, failed(`no matches for kind "Thing" in version "nowhere.com/v1"`)},
		{"no such controller", func(w *world) []metav1.OwnerReference {
			return []metav1.OwnerReference{ref("apps/v1", "ReplicaSet", "rs", "u")}
		}, failed(`found no controllers for pod "p0"`)},
		{"no answer", func(w *world) []metav1.OwnerReference {
			broken = apierrors.NewServiceUnavailable("made up")
			return []metav1.OwnerReference{own(w, flock, sized("geese", 6, "serviceName: s\n  "))}
		}, failed("made up")},
		{"no controller", func(w *world) []metav1.OwnerReference { return []metav1.OwnerReference{{}} },
			"pods=0 desired=0 healthy=1 allowed=0 DisruptionAllowed=False/InsufficientPods\n" +
				"Warning UnmanagedPods PodDisruptionBudget/pdb: Pods selected by this PodDisruptionBudget (selector: " +
				"&LabelSelector{MatchLabels:map[string]string{app: x,},MatchExpressions:[]LabelSelectorRequirement{},}) were found to be unmanaged. " +
				"As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. " +
				"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			broken = nil
			w := disruptionWorld(t, uint64(len(tt.name)), &broken)
			one := intstr.FromInt32(1)
			for i, r := range tt.make(w) {
				if r.Kind == "" {
					w.readyPod(fmt.Sprint("p", i), x)
				} else {
					w.readyPod(fmt.Sprint("p", i), x, r)
				}
			}
			w.budget("pdb", &policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &one, Selector: &metav1.LabelSelector{MatchLabels: x}})
			if broken == nil {
				w.settle()
			} else { // it is asked again and again
				for range 100 {
					if _, err := w.engine.Step(t.Context(), w.rand); err != nil {
						t.Fatal(err)
					}
				}
				w.events.Flush(t.Context())
			}
			if got := strings.TrimSpace(w.show([]string{"poddisruptionbudgets", "events"})); got != "budget pdb gen=1 "+tt.want {
				t.Fatalf("got\n%s\nwant\nbudget pdb gen=1 %s", got, tt.want)
			}
			if broken == nil {
				return
			}
			broken = nil
			w.settle()
			if got, want := w.show([]string{"poddisruptionbudgets"}), "budget pdb gen=1 pods=6 "+fmt.Sprintf(good, 5)+"\n"; got != want {
				t.Errorf("after that there is an answer: got %swant %s", got, want)
			}
		})
	}
}

func (w *world) budget(name string, spec *policyv1.PodDisruptionBudgetSpec) {
	w.t.Helper()
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: *spec}
	if _, err := policy.PodDisruptionBudget.Create(w.t.Context(), w.h, b); err != nil {
		w.t.Fatal(err)
	}
}

// TestDisruptionCounts changes pods and budgets at random, with faults, and
// checks against a count of everything. PROA_SEED repeats a run.
func TestDisruptionCounts(t *testing.T) {
	for seed := range seeds(6) {
		t.Logf("PROA_SEED=%d", seed)
		w := newWorld(t)
		server, faults := w.h, false
		w.rand = rand.New(rand.NewPCG(seed, 4))
		w.engine = control.New(faulty(server, w.rand, &faults), []control.Runner{controllers.Disruption(control.Fixed(resources()...))}, w.config())
		w.prepare()
		for range 12 {
			faults = true
			for range 25 {
				w.shuffle()
				for range w.rand.IntN(4) {
					_, _ = w.engine.Step(t.Context(), w.rand)
				}
			}
			faults = false
			w.clock.advance(time.Second)
			w.settle()
			w.checkBudgets()
		}
	}
}

// shuffle changes a budget or a pod.
func (w *world) shuffle() {
	pick := func(of ...string) string { return of[w.rand.IntN(len(of))] }
	name, ctx := fmt.Sprint("x", w.rand.IntN(8)), w.t.Context()
	color := map[string]string{"color": pick("red", "blue")}
	pod, podErr := core.Pod.Get(ctx, w.h, "default", name)
	budget, budgetErr := policy.PodDisruptionBudget.Get(ctx, w.h, "default", name)
	selector := &metav1.LabelSelector{MatchLabels: color}
	if w.rand.IntN(4) == 0 {
		selector = &metav1.LabelSelector{}
	}
	var err error
	zero, least := int64(0), intstr.FromInt(w.rand.IntN(4))
	switch w.rand.IntN(6) {
	case 0, 1: // a pod comes, or its labels change
		if podErr != nil {
			w.readyPod(name, color)
			return
		}
		pod = pod.DeepCopy()
		pod.Labels = color
		_, err = core.Pod.Update(ctx, w.h, pod)
	case 2:
		if podErr == nil && pod.DeletionTimestamp == nil {
			pod = pod.DeepCopy()
			pod.Status.Conditions[0].Status = corev1.ConditionStatus(pick("True", "False"))
			_, err = core.Pod.UpdateStatus(ctx, w.h, pod)
		}
	case 3:
		if podErr == nil {
			err = core.Pod.Delete(ctx, w.h, "default", name, api.Options{GracePeriod: &zero})
		}
	case 4: // a budget comes, or its spec changes
		if budgetErr != nil {
			w.budget(name, &policyv1.PodDisruptionBudgetSpec{MinAvailable: &least, Selector: selector})
			return
		}
		budget = budget.DeepCopy()
		budget.Spec.Selector, budget.Spec.MinAvailable = selector, &least
		_, err = policy.PodDisruptionBudget.Update(ctx, w.h, budget)
	case 5:
		if budgetErr == nil && w.rand.IntN(3) == 0 {
			err = policy.PodDisruptionBudget.Delete(ctx, w.h, "default", name, api.Options{})
		}
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// checkBudgets compares every budget with the pods there are.
func (w *world) checkBudgets() {
	w.t.Helper()
	budgets, err := policy.PodDisruptionBudget.List(w.t.Context(), w.h, "", api.Selectors{})
	if err != nil {
		w.t.Fatal(err)
	}
	pods, err := core.Pod.List(w.t.Context(), w.h, "", api.Selectors{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, b := range budgets {
		var n, healthy int32
		for _, p := range pods {
			if policy.Guards(b, p.Labels) {
				n++
				if core.PodReady(p) && p.DeletionTimestamp == nil {
					healthy++
				}
			}
		}
		allowed := max(healthy-b.Spec.MinAvailable.IntVal, 0)
		s := b.Status
		if s.ObservedGeneration != b.Generation || s.ExpectedPods != n || s.CurrentHealthy != healthy || s.DisruptionsAllowed != allowed {
			w.t.Errorf("budget %s, generation %d, is %+v; there are %d pods, %d healthy", b.Name, b.Generation, s, n, healthy)
		}
	}
}
