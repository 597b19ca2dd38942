package plugins_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/sched"
)

// A workload is one of scheduler_perf's: pods that are there before, and the
// pods that are decided on, on 5,000 nodes in three zones.
type workload struct {
	name   string
	before int
	old    string // spec of those before; plain if empty
	pods   int
	spec   string
	each   func(i int, p *corev1.Pod)
}

const plainRequests = `containers: [{name: c, image: pause, resources: {requests: {cpu: 100m, memory: 500Mi}}}]`

func termFor(kind, key, color string) string {
	return fmt.Sprintf(`affinity: {%s: {requiredDuringSchedulingIgnoredDuringExecution: [{labelSelector: {matchLabels: {app: %s}}, topologyKey: %s, namespaces: [d]}]}}`, kind, color, key)
}

func likes(kind, key, color string) string {
	return fmt.Sprintf(`affinity: {%s: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {labelSelector: {matchLabels: {app: %s}}, topologyKey: %s, namespaces: [d]}}]}}`, kind, color, key)
}

const (
	benchZone = "topology.kubernetes.io/zone"
	benchHost = "kubernetes.io/hostname"
)

var workloads = []workload{
	{name: "Basic", before: 1000, pods: 5000},
	{name: "TopologySpreading", before: 5000, pods: 5000, spec: `topologySpreadConstraints: [{maxSkew: 5, topologyKey: ` + benchZone + `, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: blue}}}]`},
	{name: "PreferredTopologySpreading", before: 5000, pods: 5000, spec: `topologySpreadConstraints: [{maxSkew: 5, topologyKey: ` + benchZone + `, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: blue}}}]`},
	{name: "PodAffinity", before: 5000, old: termFor("podAffinity", benchZone, "blue"), pods: 5000, spec: termFor("podAffinity", benchZone, "blue")},
	{name: "PodAntiAffinity", before: 1000, old: termFor("podAntiAffinity", benchHost, "blue"), pods: 1000, spec: termFor("podAntiAffinity", benchHost, "blue")},
	{name: "PreferredPodAffinity", before: 5000, old: likes("podAffinity", benchHost, "blue"), pods: 5000, spec: likes("podAffinity", benchHost, "blue")},
	{name: "PreferredPodAntiAffinity", before: 5000, old: likes("podAntiAffinity", benchHost, "blue"), pods: 5000, spec: likes("podAntiAffinity", benchHost, "blue")},
	{name: "NodeAffinity", before: 5000, pods: 5000, spec: `affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: ` + benchZone + `, operator: In, values: [z0, z1]}]}]}}}`},
	{name: "DefaultTopologySpreading", before: 5000, pods: 5000, each: func(_ int, p *corev1.Pod) { p.Labels["app"] = "served" }},
	{name: "Daemonset", pods: 5000, each: func(i int, p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
				{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{fmt.Sprintf("n%d", i)}}}}}}}}
	}},
	{name: "Different", before: 1000, pods: 5000, each: func(i int, p *corev1.Pod) { p.Labels["serial"] = fmt.Sprint(i) }},
}

func benchPod(b testing.TB, name, label, spec string) *corev1.Pod {
	p := pod(b, label, "{"+spec+"}")
	p.Spec.Containers = pod(b, "", "{"+plainRequests+"}").Spec.Containers
	p.Name, p.UID = name, types.UID(name)
	return p
}

func benchState(b testing.TB, w *workload) *sched.State {
	s := sched.NewState()
	s.SetNamespace("d", nil)
	s.Select.SetService("d", "served", map[string]string{"app": "served"})
	for i := range 5000 {
		n := &corev1.Node{}
		n.Name = fmt.Sprintf("n%d", i)
		n.Labels = map[string]string{benchHost: n.Name, benchZone: fmt.Sprintf("z%d", i%3)}
		n.Status.Allocatable = benchCapacity(b)
		s.SetNode(n)
	}
	if w.before == 0 {
		return s
	}
	old := benchPod(b, "old", "blue", w.old)
	for i := range w.before {
		p := *old
		p.UID = types.UID(fmt.Sprintf("old%d", i))
		s.AddPod(sched.NewPod(&p), fmt.Sprintf("n%d", (i*7)%5000))
	}
	return s
}

var benchCapacityMemo corev1.ResourceList

func benchCapacity(b testing.TB) corev1.ResourceList {
	if benchCapacityMemo == nil {
		n := &corev1.Node{}
		parse(b, n, `{status: {allocatable: {cpu: "4", memory: 32Gi, pods: "110"}}}`)
		benchCapacityMemo = n.Status.Allocatable
	}
	return benchCapacityMemo
}

// BenchmarkDecide measures pure decisions: a pod is read, a node is chosen and
// the state takes it in. One operation is a whole workload.
func BenchmarkDecide(b *testing.B) {
	for _, w := range workloads {
		b.Run(w.name, func(b *testing.B) {
			var spent time.Duration
			done := 0
			for range b.N {
				b.StopTimer()
				s := benchState(b, &w)
				model := benchPod(b, "new", "blue", w.spec)
				pods := make([]*corev1.Pod, w.pods)
				for i := range pods {
					pods[i] = model.DeepCopy()
					pods[i].UID = types.UID(fmt.Sprintf("new%d", i))
					if w.each != nil {
						w.each(i, pods[i])
					}
				}
				p := placer(1)
				p.Percent = 0
				b.StartTimer()
				began := time.Now()
				for i, one := range pods {
					pod := sched.NewPod(one)
					c, fail := p.Place(pod, s)
					if fail != nil {
						b.Fatalf("pod %d: %v", i, fail)
					}
					s.AddPod(pod, c.Name)
					done++
				}
				spent += time.Since(began)
			}
			b.ReportMetric(float64(done)/spent.Seconds(), "pods/s")
		})
	}
}

// BenchmarkPreempt measures decisions on a full cluster: a pod fits nowhere,
// victims are found, leave, and the pod comes. Fifty at a time wait
// for theirs to leave.
func BenchmarkPreempt(b *testing.B) {
	const pods = 2000
	var spent time.Duration
	for range b.N {
		b.StopTimer()
		s := benchState(b, &workload{})
		low := pod(b, "", `{containers: [{name: c, resources: {requests: {cpu: 900m, memory: 500Mi}}}]}`)
		for i := range 20000 {
			p := *low
			p.UID = types.UID(fmt.Sprintf("low%d", i))
			s.AddPod(sched.NewPod(&p), fmt.Sprintf("n%d", i%5000))
		}
		high := pod(b, "", `{priority: 10, containers: [{name: c, resources: {requests: {cpu: "3", memory: 500Mi}}}]}`)
		p := placer(1)
		p.Percent = 0
		type waiting struct {
			pod  *sched.Pod
			plan *sched.Plan
		}
		var line []waiting
		come := func() {
			for _, v := range line[0].plan.Victims {
				s.RemovePod(v.UID)
			}
			c, fail := p.Place(line[0].pod, s)
			if fail != nil || c.Node != line[0].plan.Node {
				b.Fatalf("the room is gone: %v", fail)
			}
			s.Nominate(line[0].pod, "")
			s.AddPod(line[0].pod, c.Name)
			line = line[1:]
		}
		b.StartTimer()
		began := time.Now()
		for i := range pods {
			one := *high
			one.UID = types.UID(fmt.Sprintf("high%d", i))
			next := sched.NewPod(&one)
			_, fail := p.Place(next, s)
			if fail == nil {
				b.Fatal("there is room")
			}
			plan := p.Preempt(next, s, sched.DefaultPreemption, fail)
			if plan == nil {
				b.Fatal(fail)
			}
			s.Nominate(next, plan.Node.Name)
			line = append(line, waiting{next, plan})
			if len(line) > 50 {
				come()
			}
		}
		for len(line) > 0 {
			come()
		}
		spent += time.Since(began)
	}
	b.ReportMetric(float64(pods*b.N)/spent.Seconds(), "pods/s")
}
