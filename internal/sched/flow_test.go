package sched_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/kinds/storage"
	"proa/internal/sched"
	"proa/internal/sched/plugins"
	"proa/internal/store/memory"
)

// startWith is start with a KubeSchedulerConfiguration.
func startWith(t *testing.T, seed uint64, config string, metrics ...prometheus.Registerer) *rig {
	t.Helper()
	c, err := sched.Load([]byte(configHead+config), plugins.All)
	if err != nil {
		t.Fatal(err)
	}
	c.Seed = seed
	if len(metrics) > 0 {
		c.Register = metrics[0]
	}
	return startOn(t, memory.New(nil), c)
}

func labelled(app string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels = map[string]string{"app": app} }
}

// TestProfiles runs two profiles beside each other: one fills nodes, the other
// spreads over them, and a third name is nobody's.
func TestProfiles(t *testing.T) {
	r := startWith(t, 1, `profiles:
- schedulerName: default-scheduler
- schedulerName: packing
  plugins:
    multiPoint: {disabled: [{name: NodeResourcesBalancedAllocation}]}
  pluginConfig:
  - {name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 1}]}}}
`)
	for i := range 4 {
		r.node(fmt.Sprintf("n%d", i), "4", "8Gi")
	}
	by := func(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.SchedulerName = name } }
	r.pod("first", "1", "100Mi", by("packing"))
	first := r.wait("first", "placed", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" }).Spec.NodeName
	for i := range 3 {
		name := fmt.Sprintf("packed%d", i)
		r.pod(name, "1", "100Mi", by("packing"))
		r.on(name, first)
	}
	on := map[string]bool{first: true}
	for i := range 3 {
		name := fmt.Sprintf("spread%d", i)
		r.pod(name, "1", "100Mi")
		p := r.wait(name, "placed", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" })
		if on[p.Spec.NodeName] {
			t.Errorf("%s is on %s, where others are", name, p.Spec.NodeName)
		}
		on[p.Spec.NodeName] = true
	}
	r.pod("nobodys", "", "", by("third"))
	r.pod("last", "", "")
	r.on("last", "")
	if p, err := core.Pod.Get(r.ctx, r.h, "default", "nobodys"); err != nil || p.Spec.NodeName != "" || len(p.Status.Conditions) > 0 {
		t.Errorf("a pod of no profile: %q %v %v", p.Spec.NodeName, p.Status.Conditions, err)
	}
	r.event("Normal", "Scheduled", "Successfully assigned default/packed0 to "+first)
}

// TestOwnDecisionsHelp lets a pod wait for one that comes later.
func TestOwnDecisionsHelp(t *testing.T) {
	r := start(t, 1)
	r.node("a", "4", "8Gi")
	r.node("b", "4", "8Gi")
	r.pod("shy", "100m", "10Mi", func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
			{TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "host"}}}}}}
	})
	r.refused("shy", "0/2 nodes are available: 2 node(s) didn't match pod affinity rules. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.")
	r.pod("host", "100m", "10Mi", labelled("host"))
	host := r.wait("host", "placed", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" })
	r.on("shy", host.Spec.NodeName)
}

// TestVolumesComeWithTheNode plays the controller of volumes for a claim that
// waits for its first user.
func TestVolumesComeWithTheNode(t *testing.T) {
	r := start(t, 1)
	r.node("a", "4", "8Gi")
	late, never := storagev1.VolumeBindingWaitForFirstConsumer, corev1.PersistentVolumeReclaimRetain
	if _, err := storage.StorageClass.Create(r.ctx, r.h, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "late"},
		Provisioner: "example.com/p", VolumeBindingMode: &late, ReclaimPolicy: &never}); err != nil {
		t.Fatal(err)
	}
	name, size := "late", corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	claim, err := core.PersistentVolumeClaim.Create(r.ctx, r.h, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &name,
			Resources: corev1.VolumeResourceRequirements{Requests: size}}})
	if err != nil {
		t.Fatal(err)
	}
	mounts := func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	}
	r.pod("db", "100m", "10Mi", mounts)
	for c := range core.PersistentVolumeClaim.Follow(r.ctx, r.h, "default", api.Selectors{}, nil) {
		for _, o := range append(c.All, c.Object) {
			if o != nil && o.Annotations["volume.kubernetes.io/selected-node"] == "a" {
				claim = o
			}
		}
		if claim.Annotations != nil {
			break
		}
	}
	if p, err := core.Pod.Get(r.ctx, r.h, "default", "db"); err != nil || p.Spec.NodeName != "" {
		t.Errorf("the pod is on %q before its volume is there, %v", p.Spec.NodeName, err)
	}
	if _, err := core.PersistentVolume.Create(r.ctx, r.h, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v1"}, Spec: corev1.PersistentVolumeSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Capacity: size, StorageClassName: "late", PersistentVolumeReclaimPolicy: never,
		ClaimRef:               &corev1.ObjectReference{Namespace: "default", Name: "data", UID: claim.UID},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/v1"}}}}); err != nil {
		t.Fatal(err)
	}
	claim = claim.DeepCopy()
	claim.Spec.VolumeName, claim.Annotations["pv.kubernetes.io/bind-completed"] = "v1", "yes"
	if _, err := core.PersistentVolumeClaim.Update(r.ctx, r.h, claim); err != nil {
		t.Fatal(err)
	}
	r.on("db", "a")
	r.pod("second", "100m", "10Mi", mounts)
	r.on("second", "a")
}

// TestNominationIsRemembered starts a scheduler beside a pod that an earlier one
// has nominated: its room is kept.
func TestNominationIsRemembered(t *testing.T) {
	r := start(t, 1)
	r.node("a", "1", "1Gi")
	high, never := int32(100), corev1.PreemptNever
	r.pod("high", "800m", "100Mi", func(p *corev1.Pod) {
		p.Spec.PreemptionPolicy = &never // what is nominated by another's hand stays so
		p.Spec.Priority, p.Spec.SchedulerName, p.Spec.NodeSelector = &high, "later", map[string]string{"ready": "yes"}
	})
	p, err := core.Pod.Get(r.ctx, r.h, "default", "high")
	if err != nil {
		t.Fatal(err)
	}
	p = p.DeepCopy()
	p.Status.NominatedNodeName = "a"
	if _, err := core.Pod.UpdateStatus(r.ctx, r.h, p); err != nil {
		t.Fatal(err)
	}
	r.pod("low", "800m", "100Mi", func(p *corev1.Pod) { p.Spec.SchedulerName = "later" })
	r.later()
	r.refused("low", "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.")
	r.change("a", func(n *corev1.Node) { n.Labels["ready"] = "yes" })
	r.on("high", "a")
}

// metric returns the value of a counter or gauge, or the count of a histogram.
func metric(t *testing.T, reg *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.Metric {
			has := map[string]string{}
			for _, l := range m.Label {
				has[l.GetName()] = l.GetValue()
			}
			all := true
			for i := 0; i < len(labels); i += 2 {
				all = all && has[labels[i]] == labels[i+1]
			}
			if !all {
				continue
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return 0
}

// TestOnlyWhatHelpsBringsBack follows a pod that a taint keeps out through
// changes that do not matter to it, to the one that does.
func TestOnlyWhatHelpsBringsBack(t *testing.T) {
	reg := prometheus.NewRegistry()
	r := startWith(t, 1, "", reg)
	tries := func(result string) float64 {
		return metric(t, reg, "scheduler_schedule_attempts_total", "profile", "default-scheduler", "result", result)
	}
	tainted := func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}} }
	tolerates := func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} }
	r.node("a", "4", "4Gi", tainted)
	r.pod("probe0", "100m", "10Mi", tolerates)
	r.on("probe0", "a")
	r.pod("out", "100m", "10Mi")
	r.refused("out", "0/1 nodes are available: 1 node(s) had untolerated taint(s). preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
	before := tries("unschedulable")
	r.pod("held", "", "", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}} })
	// Each change is followed by a pod that needs it: once that is placed, the
	// scheduler has seen the change.
	r.change("a", func(n *corev1.Node) { n.Labels["one"] = "yes" })
	r.pod("probe1", "100m", "10Mi", tolerates, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"one": "yes"} })
	r.on("probe1", "a")
	r.change("a", func(n *corev1.Node) { n.Labels["two"], n.Spec.Taints[0].Value = "yes", "other" })
	r.pod("probe2", "100m", "10Mi", tolerates, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"two": "yes"} })
	r.on("probe2", "a")
	r.delete("probe1")
	r.node("b", "4", "4Gi", tainted)
	r.pod("probe3", "100m", "10Mi", tolerates, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "b"} })
	r.on("probe3", "b")
	if n := tries("unschedulable") - before; n != 0 {
		t.Errorf("%v more attempts failed", n)
	}
	for queue, want := range map[string]float64{"unschedulable": 1, "gated": 1, "active": 0, "backoff": 0} {
		if n := metric(t, reg, "scheduler_pending_pods", "queue", queue); n != want {
			t.Errorf("%v pods are %s, want %v", n, queue, want)
		}
	}
	r.change("a", func(n *corev1.Node) { n.Spec.Taints = nil })
	r.on("out", "a")
}

// TestPromiseIsKept loses the answer to a binding, and then all answers about the pod,
// while the watch lags: until it is known where the pod is nobody gets what it was promised.
func TestPromiseIsKept(t *testing.T) {
	r := start(t, 1)
	r.node("a", "1", "1Gi")
	later := func(p *corev1.Pod) { p.Spec.SchedulerName = "later" }
	r.pod("first", "800m", "100Mi", later)
	ctx, cancel := context.WithCancel(r.ctx)
	asked := make(chan bool, 3)
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = sched.Run(ctx, api.HandlerFunc(func(ctx context.Context, q *api.Request) (*api.Response, error) {
			if q.Verb == api.Get && q.Name == "first" {
				select {
				case asked <- true:
				default:
				}
				return nil, errors.New("no connection")
			}
			resp, err := r.h.Handle(ctx, q)
			switch {
			case q.Sub == "binding" && q.Name == "first":
				return nil, errors.New("connection lost")
			case err == nil && resp.Events != nil && q.Resource == core.Pod.Def():
				late := *resp
				late.Events = func(yield func(api.Event, error) bool) {
					for e, err := range resp.Events {
						if err == nil && e.Item != nil {
							if p, ok := e.Item.Object().(*corev1.Pod); ok && p.Name == "first" && p.Spec.NodeName != "" {
								continue // the watch never shows it
							}
						}
						if !yield(e, err) {
							return
						}
					}
				}
				return &late, nil
			}
			return resp, err
		}), sched.Config{Name: "later", Plugins: plugins.All, Seed: 1, FirstPause: time.Millisecond, MostPause: time.Millisecond})
	})
	defer func() { cancel(); wg.Wait() }()
	for range 3 {
		<-asked
	}
	r.on("first", "a")
	r.pod("second", "800m", "100Mi", later)
	r.refused("second", "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.")
}
