package simulate

import (
	"container/heap"
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/internal/api"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/batch"
	"proa/internal/kinds/core"
	"proa/internal/kinds/policy"
	"proa/internal/kinds/scheduling"
)

// An agenda is what is to happen at some time, in the driver's goroutine.
type agenda struct {
	list  plans
	count int
}

type plan struct {
	at    time.Time
	order int
	do    func()
}

type plans []plan

func (p plans) Len() int { return len(p) }
func (p plans) Less(i, j int) bool {
	return p[i].at.Before(p[j].at) || p[i].at.Equal(p[j].at) && p[i].order < p[j].order
}
func (p plans) Swap(i, j int) { p[i], p[j] = p[j], p[i] }
func (p *plans) Push(x any)   { *p = append(*p, x.(plan)) }
func (p *plans) Pop() any {
	old := *p
	x := old[len(old)-1]
	*p = old[:len(old)-1]
	return x
}

// after has f done once d has passed.
func (g *agenda) after(d time.Duration, f func()) {
	g.count++
	heap.Push(&g.list, plan{time.Now().Add(d), g.count, f})
}

// due does the first that is due, if there is one.
func (g *agenda) due(now time.Time) bool {
	if len(g.list) == 0 || g.list[0].at.After(now) {
		return false
	}
	heap.Pop(&g.list).(plan).do()
	return true
}

func (g *agenda) next() time.Time {
	if len(g.list) == 0 {
		return time.Time{}
	}
	return g.list[0].at
}

// users are those who ask the cluster for something.
type users struct {
	w    *world
	h    api.Handler
	jobs int
}

func newUsers(w *world) *users {
	u := &users{w: w}
	u.h = api.HandlerFunc(func(ctx context.Context, r *api.Request) (*api.Response, error) {
		q := *r
		q.User = api.User{Name: "somebody", Groups: []string{api.GroupMasters, api.GroupAuthenticated}}
		return w.answer(ctx, nil, &q)
	})
	return u
}

const shop, tight, passing = "shop", "tight", "passing"

func create[T api.Object](u *users, k *api.Kind[T], o T) {
	if _, err := k.Create(context.Background(), u.h, o); err != nil && u.w.server != nil && !apierrors.IsAlreadyExists(err) && !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) {
		u.w.t.Errorf("create %s %s: %v", k.Resource, o.GetName(), err)
	}
}

// edit changes an object, if it is there.
func edit[T api.Object](u *users, k *api.Kind[T], ns, name string, change func(T)) {
	o, err := k.Get(context.Background(), u.h, ns, name)
	if err != nil {
		return
	}
	o = api.Clone(o)
	change(o)
	if _, err := k.Update(context.Background(), u.h, o); err != nil && u.w.server != nil {
		u.w.t.Errorf("update %s %s: %v", k.Resource, name, err)
	}
}

func template(app string, milli int64) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(5)), Containers: []corev1.Container{{Name: "c", Image: "registry/" + app + ":1",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(milli, resource.DecimalSI)}}}}}}
}

func meta(ns, name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: ns, Name: name} }

func selector(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
}

func deployment(ns, name string, n int32, milli int64) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: meta(ns, name), Spec: appsv1.DeploymentSpec{Replicas: &n, Selector: selector(name), Template: template(name, milli)}}
}

func service(ns, name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: meta(ns, name), Spec: corev1.ServiceSpec{Selector: map[string]string{"app": name}, Type: corev1.ServiceTypeNodePort,
		Ports: []corev1.ServicePort{{Port: 80}}}}
}

func stateful(name string, n int32, policy appsv1.PodManagementPolicyType) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{ObjectMeta: meta(shop, name), Spec: appsv1.StatefulSetSpec{Replicas: &n, Selector: selector(name),
		Template: template(name, 100), ServiceName: name, PodManagementPolicy: policy}}
}

func budget(app string, least int) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{ObjectMeta: meta(shop, app), Spec: policyv1.PodDisruptionBudgetSpec{Selector: selector(app), MinAvailable: new(intstr.FromInt(least))}}
}

// What is idle fills the nodes and leaves for all others, what is urgent makes others leave,
// and what is polite is more important than most and makes nobody leave.
const idle, urgent, polite = "idle", "urgent", "polite"

// classes has them asked for, none of each.
func (u *users) classes() {
	class := func(name string, value int32, how corev1.PreemptionPolicy) {
		create(u, scheduling.PriorityClass, &schedulingv1.PriorityClass{ObjectMeta: meta("", name), Value: value, PreemptionPolicy: &how})
	}
	class(idle, -10, corev1.PreemptLowerPriority)
	class(polite, 500, corev1.PreemptNever)
	class(urgent, 1000, corev1.PreemptLowerPriority)
	set := func(name string, milli int64) {
		t := template(name, milli)
		t.Spec.PriorityClassName = name
		create(u, apps.ReplicaSet, &appsv1.ReplicaSet{ObjectMeta: meta(shop, name), Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(0)), Selector: selector(name), Template: t}})
	}
	set(idle, 1300)
	set(polite, 1500)
	d := deployment(shop, urgent, 0, 2000)
	d.Spec.Template.Spec.PriorityClassName = urgent
	create(u, apps.Deployment, d)
}

// begin asks for what the cluster has from the start.
func (u *users) begin() {
	for _, ns := range []string{shop, tight} {
		create(u, core.Namespace, &corev1.Namespace{ObjectMeta: meta("", ns)})
	}
	u.w.run(time.Now().Add(furnished))
	u.classes()
	create(u, apps.Deployment, deployment(shop, "web", 6, 300))
	create(u, apps.Deployment, deployment(shop, "api", 4, 200))
	create(u, core.Service, service(shop, "web"))
	create(u, apps.StatefulSet, stateful("db", 3, appsv1.OrderedReadyPodManagement))
	create(u, apps.StatefulSet, stateful("queue", 3, appsv1.ParallelPodManagement))
	create(u, apps.DaemonSet, &appsv1.DaemonSet{ObjectMeta: meta(shop, "logs"), Spec: appsv1.DaemonSetSpec{Selector: selector("logs"), Template: template("logs", 50)}})
	create(u, policy.PodDisruptionBudget, budget("web", 3))
	create(u, policy.PodDisruptionBudget, budget("db", 2))
	create(u, core.ResourceQuota, &corev1.ResourceQuota{ObjectMeta: meta(tight, "pods"),
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("6")}}})
	create(u, apps.Deployment, deployment(tight, "small", 3, 50))
	job := u.job("", 2, 1, "after=20s exit=0")
	create(u, batch.CronJob, &batchv1.CronJob{ObjectMeta: meta(shop, "report"), Spec: batchv1.CronJobSpec{Schedule: "*/10 * * * *",
		ConcurrencyPolicy: batchv1.ForbidConcurrent, JobTemplate: batchv1.JobTemplateSpec{Spec: job.Spec}}})
}

func (u *users) job(name string, completions, parallel int32, script string) *batchv1.Job {
	t := template("job", 50)
	t.Annotations = map[string]string{"pretend.proa.dev/c": script}
	t.Spec.RestartPolicy = corev1.RestartPolicyNever
	return &batchv1.Job{ObjectMeta: meta(shop, name), Spec: batchv1.JobSpec{Completions: &completions, Parallelism: &parallel, BackoffLimit: new(int32(50)),
		TTLSecondsAfterFinished: new(int32(600)), Template: t}}
}

// act has somebody do something.
func (u *users) act() {
	w := u.w
	if w.server == nil {
		return
	}
	r := w.rand
	any := []string{"web", "api"}[r.IntN(2)]
	switch r.IntN(19) {
	case 0:
		edit(u, apps.Deployment, shop, any, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(r.IntN(9))) })
	case 1, 2:
		edit(u, apps.Deployment, shop, any, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = u.image(any) })
	case 3:
		edit(u, apps.Deployment, shop, any, func(d *appsv1.Deployment) {
			d.Spec.Strategy.RollingUpdate.MaxSurge = new(intstr.FromInt(r.IntN(3)))
			d.Spec.Strategy.RollingUpdate.MaxUnavailable = new(intstr.FromInt(1 + r.IntN(2)))
		})
	case 4:
		edit(u, apps.Deployment, shop, any, func(d *appsv1.Deployment) { d.Spec.Paused = !d.Spec.Paused })
	case 5:
		name := []string{"db", "queue"}[r.IntN(2)]
		if r.IntN(2) == 0 {
			edit(u, apps.StatefulSet, shop, name, func(s *appsv1.StatefulSet) { s.Spec.Replicas = new(int32(1 + r.IntN(5))) })
		} else {
			edit(u, apps.StatefulSet, shop, name, func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = u.image(name) })
		}
	case 6:
		edit(u, apps.DaemonSet, shop, "logs", func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = u.image("logs") })
	case 7:
		if p := u.pod(); p != nil {
			_ = core.Pod.Delete(context.Background(), u.h, p.Namespace, p.Name, api.Options{})
		}
	case 8:
		if p := u.pod(); p != nil {
			_ = u.evict(p)
		}
	case 9:
		u.drain(fmt.Sprintf("n%02d", r.IntN(len(w.nodes))))
	case 10:
		u.jobs++
		script := []string{"after=3s exit=0", "exit=1 after=1s", "after=2m exit=0"}[r.IntN(3)]
		if script == "exit=1 after=1s" {
			j := u.job(fmt.Sprint("job-", u.jobs), 3, 2, "exit=1 after=1s | exit=0 after=2s")
			j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
			create(u, batch.Job, j)
			return
		}
		create(u, batch.Job, u.job(fmt.Sprint("job-", u.jobs), int32(1+r.IntN(6)), int32(1+r.IntN(3)), script))
	case 11:
		edit(u, apps.Deployment, tight, "small", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(r.IntN(11))) })
	case 12:
		u.passes()
	case 13:
		name := fmt.Sprint("svc-", r.IntN(5))
		if r.IntN(2) == 0 {
			create(u, core.Service, service(shop, name))
		} else {
			_ = core.Service.Delete(context.Background(), u.h, shop, name, api.Options{})
		}
	case 14:
		if p := u.pod(); p != nil && p.Labels["app"] == "api" { // it is let go, and another comes
			edit(u, core.Pod, p.Namespace, p.Name, func(p *corev1.Pod) { p.Labels["app"] = "debug" })
		}
	case 15: // nothing, or almost all that is left, and some that finds no room
		n := len(w.nodes)
		edit(u, apps.ReplicaSet, shop, idle, func(s *appsv1.ReplicaSet) { s.Spec.Replicas = new(int32(r.IntN(2) * (2*n + r.IntN(n+4)))) })
	case 16, 17:
		edit(u, apps.Deployment, shop, urgent, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(r.IntN(len(w.nodes)/4 + 1))) })
	case 18:
		edit(u, apps.ReplicaSet, shop, polite, func(s *appsv1.ReplicaSet) { s.Spec.Replicas = new(int32(r.IntN(len(w.nodes)/6 + 1))) })
	}
}

// image is a new one; one in ten cannot be pulled.
func (u *users) image(app string) string {
	if u.w.rand.IntN(10) == 0 {
		return "registry/does-not-exist:1"
	}
	return fmt.Sprintf("registry/%s:%d", app, 1+u.w.rand.IntN(5))
}

func (u *users) pod() *corev1.Pod {
	pods := list(u.w, core.Pod, shop)
	if len(pods) == 0 {
		return nil
	}
	return pods[u.w.rand.IntN(len(pods))]
}

func (u *users) evict(p *corev1.Pod) error {
	_, err := u.h.Handle(context.Background(), &api.Request{Verb: api.Create, Resource: core.Pod.Def(), Namespace: p.Namespace, Name: p.Name, Sub: "eviction",
		Object: &policyv1.Eviction{ObjectMeta: meta(p.Namespace, p.Name)}})
	return err
}

// drain empties a node as kubectl does, and gives it back after some minutes.
func (u *users) drain(name string) {
	cordon := func(yes bool) func() {
		return func() { edit(u, core.Node, "", name, func(n *corev1.Node) { n.Spec.Unschedulable = yes }) }
	}
	cordon(true)()
	var again func(left int) func()
	again = func(left int) func() {
		return func() {
			more := false
			for _, p := range list(u.w, core.Pod, "") {
				if ref := metav1.GetControllerOf(p); p.Spec.NodeName != name || over(p) || p.DeletionTimestamp != nil || ref != nil && ref.Kind == "DaemonSet" {
					continue
				}
				more = u.evict(p) != nil || more
			}
			if more && left > 0 {
				u.w.agenda.after(5*time.Second, again(left-1))
			}
		}
	}
	again(30)()
	u.w.agenda.after(time.Duration(4+u.w.rand.IntN(10))*time.Minute, cordon(false))
}

// passes makes a namespace with something in it, or takes it away.
func (u *users) passes() {
	if _, err := core.Namespace.Get(context.Background(), u.h, "", passing); err == nil {
		_ = core.Namespace.Delete(context.Background(), u.h, "", passing, api.Options{})
		return
	}
	create(u, core.Namespace, &corev1.Namespace{ObjectMeta: meta("", passing)})
	u.w.agenda.after(furnished, func() {
		if u.w.server != nil {
			create(u, apps.Deployment, deployment(passing, "guest", 3, 50))
			create(u, core.Service, service(passing, "guest"))
		}
	})
}

// furnished is after how long a namespace has its service account. Pods that are made before
// wait for that inside the server, all for the same, and which goes on first is nobody's choice.
const furnished = 5 * time.Second

// calm puts right what somebody has left in disorder.
func (u *users) calm() {
	for _, d := range list(u.w, apps.Deployment, "") {
		edit(u, apps.Deployment, d.Namespace, d.Name, func(d *appsv1.Deployment) {
			d.Spec.Paused = false
			d.Spec.Template.Spec.Containers[0].Image = "registry/" + d.Name + ":calm"
			d.Spec.Replicas = new(min(*d.Spec.Replicas, 6))
		})
	}
	for _, s := range list(u.w, apps.StatefulSet, "") {
		edit(u, apps.StatefulSet, s.Namespace, s.Name, func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "registry/" + s.Name + ":calm" })
	}
	edit(u, apps.DaemonSet, shop, "logs", func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "registry/logs:calm" })
	edit(u, batch.CronJob, shop, "report", func(c *batchv1.CronJob) { c.Spec.Suspend = new(true) })
	for _, n := range list(u.w, core.Node, "") {
		edit(u, core.Node, "", n.Name, func(n *corev1.Node) { n.Spec.Unschedulable = false })
	}
	for _, p := range list(u.w, core.Pod, shop) {
		if metav1.GetControllerOf(p) == nil {
			_ = core.Pod.Delete(context.Background(), u.h, p.Namespace, p.Name, api.Options{})
		}
	}
}
