package plugins_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/sched"
	"proa/internal/sched/plugins"
)

// pick returns one of its arguments.
func pick(r *rand.Rand, all ...string) string { return all[r.IntN(len(all))] }

func randomNode(t testing.TB, r *rand.Rand, i int) *corev1.Node {
	name := fmt.Sprintf("n%d", i)
	labels := []string{"kubernetes.io/hostname: " + name}
	if r.IntN(6) > 0 {
		labels = append(labels, "topology.kubernetes.io/zone: "+pick(r, "zx", "zy", "zz"))
	}
	if r.IntN(3) > 0 {
		labels = append(labels, "disk: "+pick(r, "ssd", "hdd"))
	}
	taints := pick(r, "", "", "", `{key: k, effect: NoSchedule}`, `{key: k, value: v, effect: NoExecute}`, `{key: q, effect: PreferNoSchedule}`,
		`{key: k, effect: PreferNoSchedule}, {key: q, effect: PreferNoSchedule}`)
	images := pick(r, "", "", `{names: ["img:latest", "img@sha256:1"], sizeBytes: 700000000}`, `{names: ["big:1"], sizeBytes: 1500000000}, {names: ["img:latest"], sizeBytes: 90000000}`)
	n := &corev1.Node{}
	parse(t, n, fmt.Sprintf(`{metadata: {name: %s, labels: {%s}}, spec: {unschedulable: %v, taints: [%s]},
		status: {images: [%s], allocatable: {cpu: %s, memory: %s, pods: "%d", example.com/x: "%d"}}}`,
		name, strings.Join(labels, ", "), r.IntN(9) == 0, taints, images, pick(r, `"4"`, `"8"`, `3500m`), pick(r, "4Gi", "8Gi", "16Gi"), 4+r.IntN(12), r.IntN(4)))
	return n
}

func randomSelector(r *rand.Rand) string {
	return pick(r, `{matchLabels: {app: a}}`, `{matchLabels: {app: b}}`, `{matchExpressions: [{key: app, operator: In, values: [a, c]}]}`, `{}`,
		`{matchExpressions: [{key: app, operator: NotIn, values: [a]}]}`, `{matchExpressions: [{key: v, operator: Exists}]}`)
}

func randomKey(r *rand.Rand) string {
	return pick(r, "kubernetes.io/hostname", "topology.kubernetes.io/zone", "topology.kubernetes.io/zone", "disk")
}

func randomTerm(r *rand.Rand) string {
	return fmt.Sprintf(`topologyKey: %s, labelSelector: %s%s`, randomKey(r), randomSelector(r),
		pick(r, "", "", ", namespaces: [e]", ", namespaceSelector: {}", ", namespaceSelector: {matchLabels: {team: two}}, namespaces: [d]",
			", matchLabelKeys: [v]", ", mismatchLabelKeys: [v]"))
}

// randomPod makes a pod that may be particular about anything.
func randomPod(t testing.TB, r *rand.Rand) *corev1.Pod {
	var spec []string
	plain := r.IntN(4) == 0
	maybe := func(one int, format string, args ...any) {
		if !plain && r.IntN(one) == 0 {
			spec = append(spec, fmt.Sprintf(format, args...))
		}
	}
	maybe(5, "nodeSelector: {disk: ssd}")
	maybe(4, "tolerations: [%s]", pick(r, `{key: k, operator: Exists}`, `{operator: Exists}`, `{key: k, operator: Equal, value: v, effect: NoExecute}`, `{key: q, operator: Exists, effect: PreferNoSchedule}`))
	if !plain && r.IntN(3) == 0 {
		var all []string
		for range 1 + r.IntN(2) {
			all = append(all, fmt.Sprintf(`{maxSkew: %d, topologyKey: %s, whenUnsatisfiable: %s, labelSelector: %s%s}`, 1+r.IntN(2), randomKey(r),
				pick(r, "DoNotSchedule", "ScheduleAnyway"), randomSelector(r), pick(r, "", "", ", nodeTaintsPolicy: Honor", ", nodeAffinityPolicy: Ignore", ", matchLabelKeys: [v]")))
			if strings.Contains(all[len(all)-1], "DoNotSchedule") && r.IntN(3) == 0 {
				all[len(all)-1] = strings.TrimSuffix(all[len(all)-1], "}") + ", minDomains: 3}"
			}
		}
		spec = append(spec, "topologySpreadConstraints: ["+strings.Join(all, ", ")+"]")
	}
	var affinity []string
	if !plain && r.IntN(5) == 0 {
		affinity = append(affinity, `nodeAffinity: {`+pick(r,
			`requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: disk, operator: NotIn, values: [hdd]}]}, {matchExpressions: [{key: topology.kubernetes.io/zone, operator: In, values: [zx]}]}]}`,
			`preferredDuringSchedulingIgnoredDuringExecution: [{weight: 5, preference: {matchExpressions: [{key: disk, operator: Exists}]}}, {weight: 7, preference: {matchExpressions: [{key: topology.kubernetes.io/zone, operator: In, values: [zx, zy]}]}}]`)+`}`)
	}
	for _, kind := range []string{"podAffinity", "podAntiAffinity"} {
		switch r.IntN(6) {
		case 0:
			if plain {
				break
			}
			affinity = append(affinity, fmt.Sprintf(`%s: {requiredDuringSchedulingIgnoredDuringExecution: [{%s}]}`, kind, randomTerm(r)))
		case 1:
			affinity = append(affinity, fmt.Sprintf(`%s: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: %d, podAffinityTerm: {%s}}]}`, kind, 1+r.IntN(100), randomTerm(r)))
		}
	}
	if len(affinity) > 0 {
		spec = append(spec, "affinity: {"+strings.Join(affinity, ", ")+"}")
	}
	container := func(name string) string {
		return fmt.Sprintf(`{name: %s, image: %s, resources: {requests: {%s}}%s}`, name, pick(r, "img", "big:1", "other:2"),
			pick(r, "", "cpu: 300m", "cpu: 500m, memory: 1Gi", "memory: 700Mi", `cpu: 100m, memory: 100Mi, example.com/x: "1"`),
			pick(r, "", "", "", ", ports: [{containerPort: 1, hostPort: 80}]", ", ports: [{containerPort: 1, hostPort: 80, hostIP: 10.0.0.1}]"))
	}
	all := container("c")
	if r.IntN(4) == 0 {
		all += ", {name: d, image: img}"
	}
	spec = append(spec, "containers: ["+all+"]")
	p := pod(t, pick(r, "a", "b", "c"), "{"+strings.Join(spec, ", ")+"}")
	p.Namespace = pick(r, "d", "d", "e")
	if r.IntN(3) > 0 {
		p.Labels["v"] = pick(r, "1", "2")
	}
	p.Spec.Priority = new(int32)
	*p.Spec.Priority = int32(r.IntN(3))
	return p
}

// TestOracle has random pods placed in random small clusters while pods, nodes
// and services come and go, and asks an independent computation each time.
func TestOracle(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("PROA_TEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	cases, decisions, refusals, plans := 250, 0, 0, 0
	if testing.Short() {
		cases = 100
	}
	for i := range cases {
		d, no, p := oracleRun(t, seed+uint64(i))
		decisions += d
		refusals += no
		plans += p
		if t.Failed() {
			t.Fatalf("seed %d", seed+uint64(i))
		}
	}
	t.Logf("%d clusters, %d decisions, %d of them that no node will do, %d plans to make room; first seed %d", cases, decisions, refusals, plans, seed)
}

func oracleRun(t *testing.T, seed uint64) (decisions, refusals, plans int) {
	r := rand.New(rand.NewPCG(seed, 1))
	w := &world{spaces: map[string]map[string]string{"d": {"team": "one"}, "e": {"team": "two"}}, services: map[string]map[string]map[string]string{}}
	s := sched.NewState()
	for name, l := range w.spaces {
		s.SetNamespace(name, l)
	}
	for i := range 2 + r.IntN(8) {
		w.nodes = append(w.nodes, randomNode(t, r, i))
		s.SetNode(w.nodes[i])
	}
	var kinds []*corev1.Pod
	for range 1 + r.IntN(5) {
		kinds = append(kinds, randomPod(t, r))
	}
	placer := &sched.Placer{Uses: sched.UsesOf(plugins.All), Rand: r, Percent: 100, Alone: seed%4 == 0}
	for i := range 40 {
		oracleChange(t, r, w, s, i)
		p := kinds[r.IntN(len(kinds))].DeepCopy()
		p.UID = types.UID(fmt.Sprint("p", i))
		at := metav1.Unix(int64(1e9+r.IntN(10)), 0)
		p.Status.StartTime = &at
		if r.IntN(12) == 0 && len(w.nodes) > 0 { // it only is to come
			p.Spec.NodeName = w.nodes[r.IntN(len(w.nodes))].Name
			w.coming = append(w.coming, p)
			coming := p.DeepCopy()
			coming.Spec.NodeName = ""
			s.Nominate(sched.NewPod(coming), p.Spec.NodeName)
			continue
		}
		want := w.best(p)
		c, fail := placer.Place(sched.NewPod(p), s)
		decisions++
		switch {
		case fail != nil && len(want) > 0:
			t.Errorf("decision %d: refused with %q, but %v would do", i, fail, want)
		case fail == nil && !slices.Contains(want, c.Name):
			t.Errorf("decision %d: %s, but the best are %v", i, c.Name, want)
			t.Logf("the scores are %v", w.scores(p, w.nodes))
		case fail != nil:
			refusals++
			total := 0
			for _, n := range fail.Reasons {
				total += n
			}
			if total < len(w.nodes) {
				t.Errorf("decision %d: %q does not speak of all %d nodes", i, fail, len(w.nodes))
			}
			if near, _ := required(p); len(near) == 0 {
				if oraclePreempt(t, w, p, placer.Preempt(sched.NewPod(p), s, sched.DefaultPreemption, fail)) {
					plans++
				}
			}
		default:
			placed := p.DeepCopy()
			placed.Spec.NodeName = c.Name
			w.pods = append(w.pods, placed)
			s.AddPod(sched.NewPod(placed), c.Name)
		}
		if t.Failed() {
			return decisions, refusals, plans
		}
	}
	return decisions, refusals, plans
}

// oraclePreempt checks a plan, or that there is none, against the oracle's.
func oraclePreempt(t *testing.T, w *world, p *corev1.Pod, plan *sched.Plan) bool {
	var least *[4]int64
	for _, n := range w.nodes {
		if v := w.victims(p, n); v != nil {
			if h := harm(v); least == nil || slices.Compare(h[:], least[:]) < 0 {
				least = &h
			}
		}
	}
	switch {
	case plan == nil && least == nil:
		return false
	case plan == nil || least == nil:
		t.Errorf("plan %+v, but the least harm is %v", plan, least)
		return false
	}
	want := w.victims(p, w.node(plan.Node.Name))
	var got []*corev1.Pod
	for _, v := range plan.Victims {
		got = append(got, v.Pod)
	}
	same := func(a, b *corev1.Pod) bool { return a.UID == b.UID }
	if h := harm(want); !slices.EqualFunc(got, want, same) || h != *least {
		t.Errorf("plan for node %s: %d victims do harm %v, but %v is possible", plan.Node.Name, len(got), h, *least)
	}
	return true
}

// oracleChange lets something happen to the cluster.
func oracleChange(t *testing.T, r *rand.Rand, w *world, s *sched.State, i int) {
	switch r.IntN(14) {
	case 0, 1: // a pod goes
		if len(w.pods) > 0 {
			k := r.IntN(len(w.pods))
			s.RemovePod(w.pods[k].UID)
			w.pods = slices.Delete(w.pods, k, k+1)
		}
	case 2: // a pod is told to go
		if len(w.pods) > 0 {
			k := r.IntN(len(w.pods))
			p := w.pods[k].DeepCopy()
			p.DeletionTimestamp = &p.CreationTimestamp
			w.pods[k] = p
			s.AddPod(sched.NewPod(p), p.Spec.NodeName)
		}
	case 3: // a node changes
		if r.IntN(3) == 0 {
			k := r.IntN(len(w.nodes))
			n := randomNode(t, r, 0)
			name := w.nodes[k].Name
			n.Name, n.Labels[corev1.LabelHostname] = name, name
			w.nodes[k] = n
			s.SetNode(n)
		}
	case 4: // a node comes
		if r.IntN(3) == 0 {
			n := randomNode(t, r, 100+i)
			w.nodes = append(w.nodes, n)
			s.SetNode(n)
		}
	case 5: // a node goes; its pods remain for a while
		if r.IntN(3) == 0 && len(w.nodes) > 1 {
			k := r.IntN(len(w.nodes))
			s.RemoveNode(w.nodes[k].Name)
			w.nodes = slices.Delete(w.nodes, k, k+1)
		}
	case 6: // a service comes or goes
		name := pick(r, "s1", "s2")
		sel := map[string]string{"app": pick(r, "a", "b")}
		if r.IntN(3) == 0 {
			sel = nil
		}
		s.Select.SetService("d", name, sel)
		if w.services["d"] == nil {
			w.services["d"] = map[string]map[string]string{}
		}
		if delete(w.services["d"], name); sel != nil {
			w.services["d"][name] = sel
		}
	case 8, 9: // a node's taints or its size change
		k := r.IntN(len(w.nodes))
		n, other := w.nodes[k].DeepCopy(), randomNode(t, r, 0)
		if r.IntN(2) == 0 {
			n.Spec = other.Spec
		} else {
			n.Status.Allocatable = other.Status.Allocatable
		}
		w.nodes[k] = n
		s.SetNode(n)
	case 7: // one that was to come does not
		if len(w.coming) > 0 {
			s.Nominate(sched.NewPod(w.coming[0]), "")
			w.coming = w.coming[1:]
		}
	}
}
