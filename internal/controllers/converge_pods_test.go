package controllers_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/internal/api"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
)

// A trial changes one workload at random while controllers run with faults.
type trial struct {
	make  func(w *world, h api.Handler) error
	edit  func(w *world, h api.Handler) error
	check func(w *world, h api.Handler) error // must hold at any time
	end   func(w *world, h api.Handler) error // must hold in the end
	calm  bool                                // pods do not end by themselves
}

func try(t *testing.T, seed uint64, trial trial) {
	t.Helper()
	w, faults := newTrial(t, seed, 3)
	server := w.h
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(trial.make(w, server))
	*faults = true
	for range 300 {
		switch w.rand.IntN(12) {
		case 0, 1:
			if err := trial.edit(w, server); !apierrors.IsConflict(err) {
				must(err)
			}
		case 2:
			if !trial.calm {
				w.disturb(server)
			}
		case 3, 4:
			w.tick()
		default:
			w.step()
		}
		must(trial.check(w, server))
	}
	*faults = false
	for range 8 { // also those pauses that have grown long
		w.settle()
		w.clock.advance(3 * time.Minute)
	}
	w.settle()
	must(trial.end(w, server))
}

func trials(t *testing.T, f func() trial) {
	for seed := range seeds(6) {
		try(t, seed, f())
	}
}

func image(r *rand.Rand) string { return fmt.Sprintf("img%d", r.IntN(4)) }

// TestStatefulSetConverges checks that an ordered set starts one pod at a time
// as long as none ends by itself, and comes to what was asked for.
func TestStatefulSetConverges(t *testing.T) {
	calm := false
	trials(t, func() trial {
		calm = !calm
		get := func(w *world, h api.Handler) (*appsv1.StatefulSet, error) {
			s, err := apps.StatefulSet.Get(w.t.Context(), h, "default", "web")
			if err != nil {
				return nil, err
			}
			return s.DeepCopy(), nil
		}
		return trial{
			calm: calm,
			make: func(w *world, h api.Handler) error {
				s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
				s.Spec.Replicas = new(int32(3))
				s.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
				s.Spec.Template.Labels = s.Spec.Selector.MatchLabels
				s.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "img0"}}
				_, err := apps.StatefulSet.Create(w.t.Context(), h, s)
				return err
			},
			edit: func(w *world, h api.Handler) error {
				s, err := get(w, h)
				if err != nil {
					return err
				}
				if w.rand.IntN(2) == 0 {
					s.Spec.Template.Spec.Containers[0].Image = image(w.rand)
				} else {
					s.Spec.Replicas = new(int32(w.rand.IntN(6)))
				}
				_, err = apps.StatefulSet.Update(w.t.Context(), h, s)
				return err
			},
			check: func(w *world, h api.Handler) error {
				pods, err := core.Pod.List(w.t.Context(), h, "default", api.Selectors{})
				if err != nil {
					return err
				}
				pending := 0
				for _, p := range pods {
					if p.Status.Phase == corev1.PodPending {
						pending++
					}
				}
				if calm && pending > 1 {
					return fmt.Errorf("%d pods start at once:\n%s", pending, w.show([]string{"pods"}))
				}
				return nil
			},
			end: func(w *world, h api.Handler) error {
				s, err := get(w, h)
				if err != nil {
					return err
				}
				pods, err := core.Pod.List(w.t.Context(), h, "default", api.Selectors{})
				if err != nil {
					return err
				}
				want := *s.Spec.Replicas
				st := s.Status
				good := len(pods) == int(want) && st.Replicas == want && st.AvailableReplicas == want && st.UpdatedReplicas == want && st.CurrentRevision == st.UpdateRevision
				for i, p := range pods {
					good = good && p.Name == fmt.Sprint("web-", i) && p.Spec.Containers[0].Image == s.Spec.Template.Spec.Containers[0].Image && core.PodReady(p)
				}
				if !good {
					return fmt.Errorf("want %d of %s:\n%s", want, s.Spec.Template.Spec.Containers[0].Image, w.show([]string{"statefulsets", "pods", "controllerrevisions"}))
				}
				return nil
			},
		}
	})
}

// TestDaemonSetConverges checks that there is never more than one pod for a
// node, and in the end one of the new template on each that fits.
func TestDaemonSetConverges(t *testing.T) {
	trials(t, func() trial {
		surge := false
		get := func(w *world, h api.Handler) (*appsv1.DaemonSet, error) {
			d, err := apps.DaemonSet.Get(w.t.Context(), h, "default", "d")
			if err != nil {
				return nil, err
			}
			return d.DeepCopy(), nil
		}
		perNode := func(w *world, h api.Handler) (map[string][]*corev1.Pod, error) {
			pods, err := core.Pod.List(w.t.Context(), h, "default", api.Selectors{})
			out := map[string][]*corev1.Pod{}
			for _, p := range pods {
				node := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
				if p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodFailed {
					out[node] = append(out[node], p)
				}
			}
			return out, err
		}
		return trial{
			make: func(w *world, h api.Handler) error {
				for i := range 5 {
					if _, err := core.Node.Create(w.t.Context(), h, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i)}}); err != nil {
						return err
					}
				}
				d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "d"}}
				d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "d"}}
				d.Spec.Template.Labels = d.Spec.Selector.MatchLabels
				d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "img0"}}
				d.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists}}
				one, none := intstr.FromInt32(1), intstr.FromInt32(0)
				if surge = w.rand.IntN(2) == 0; surge {
					d.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: &one, MaxUnavailable: &none}
				}
				_, err := apps.DaemonSet.Create(w.t.Context(), h, d)
				return err
			},
			edit: func(w *world, h api.Handler) error {
				if w.rand.IntN(2) == 0 {
					n, err := core.Node.Get(w.t.Context(), h, "", fmt.Sprint("n", w.rand.IntN(5)))
					if err != nil {
						return err
					}
					n = n.DeepCopy()
					if len(n.Spec.Taints) == 0 {
						n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: []corev1.TaintEffect{corev1.TaintEffectNoExecute, corev1.TaintEffectNoSchedule}[w.rand.IntN(2)]}}
					} else {
						n.Spec.Taints = nil
					}
					_, err = core.Node.Update(w.t.Context(), h, n)
					return err
				}
				d, err := get(w, h)
				if err != nil {
					return err
				}
				d.Spec.Template.Spec.Containers[0].Image = image(w.rand)
				_, err = apps.DaemonSet.Update(w.t.Context(), h, d)
				return err
			},
			check: func(w *world, h api.Handler) error {
				all, err := perNode(w, h)
				most := 1
				if surge {
					most = 2
				}
				for node, pods := range all {
					if len(pods) > most {
						return fmt.Errorf("%d pods for %s", len(pods), node)
					}
				}
				return err
			},
			end: func(w *world, h api.Handler) error {
				d, err := get(w, h)
				if err != nil {
					return err
				}
				all, err := perNode(w, h)
				if err != nil {
					return err
				}
				nodes, err := core.Node.List(w.t.Context(), h, "", api.Selectors{})
				if err != nil {
					return err
				}
				desired, good := int32(0), true
				for _, n := range nodes {
					here := all[n.Name]
					refuses, evicts := false, false
					for _, t := range n.Spec.Taints {
						refuses = refuses || t.Key == "k"
						evicts = evicts || t.Key == "k" && t.Effect == corev1.TaintEffectNoExecute
					}
					if !refuses {
						desired++
						good = good && len(here) == 1 && here[0].Spec.Containers[0].Image == d.Spec.Template.Spec.Containers[0].Image && core.PodReady(here[0])
					}
					good = good && !(evicts && len(here) > 0)
				}
				if s := d.Status; !good || s.DesiredNumberScheduled != desired || s.NumberAvailable != desired || s.UpdatedNumberScheduled != desired {
					return fmt.Errorf("not as asked for:\n%s", w.show([]string{"daemonsets", "pods", "nodes"}))
				}
				return nil
			},
		}
	})
}
