package controllers_test

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/controllers"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
)

// faulty fails some requests, before or after they were carried out, and says
// whether a fault is to happen.
func faulty(h api.Handler, r *rand.Rand, on *bool) api.Handler {
	return api.HandlerFunc(func(ctx context.Context, q *api.Request) (*api.Response, error) {
		if !*on || !q.Verb.Writes() {
			return h.Handle(ctx, q)
		}
		switch r.IntN(20) {
		case 0:
			return nil, apierrors.NewServiceUnavailable("made up")
		case 1: // it happened, but nobody knows
			_, _ = h.Handle(ctx, q)
			return nil, fmt.Errorf("connection lost (made up)")
		}
		return h.Handle(ctx, q)
	})
}

// TestConverges changes deployments at random while the controllers run in a
// random order, with faults, and checks that what must never happen does not,
// and that in the end there is what was asked for. PROA_SEED repeats a run.
func TestConverges(t *testing.T) {
	for seed := range seeds(8) {
		converge(t, seed)
	}
}

// seeds are n in a row, from the one in PROA_SEED if there is one.
func seeds(n uint64) iter.Seq[uint64] {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("PROA_SEED"), 10, 64); err == nil {
		seed = s
	}
	return func(yield func(uint64) bool) {
		for i := range n {
			if !yield(seed + i) {
				return
			}
		}
	}
}

// newTrial returns a world that is played step by step; while faults is true,
// some of what the controllers ask for fails.
func newTrial(t *testing.T, seed, stream uint64) (w *world, faults *bool) {
	w, faults = newWorld(t), new(bool)
	w.rand = rand.New(rand.NewPCG(seed, stream))
	t.Logf("PROA_SEED=%d", seed)
	w.engine = control.New(faulty(w.h, w.rand, faults), controllers.All(options(w)), w.config())
	w.kubelet = true
	w.ensureNamespace("default")
	w.settle()
	return w, faults
}

// step lets the controllers take one step, and a little time pass if they wait for it.
func (w *world) step() {
	w.t.Helper()
	if _, err := w.engine.Step(w.t.Context(), w.rand); err != nil {
		w.t.Fatal(err)
	}
	if next, ok := w.engine.Next(); ok && next.Sub(w.clock.Now()) < time.Second {
		w.clock.advance(next.Sub(w.clock.Now()))
	}
}

func converge(t *testing.T, seed uint64) {
	w, faults := newTrial(t, seed, 2)
	server := w.h
	*faults = true
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
	n, surge, missing := int32(4), intstr.FromInt32(int32(w.rand.IntN(3))), intstr.FromInt32(int32(w.rand.IntN(3)))
	d.Spec.Replicas = &n
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	d.Spec.Template.Labels = d.Spec.Selector.MatchLabels
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "img0"}}
	d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &missing}
	if surge.IntVal == 0 && missing.IntVal == 0 {
		missing.IntVal = 1
	}
	if seed%2 == 1 { // with a configuration that is followed and taken back
		deadline := int32(20)
		d.Annotations = map[string]string{"proa.dev/config-rollout": "gated"}
		d.Spec.ProgressDeadlineSeconds, d.Spec.MinReadySeconds = &deadline, 5
		d.Spec.Template.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}
		w.sick = func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image == "img3" }
	}
	if _, err := apps.Deployment.Create(t.Context(), server, d); err != nil {
		t.Fatal(err)
	}
	for range 300 {
		switch w.rand.IntN(14) {
		case 12:
			w.configure(server, fmt.Sprint(w.rand.IntN(4)))
		case 13:
			w.clock.advance(time.Duration(w.rand.IntN(8)) * time.Second)
		case 0:
			w.edit(server, func(d *appsv1.Deployment) {
				d.Spec.Template.Spec.Containers[0].Image = fmt.Sprintf("img%d", w.rand.IntN(4))
			})
		case 1:
			w.edit(server, func(d *appsv1.Deployment) { n := int32(w.rand.IntN(7)); d.Spec.Replicas = &n })
		case 2:
			w.edit(server, func(d *appsv1.Deployment) { d.Spec.Paused = !d.Spec.Paused })
		case 3:
			w.disturb(server)
		case 4, 5:
			w.tick()
		default:
			w.step()
		}
		w.limits(server)
	}
	*faults = false
	w.edit(server, func(d *appsv1.Deployment) {
		d.Spec.Paused = false
		if d.Spec.Template.Spec.Containers[0].Image == "img3" && w.sick != nil {
			d.Spec.Template.Spec.Containers[0].Image = "img2"
		}
	})
	for range 30 { // also those pauses that have grown long, and pods one after the other
		w.settle()
		w.clock.advance(time.Minute)
	}
	w.settle()
	w.reached(server)
}

func (w *world) edit(h api.Handler, change func(*appsv1.Deployment)) {
	w.t.Helper()
	d, err := apps.Deployment.Get(w.t.Context(), h, "default", "web")
	if err != nil {
		w.t.Fatal(err)
	}
	d = d.DeepCopy()
	change(d)
	if _, err := apps.Deployment.Update(w.t.Context(), h, d); err != nil {
		w.t.Fatal(err)
	}
}

// configure gives the configuration a value.
func (w *world) configure(h api.Handler, value string) {
	w.t.Helper()
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "settings"}, Data: map[string]string{"value": value}}
	_, err := core.ConfigMap.Create(w.t.Context(), h, m)
	if apierrors.IsAlreadyExists(err) {
		_, err = core.ConfigMap.Patch(w.t.Context(), h, m.Namespace, m.Name, "", types.MergePatchType, fmt.Appendf(nil, `{"data":{"value":%q}}`, value))
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// disturb ends a pod, one way or another.
func (w *world) disturb(h api.Handler) {
	pods, err := core.Pod.List(w.t.Context(), h, "default", api.Selectors{})
	if err != nil || len(pods) == 0 {
		return
	}
	p := pods[w.rand.IntN(len(pods))]
	if w.rand.IntN(2) == 0 {
		_ = core.Pod.Delete(w.t.Context(), h, p.Namespace, p.Name, api.Options{})
	} else if p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil {
		w.setPod(p, "Failed")
	}
}

// limits checks what must hold at any time: no replica set has more pods than
// it was ever asked for at once, and together the replica sets are not asked
// for more than the deployment allows.
func (w *world) limits(h api.Handler) {
	w.t.Helper()
	sets, err := apps.ReplicaSet.List(w.t.Context(), h, "default", api.Selectors{})
	if err != nil {
		w.t.Fatal(err)
	}
	if w.seen == nil {
		w.seen = map[string]int{}
	}
	for _, rs := range sets {
		w.seen[string(rs.UID)] = max(w.seen[string(rs.UID)], int(*rs.Spec.Replicas))
	}
	pods, err := core.Pod.List(w.t.Context(), h, "default", api.Selectors{})
	if err != nil {
		w.t.Fatal(err)
	}
	count := map[types.UID]int{}
	for _, p := range pods {
		if ref := metav1.GetControllerOf(p); ref != nil && p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodFailed {
			if count[ref.UID]++; count[ref.UID] > w.seen[string(ref.UID)] {
				w.t.Fatalf("%d pods of %s, which never wanted more than %d", count[ref.UID], ref.Name, w.seen[string(ref.UID)])
			}
		}
	}
}

func (w *world) reached(h api.Handler) {
	w.t.Helper()
	d, err := apps.Deployment.Get(w.t.Context(), h, "default", "web")
	if err != nil {
		w.t.Fatal(err)
	}
	pods, err := core.Pod.List(w.t.Context(), h, "default", api.Selectors{})
	if err != nil {
		w.t.Fatal(err)
	}
	if bad := d.Annotations["proa.dev/config-undo"]; bad != "" {
		w.t.Errorf("the configuration %s is still being taken back", bad)
	}
	good := int32(0)
	for _, p := range pods {
		switch {
		case p.Status.Phase == corev1.PodFailed:
		case p.Spec.Containers[0].Image != d.Spec.Template.Spec.Containers[0].Image:
			w.t.Errorf("pod %s still has %s", p.Name, p.Spec.Containers[0].Image)
		default:
			good++
		}
	}
	if want := *d.Spec.Replicas; good != want || d.Status.AvailableReplicas != want || d.Status.UpdatedReplicas != want || d.Status.Replicas != want {
		w.t.Errorf("want %d pods, have %d: %s", want, good, w.show([]string{"deployments", "replicasets", "pods"}))
	}
}

// lagging delays every watch event, like a busy network.
func lagging(d time.Duration, h api.Handler) api.Handler {
	return api.HandlerFunc(func(ctx context.Context, r *api.Request) (*api.Response, error) {
		resp, err := h.Handle(ctx, r)
		if err != nil || resp.Events == nil {
			return resp, err
		}
		late := *resp
		late.Events = iter.Seq2[api.Event, error](func(yield func(api.Event, error) bool) {
			for e, err := range resp.Events {
				select {
				case <-time.After(d):
				case <-ctx.Done():
				}
				if !yield(e, err) {
					return
				}
			}
		})
		return &late, nil
	})
}

// TestReadsOwnWrites checks that controllers behind a late watch make each pod
// once, and none too many.
func TestReadsOwnWrites(t *testing.T) {
	w := newWorld(t)
	w.ensureNamespace("default")
	ctx, cancel := context.WithCancel(t.Context())
	cfg := w.config()
	var wg sync.WaitGroup
	wg.Go(func() { _ = control.Run(ctx, lagging(30*time.Millisecond, w.h), controllers.All(options(w)), cfg) })
	defer func() { cancel(); wg.Wait() }()
	for range 500 {
		if _, err := core.ServiceAccount.Get(ctx, w.h, "default", "default"); err == nil {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	n := int32(7)
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}}
	rs.Spec.Replicas = &n
	rs.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	rs.Spec.Template.Labels = rs.Spec.Selector.MatchLabels
	rs.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "img"}}
	if _, err := apps.ReplicaSet.Create(ctx, w.h, rs); err != nil {
		t.Fatal(err)
	}
	most := 0
	for range 200 {
		pods, err := core.Pod.List(ctx, w.h, "default", api.Selectors{})
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, len(pods))
		time.Sleep(2 * time.Millisecond)
	}
	if most != int(n) {
		t.Fatalf("made %d pods at the most, want %d", most, n)
	}
}
