package simulate

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/batch"
	"proa/internal/kinds/core"
	"proa/internal/kinds/discovery"
	"proa/internal/kinds/policy"
)

var crashes = flag.Int("crashes", 12, "how many of the writes to crash after, spread over the day; 0: every one")

// TestCrashes plays one story undisturbed, and then again for each write of a
// controller or the scheduler: that one ends right after it, as kill -9 does, before it
// knows whether the write was made, while watches come late and break. In the end
// everything is as in the undisturbed story.
func TestCrashes(t *testing.T) {
	want, writes := story(t, 0)
	if writes < 100 {
		t.Fatalf("only %d writes to crash after", writes)
	}
	step := 1
	if *crashes > 0 {
		step = max(1, writes / *crashes)
	}
	runs := 0
	began := time.Now()
	for n := 1 + step/2; n <= writes && !t.Failed(); n += step {
		runs++
		if got, _ := story(t, n); got != want && !t.Failed() {
			t.Errorf("after a crash at write %d there is\n%s\nand undisturbed\n%s", n, got, want)
		}
	}
	fmt.Printf("simulate: crashed after %d of %d writes of controllers in %v, each time the same end\n", runs, writes, time.Since(began).Round(time.Second))
}

// story plays the story with a crash after that write; none if it is 0. It returns what
// there is in the end, and how many writes there were to crash after.
func story(t *testing.T, crash int) (end string, writes int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, plant{})
		w.crash = func(a *actor, _ *api.Request) bool {
			if a.machine != nil {
				return false
			}
			writes++
			return writes == crash
		}
		if crash > 0 {
			w.mood = mood{sever: 0.01, slow: 0.2, late: 3 * time.Second}
		}
		for range 6 {
			w.addNode()
		}
		u := w.users
		pass := func(d time.Duration) { w.run(time.Now().Add(d)) }
		pass(15 * time.Second)
		u.begin()
		pass(45 * time.Second)
		edit(u, apps.Deployment, shop, "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "registry/web:2" })
		edit(u, apps.StatefulSet, shop, "db", func(d *appsv1.StatefulSet) { d.Spec.Template.Spec.Containers[0].Image = "registry/db:2" })
		edit(u, apps.ReplicaSet, shop, idle, func(s *appsv1.ReplicaSet) { s.Spec.Replicas = new(int32(18)) })
		create(u, batch.Job, u.job("one", 4, 2, "after=3s exit=0"))
		u.passes()
		pass(40 * time.Second)
		edit(u, apps.Deployment, shop, "api", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(6)) })
		edit(u, apps.Deployment, shop, urgent, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(2)) })
		edit(u, apps.StatefulSet, shop, "queue", func(d *appsv1.StatefulSet) { d.Spec.Replicas = new(int32(2)) })
		edit(u, apps.Deployment, tight, "small", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(8)) })
		edit(u, apps.DaemonSet, shop, "logs", func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "registry/logs:2" })
		u.passes()
		pass(40 * time.Second)
		w.nodes[2].off()
		pass(7 * time.Minute)
		w.mend()
		u.calm()
		pass(12 * time.Minute)
		if bad := w.unlike(); len(bad) > 0 {
			w.rules.broken("not as it was asked for, with a crash at write %d:\n  %s", crash, strings.Join(bad, "\n  "))
		}
		end = w.summary()
		w.report()
		w.stop()
	})
	return end, writes
}

// summary says what there is, but for what is different in every run: times, names
// that are made up, and which node a pod is on.
func (w *world) summary() string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, o := range list(w, core.Namespace, "") {
		say("namespace %s %s", o.Name, o.Status.Phase)
	}
	for _, o := range list(w, apps.Deployment, "") {
		say("deployment %s: %d %d %d", o.Name, o.Status.Replicas, o.Status.UpdatedReplicas, o.Status.AvailableReplicas)
	}
	for _, o := range list(w, apps.ReplicaSet, "") {
		if o.Name == idle { // how many find room is not the same each time
			continue
		}
		say("replicaset %s: %d %d", o.Name, o.Status.Replicas, o.Status.AvailableReplicas)
	}
	for _, o := range list(w, apps.StatefulSet, "") {
		say("statefulset %s: %d %d %s", o.Name, o.Status.Replicas, o.Status.AvailableReplicas, o.Status.UpdateRevision)
	}
	for _, o := range list(w, apps.DaemonSet, "") {
		say("daemonset %s: %d %d", o.Name, o.Status.DesiredNumberScheduled, o.Status.NumberAvailable)
	}
	for _, o := range list(w, apps.ControllerRevision, "") {
		say("revision %s %d", o.Name, o.Revision)
	}
	for _, o := range list(w, batch.Job, "") {
		if metav1.GetControllerOf(o) == nil {
			say("job %s: %d %v", o.Name, o.Status.Succeeded, complete(o.Status.Conditions))
		}
	}
	for _, o := range list(w, policy.PodDisruptionBudget, "") {
		say("budget %s: %d of %d, %d allowed", o.Name, o.Status.CurrentHealthy, o.Status.ExpectedPods, o.Status.DisruptionsAllowed)
	}
	for _, o := range list(w, core.ResourceQuota, "") {
		say("quota %s: %s", o.Name, o.Status.Used.Pods())
	}
	for _, o := range list(w, core.Service, "") {
		n := 0
		for _, s := range list(w, discovery.EndpointSlice, o.Namespace) {
			if s.Labels["kubernetes.io/service-name"] == o.Name {
				n += len(s.Endpoints)
			}
		}
		say("service %s: %d endpoints", o.Name, n)
	}
	pods := map[string]int{}
	for _, p := range list(w, core.Pod, "") {
		pods[p.Namespace+" "+p.Labels["app"]+" "+p.Spec.Containers[0].Image+" "+string(p.Status.Phase)]++
	}
	for k, n := range pods {
		if !strings.Contains(k, "job") && !strings.Contains(k, idle) {
			say("%d pods of %s", n, k)
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}
