package plugins_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"proa/internal/sched"
	"proa/internal/sched/plugins"
)

// cluster makes a state of nodes a, b and c in zones x, x and y, with 4 cores,
// 8Gi and room for 10 pods each, changed by YAML, and pods on them.
func cluster(t testing.TB, nodes map[string]string, pods ...*corev1.Pod) *sched.State {
	s := sched.NewState()
	for _, name := range []string{"a", "b", "c"} {
		n := &corev1.Node{}
		zone := map[string]string{"a": "x", "b": "x", "c": "y"}[name]
		parse(t, n, fmt.Sprintf(`{metadata: {name: %s, labels: {kubernetes.io/hostname: %s, zone: %s}},
			status: {allocatable: {cpu: "4", memory: 8Gi, pods: "10"}}}`, name, name, zone))
		if more := nodes[name]; more != "" {
			parse(t, n, more)
		}
		s.SetNode(n)
	}
	s.SetNamespace("d", map[string]string{"team": "one"})
	s.SetNamespace("e", map[string]string{"team": "two"})
	for i, p := range pods {
		p.UID = types.UID(fmt.Sprint("uid", i))
		s.AddPod(sched.NewPod(p), p.Spec.NodeName)
	}
	return s
}

func parse(t testing.TB, into any, text string) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(text, "\t", " ")), into); err != nil {
		t.Fatal(err)
	}
}

// pod makes a pod in namespace d from its labels and a spec.
func pod(t testing.TB, label, spec string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "p", Labels: map[string]string{}}}
	if label != "" {
		p.Labels["app"] = label
	}
	parse(t, &p.Spec, spec)
	if len(p.Spec.Containers) == 0 {
		p.Spec.Containers = []corev1.Container{{Name: "c", Image: "img"}}
	}
	return p
}

func placer(seed uint64) *sched.Placer {
	return &sched.Placer{Uses: sched.UsesOf(plugins.All), Rand: rand.New(rand.NewPCG(seed, 0)), Percent: 100}
}

// TestPlace checks on which nodes a pod may end up, over many throws of the
// dice, or why it may not.
func TestPlace(t *testing.T) {
	web := func(node string) *corev1.Pod { return pod(t, "web", `{nodeName: `+node+`}`) }
	for _, tt := range []struct {
		name  string
		nodes map[string]string
		there []*corev1.Pod
		pod   string
		want  string
	}{
		{"anywhere", nil, nil, `{}`, "a b c"},
		{"by selector", nil, nil, `{nodeSelector: {zone: y}}`, "c"},
		{"by selector, none", nil, nil, `{nodeSelector: {zone: z}}`,
			"0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector."},
		{"by affinity", nil, nil, `{affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: NotIn, values: [y]}]}]}}}}`, "a b"},
		{"by name", nil, nil, `{affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: [b]}]}]}}}}`, "b"},
		{"by preference", nil, nil, `{affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 5, preference: {matchExpressions: [{key: zone, operator: In, values: [y]}]}}]}}}`, "c"},
		{"tainted", map[string]string{"a": `{spec: {taints: [{key: k, effect: NoSchedule}]}}`, "b": `{spec: {taints: [{key: k, effect: NoExecute}]}}`}, nil, `{}`, "c"},
		{"tolerating", map[string]string{"a": `{spec: {taints: [{key: k, value: v, effect: NoSchedule}]}}`}, nil, `{tolerations: [{key: k, operator: Equal, value: v}]}`, "a b c"},
		{"put off", map[string]string{"a": `{spec: {taints: [{key: k, effect: PreferNoSchedule}]}}`}, nil, `{}`, "b c"},
		{"cordoned", map[string]string{"a": `{spec: {unschedulable: true}}`, "b": `{spec: {unschedulable: true}}`}, nil, `{}`, "c"},
		{"cordoned, tolerating", map[string]string{"a": `{spec: {unschedulable: true}}`}, nil, `{nodeSelector: {kubernetes.io/hostname: a}, tolerations: [{operator: Exists}]}`, "a"},
		{"least used", nil, []*corev1.Pod{
			pod(t, "", `{nodeName: a, containers: [{name: c, resources: {requests: {cpu: "2", memory: 4Gi}}}]}`),
			pod(t, "", `{nodeName: b, containers: [{name: c, resources: {requests: {cpu: "1", memory: 2Gi}}}]}`),
		}, `{containers: [{name: c, resources: {requests: {cpu: "1", memory: 2Gi}}}]}`, "c"},
		{"too big", nil, []*corev1.Pod{pod(t, "", `{nodeName: a, containers: [{name: c, resources: {requests: {cpu: "3"}}}]}`)},
			`{containers: [{name: c, resources: {requests: {cpu: "3", memory: 9Gi}}}]}`,
			"0/3 nodes are available: 1 Insufficient cpu, 3 Insufficient memory."},
		{"init containers count by their most, sidecars with all", nil, nil,
			`{initContainers: [{name: s, restartPolicy: Always, resources: {requests: {cpu: "2"}}}, {name: i, resources: {requests: {cpu: "3"}}}], containers: [{name: c, resources: {requests: {cpu: "1"}}}]}`,
			"0/3 nodes are available: 3 Insufficient cpu."},
		{"overhead", nil, nil, `{overhead: {cpu: "3"}, containers: [{name: c, resources: {requests: {cpu: 1500m}}}]}`, "0/3 nodes are available: 3 Insufficient cpu."},
		{"extended resources", map[string]string{"b": `{status: {allocatable: {example.com/gpu: "1"}}}`}, nil,
			`{containers: [{name: c, resources: {requests: {example.com/gpu: "1"}}}]}`, "b"},
		{"ports", nil, []*corev1.Pod{pod(t, "", `{nodeName: a, containers: [{name: c, ports: [{hostPort: 80, containerPort: 80}]}]}`),
			pod(t, "", `{nodeName: b, containers: [{name: c, ports: [{hostPort: 80, containerPort: 80, protocol: UDP}]}]}`)},
			`{nodeSelector: {zone: x}, containers: [{name: c, ports: [{hostPort: 80, containerPort: 80, hostIP: 10.0.0.1}]}]}`, "b"},
		{"images at hand", map[string]string{"b": `{status: {images: [{names: ["img:latest"], sizeBytes: 1000000000}]}}`}, nil, `{}`, "b"},
		{"spread over zones", nil, []*corev1.Pod{web("a"), web("c")},
			`{topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}, {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]}`, "b"},
		{"spread, one zone full", nil, []*corev1.Pod{web("a"), web("b")},
			`{topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]}`, "c"},
		{"spread by a key that is not there", nil, nil,
			`{topologySpreadConstraints: [{maxSkew: 1, topologyKey: rack, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]}`,
			"0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints (missing required label)."},
		{"spread softly", nil, []*corev1.Pod{web("a"), web("b")},
			`{topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: web}}}]}`, "c"},
		{"near", nil, []*corev1.Pod{pod(t, "db", `{nodeName: c}`)},
			`{affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone, labelSelector: {matchLabels: {app: db}}}]}}}`, "c"},
		{"near nothing", nil, nil,
			`{affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone, labelSelector: {matchLabels: {app: db}}}]}}}`,
			"0/3 nodes are available: 3 node(s) didn't match pod affinity rules."},
		{"near itself", nil, nil,
			`{affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone, labelSelector: {matchLabels: {app: web}}}]}}}`, "a b c"},
		{"apart", nil, []*corev1.Pod{web("a"), web("b")},
			`{affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: web}}}]}}}`, "c"},
		{"apart, other namespaces do not count", nil, []*corev1.Pod{web("a")},
			`{nodeSelector: {kubernetes.io/hostname: a}, affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone, namespaceSelector: {matchLabels: {team: two}}, labelSelector: {matchLabels: {app: web}}}]}}}`, "a"},
		{"kept away", nil, []*corev1.Pod{pod(t, "hermit", `{nodeName: a, affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone, labelSelector: {matchLabels: {app: web}}}]}}}`)},
			`{}`, "c"},
		{"nearer if possible", nil, []*corev1.Pod{pod(t, "db", `{nodeName: b}`)},
			`{affinity: {podAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 100, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: db}}}}]}}}`, "b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := cluster(t, tt.nodes, tt.there...)
			p := pod(t, "web", tt.pod)
			p.UID = "new"
			got := map[string]bool{}
			for seed := range uint64(40) {
				c, fail := placer(seed).Place(sched.NewPod(p), s)
				if fail != nil {
					got[fail.String()] = true
				} else {
					got[c.Name] = true
				}
			}
			var all []string
			for name := range got {
				all = append(all, name)
			}
			slices.Sort(all)
			if g := strings.Join(all, " "); g != tt.want {
				t.Errorf("got %q, want %q", g, tt.want)
			}
		})
	}
}

// TestAccountsAddUp adds and removes pods and nodes at random, and checks that
// an empty cluster is as it was.
func TestAccountsAddUp(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	s := cluster(t, nil)
	var live []types.UID
	for i := range 2000 {
		if len(live) > 0 && r.IntN(2) == 0 {
			k := r.IntN(len(live))
			s.RemovePod(live[k])
			live = slices.Delete(live, k, k+1)
			continue
		}
		p := pod(t, "web", fmt.Sprintf(`{containers: [{name: c, ports: [{hostPort: %d, containerPort: 1}], resources: {requests: {cpu: %dm, memory: 1Mi, example.com/x: "1"}}}]}`, 1+r.IntN(5), r.IntN(100)))
		p.UID = types.UID(fmt.Sprint("r", i))
		s.AddPod(sched.NewPod(p), []string{"a", "b", "c", "gone"}[r.IntN(4)])
		live = append(live, p.UID)
	}
	for _, uid := range live {
		s.RemovePod(uid)
	}
	for _, n := range s.Nodes {
		if n.Used.CPU != 0 || n.Used.Memory != 0 || n.Used.Pods != 0 || len(n.Used.Others) != 0 || n.Scored.CPU != 0 || len(n.Ports) != 0 || len(n.Pods) != 0 {
			t.Errorf("node %s is not empty: %+v %+v %v", n.Name, n.Used, n.Scored, n.Ports)
		}
	}
	if s.Node("gone") != nil {
		t.Error("a node that never was is there")
	}
}
