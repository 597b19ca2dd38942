package simulate

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/batch"
	"proa/internal/kinds/core"
	"proa/internal/sched"
	"proa/internal/sched/plugins"
)

var (
	seed = flag.Uint64("seed", 0, "of the run; one by chance if 0")
	days = flag.Float64("days", 0, "of simulated time; 0: what fits a test")
	size = flag.Int("nodes", 12, "pretend nodes")
)

// TestSimulate plays the days that it is asked for.
func TestSimulate(t *testing.T) {
	n, d := *seed, time.Duration(*days*24*float64(time.Hour))
	if n == 0 {
		n = rand.Uint64() >> 40
	}
	if d == 0 {
		n, d = 1, 2*time.Hour
	}
	t.Logf("SEED=%d", n)
	real := time.Now()
	_, line := play(t, n, *size, d, plant{}, "")
	took := time.Since(real)
	fmt.Printf("simulate: seed %d, %v in %v (%.0fx real time): %s\n", n, d, took.Round(time.Second), float64(d)/float64(took), line)
}

// TestRepeats plays the same hour twice: not one turn may differ.
func TestRepeats(t *testing.T) {
	first, line := play(t, 7, 6, time.Hour, plant{}, "") // some pods leave for others in it
	if second, again := play(t, 7, 6, time.Hour, plant{}, ""); first != second {
		t.Errorf("the same seed gave two histories:\n%s\n%s", line, again)
	}
	if other, _ := play(t, 6, 6, 20*time.Minute, plant{}, ""); other == first {
		t.Error("two seeds gave the same history")
	}
}

// TestRulesBite plants what is wrong, and checks that a rule says so.
func TestRulesBite(t *testing.T) {
	for _, tt := range []struct {
		name, rule string
		nodes      int
		plant      plant
	}{
		{"a server without quotas", "in tight, of 6", 4, plant{steps: func(name string) bool { return name != "ResourceQuota" }}},
		{"a scheduler that does not look at what nodes have", "of 4000 m", 2, plant{
			sched: func(c *sched.Config) {
				c.Plugins = []*sched.Plugin{plugins.NodeUnschedulable, plugins.TaintToleration, plugins.NodeAffinity}
			},
			act: func(w *world) {
				edit(w.users, apps.Deployment, shop, "web", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(30)) })
			}}},
		{"a cron job that does not wait for the one before", "two jobs of report", 4, plant{act: func(w *world) {
			edit(w.users, batch.CronJob, shop, "report", func(c *batchv1.CronJob) {
				c.Spec.ConcurrencyPolicy = batchv1.AllowConcurrent
				c.Spec.JobTemplate.Spec.Template.Annotations = map[string]string{"pretend.proa.dev/c": "after=30m exit=0"}
			})
		}}},
		{"a pod of a stateful set that is given up by force while it runs", "runs as", 6, plant{act: func(w *world) {
			for _, p := range list(w, core.Pod, shop) {
				for _, m := range w.nodes {
					if p.Labels["app"] == "db" && m.name == p.Spec.NodeName && m.cut.After(time.Now()) {
						_ = core.Pod.Delete(context.Background(), w.users.h, p.Namespace, p.Name, api.Options{GracePeriod: new(int64(0))})
					}
				}
			}
		}}},
		{"a scheduler that has pods leave for nobody", "leaves for nobody", 4, plant{act: func(w *world) {
			for _, p := range list(w, core.Pod, shop) {
				if p.Labels["app"] == "web" && p.Spec.NodeName != "" {
					_, _ = w.answer(context.Background(), w.plane[1], &api.Request{Verb: api.Delete, Resource: core.Pod.Def(), Namespace: shop, Name: p.Name, User: w.plane[1].user})
					return
				}
			}
		}}},
		{"a scheduler that has nobody leave", "room for it", 8, plant{
			sched: func(c *sched.Config) {
				c.Profiles = []sched.Profile{{Name: corev1.DefaultSchedulerName, Uses: sched.UsesOf(c.Plugins)}}
			},
			act: func(w *world) {
				edit(w.users, apps.ReplicaSet, shop, idle, func(s *appsv1.ReplicaSet) { s.Spec.Replicas = new(int32(24)) })
			}}},
	} {
		if _, line := play(t, 3, tt.nodes, 12*time.Hour, tt.plant, tt.rule); line == "" {
			t.Errorf("nobody noticed %s", tt.name)
		}
	}
}

// play plays one world, and returns the sum of all that happened and how it went. If a rule is
// to be broken it returns nothing unless that one is.
func play(t *testing.T, seed uint64, nodes int, d time.Duration, p plant, broken string) (sum uint64, line string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, seed, p)
		for range nodes {
			w.addNode()
		}
		w.users.begin()
		end := w.began.Add(d)
		for day := 1; time.Now().Before(end) && !w.over(); day++ {
			until := time.Now().Add(23 * time.Hour)
			if until.After(end) {
				until = end
			}
			w.trouble(until)
			w.calm()
		}
		sum, line = w.sum.Sum64(), w.line()
		if broken != "" && (len(w.violations) == 0 || !strings.Contains(w.violations[0], broken)) {
			line = ""
		}
		if broken == "" || line == "" {
			w.report()
		}
		w.stop()
	})
	return sum, line
}

// trouble lets users act and things break until a time.
func (w *world) trouble(until time.Time) {
	var act, fault func()
	again := func(f *func(), mean time.Duration) {
		if d := time.Duration(w.rand.ExpFloat64() * float64(mean)); time.Now().Add(d).Before(until) {
			w.agenda.after(d, *f)
		}
	}
	act = func() {
		w.users.act()
		if w.plant.act != nil && w.server != nil {
			w.plant.act(w)
		}
		again(&act, 90*time.Second)
	}
	fault = func() { w.fault(); again(&fault, 4*time.Minute) }
	again(&act, 90*time.Second)
	again(&fault, 4*time.Minute)
	w.run(until)
}

// calm mends everything and checks that the cluster comes to rest as it was asked for.
func (w *world) calm() {
	w.agenda.list = nil
	w.mend()
	w.users.calm()
	w.run(time.Now().Add(25 * time.Minute))
	if w.over() {
		return
	}
	if bad := w.unlike(); len(bad) > 0 {
		w.rules.broken("not as it was asked for:\n  %s", strings.Join(bad, "\n  "))
	}
	w.changes, w.rules.recent = 0, nil
	w.run(time.Now().Add(10 * time.Minute))
	if w.changes > 0 {
		w.rules.broken("%d writes while nothing happened", w.changes)
	}
	edit(w.users, batch.CronJob, shop, "report", func(c *batchv1.CronJob) { c.Spec.Suspend = new(false) })
	clear(w.rules.most)
	clear(w.rules.wanted)
	clear(w.rules.since)
	w.rules.replicas()
}

// unlike says what is not as it was asked for.
func (w *world) unlike() (bad []string) {
	say := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	for _, n := range list(w, core.Node, "") {
		if !core.NodeReady(n) || len(n.Spec.Taints) > 0 {
			say("node %s: ready %v, taints %v", n.Name, core.NodeReady(n), n.Spec.Taints)
		}
	}
	for _, d := range list(w, apps.Deployment, "") {
		if s, n := d.Status, *d.Spec.Replicas; s.Replicas != n || s.UpdatedReplicas != n || s.AvailableReplicas != n || s.ObservedGeneration != d.Generation {
			say("deployment %s wants %d: %+v", d.Name, n, s)
			for _, p := range list(w, core.Pod, d.Namespace) {
				if p.Labels["app"] == d.Name {
					say("  %s on %s: %s, ready %v, deleted %v", p.Name, p.Spec.NodeName, p.Status.Phase, core.PodReady(p), p.DeletionTimestamp)
				}
			}
		}
	}
	for _, d := range list(w, apps.StatefulSet, "") {
		if s, n := d.Status, *d.Spec.Replicas; s.Replicas != n || s.UpdatedReplicas != n || s.AvailableReplicas != n || s.CurrentRevision != s.UpdateRevision {
			say("stateful set %s wants %d: %+v", d.Name, n, s)
		}
	}
	for _, d := range list(w, apps.DaemonSet, "") {
		if s, n := d.Status, int32(len(w.nodes)); s.DesiredNumberScheduled != n || s.UpdatedNumberScheduled != n || s.NumberAvailable != n {
			say("daemon set %s wants %d: %+v", d.Name, n, s)
		}
	}
	for _, j := range list(w, batch.Job, "") {
		if !complete(j.Status.Conditions) || j.Status.Succeeded != *j.Spec.Completions {
			say("job %s wants %d: %+v", j.Name, *j.Spec.Completions, j.Status)
		}
	}
	for _, n := range list(w, core.Namespace, "") {
		if n.DeletionTimestamp != nil {
			say("namespace %s is still there: %+v", n.Name, n.Status.Conditions)
		}
	}
	for _, s := range list(w, apps.ReplicaSet, "") {
		if s.Status.Replicas != *s.Spec.Replicas {
			say("replica set %s wants %d: %+v", s.Name, *s.Spec.Replicas, s.Status)
		}
	}
	pods := list(w, core.Pod, "")
	owners := map[types.UID]bool{}
	noteUIDs(owners, list(w, apps.ReplicaSet, ""))
	noteUIDs(owners, list(w, apps.StatefulSet, ""))
	noteUIDs(owners, list(w, apps.DaemonSet, ""))
	noteUIDs(owners, list(w, batch.Job, ""))
	for _, p := range pods {
		ref := metav1.GetControllerOf(p)
		switch {
		case ref == nil || !owners[ref.UID]:
			say("pod %s is nobody's", p.Name)
		case p.DeletionTimestamp != nil:
			say("pod %s is still being deleted, on %s: %+v", p.Name, p.Spec.NodeName, p.Status)
		case p.Spec.NodeName == "" && p.Status.NominatedNodeName == "" && w.rules.room(p, pods) == 0:
		case !over(p) && !isReady(p):
			say("pod %s is not ready: %+v", p.Name, p.Status)
		}
	}
	return bad
}

func noteUIDs[T api.Object](in map[types.UID]bool, objs []T) {
	for _, o := range objs {
		in[o.GetUID()] = true
	}
}

func complete(cs []batchv1.JobCondition) bool { return has(cs, batchv1.JobComplete) }
func failed(cs []batchv1.JobCondition) bool   { return has(cs, batchv1.JobFailed) }

func has(cs []batchv1.JobCondition, typ batchv1.JobConditionType) bool {
	return slices.ContainsFunc(cs, func(c batchv1.JobCondition) bool { return c.Type == typ && c.Status == corev1.ConditionTrue })
}

// report has the test fail of what was broken.
func (w *world) report() {
	for _, v := range w.violations {
		w.t.Error(v)
	}
}

func (w *world) line() string {
	var faults []string
	for _, k := range slices.Sorted(maps.Keys(w.stats.faults)) {
		faults = append(faults, fmt.Sprintf("%d %s", w.stats.faults[k], k))
	}
	s := w.stats
	return fmt.Sprintf("%d turns, %d requests, %d writes; %d refused, %d answers lost, %d watches broken, %s; violations %d; sum %016x",
		s.turns, s.requests, s.writes, s.refused, s.lost, s.severed, strings.Join(faults, ", "), len(w.violations), w.sum.Sum64())
}
