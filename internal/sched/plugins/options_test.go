package plugins_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/sched"
	"proa/internal/sched/plugins"
)

// outcome places a pod many times, judged by itself and by what is shared, and
// returns the nodes where it went, or why it did not.
func outcome(t *testing.T, uses []sched.Use, p *corev1.Pod, s *sched.State) string {
	t.Helper()
	var got [2]string
	for i := range got {
		found := map[string]bool{}
		for seed := range uint64(40) {
			placer := &sched.Placer{Uses: uses, Rand: rand.New(rand.NewPCG(seed, 0)), Percent: 100, Alone: i == 0}
			pod := sched.NewPod(p)
			placer.Place(pod, s)
			if c, fail := placer.Place(pod, s); fail != nil {
				found[fail.String()] = true
			} else {
				found[c.Name] = true
			}
		}
		var all []string
		for name := range found {
			all = append(all, name)
		}
		slices.Sort(all)
		got[i] = strings.Join(all, " ")
	}
	if got[0] != got[1] {
		t.Errorf("judged by itself: %q, by what is shared: %q", got[0], got[1])
	}
	return got[1]
}

// profile makes a profile of single plugins and their args.
func profile(t *testing.T, text string) []sched.Use {
	t.Helper()
	c, err := sched.Load([]byte("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles: [{"+text+"}]"), plugins.All)
	if err != nil {
		t.Fatal(err)
	}
	return c.Profiles[0].Uses
}

// only is a profile with the score of one plugin, and its args.
func only(plugin, args string) string {
	return `plugins: {score: {disabled: [{name: '*'}], enabled: [{name: ` + plugin + `}]}}, pluginConfig: [{name: ` + plugin + `, args: ` + args + `}]`
}

func TestOptions(t *testing.T) {
	uses := func(cpu, memory string) string {
		return `{containers: [{name: c, resources: {requests: {cpu: ` + cpu + `, memory: ` + memory + `}}}]}`
	}
	on := func(node, spec string) *corev1.Pod {
		p := pod(t, "", spec)
		p.Spec.NodeName = node
		return p
	}
	gpus := map[string]string{"a": `{status: {allocatable: {example.com/gpu: "8"}}}`, "b": `{status: {allocatable: {example.com/gpu: "2"}}}`}
	wantsGPU := `{containers: [{name: c, resources: {requests: {cpu: 100m, example.com/gpu: "1"}}}]}`
	half := []*corev1.Pod{on("a", uses("2", "4Gi")), on("b", uses("1", "2Gi"))}
	ratio := func(shape string) string {
		return only("NodeResourcesFit", `{scoringStrategy: {type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [`+shape+`]}}}`)
	}
	web := func(node string) *corev1.Pod { return pod(t, "web", `{nodeName: `+node+`}`) }
	for _, tt := range []struct {
		name, profile string
		nodes         map[string]string
		there         []*corev1.Pod
		pod, want     string
	}{
		{"least allocated", only("NodeResourcesFit", `{scoringStrategy: {type: LeastAllocated}}`), nil, half, uses("1", "1Gi"), "c"},
		{"most allocated", only("NodeResourcesFit", `{scoringStrategy: {type: MostAllocated}}`), nil, half, uses("1", "1Gi"), "a"},
		{"most allocated, by memory only", only("NodeResourcesFit", `{scoringStrategy: {type: MostAllocated, resources: [{name: memory}]}}`), nil,
			[]*corev1.Pod{on("a", uses("3", "1Gi")), on("b", uses("1", "3Gi"))}, uses("1", "1Gi"), "b"},
		{"by weight", only("NodeResourcesFit", `{scoringStrategy: {type: LeastAllocated, resources: [{name: cpu, weight: 1}, {name: memory, weight: 10}]}}`), nil,
			[]*corev1.Pod{on("a", uses("3", "1Gi")), on("b", uses("100m", "3Gi")), on("c", uses("2", "3Gi"))}, uses("1", "1Gi"), "a"},
		{"an extended resource counts for those who want it", only("NodeResourcesFit", `{scoringStrategy: {type: MostAllocated, resources: [{name: example.com/gpu}]}}`), gpus, nil, wantsGPU, "b"},
		{"and for nobody else", only("NodeResourcesFit", `{scoringStrategy: {type: MostAllocated, resources: [{name: example.com/gpu}]}}`), gpus, nil, uses("1", "1Gi"), "a b c"},
		{"ratio, fuller is better", ratio(`{utilization: 0, score: 0}, {utilization: 100, score: 10}`), nil, half, uses("1", "1Gi"), "a"},
		{"ratio, emptier is better", ratio(`{utilization: 0, score: 10}, {utilization: 100, score: 0}`), nil, half, uses("1", "2Gi"), "c"},
		{"ratio, half is best", ratio(`{utilization: 0, score: 0}, {utilization: 50, score: 10}, {utilization: 100, score: 0}`), nil, half, uses("1", "2Gi"), "b"},
		{"ignored resources", `pluginConfig: [{name: NodeResourcesFit, args: {ignoredResources: [example.com/gpu]}}]`, nil, nil, wantsGPU, "a b c"},
		{"ignored groups", `pluginConfig: [{name: NodeResourcesFit, args: {ignoredResourceGroups: [example.com]}}]`, nil, nil, wantsGPU, "a b c"},
		{"no resource is ignored", ``, nil, nil, wantsGPU, "0/3 nodes are available: 3 Insufficient example.com/gpu."},
		{"balanced", only("NodeResourcesBalancedAllocation", `{}`), nil, []*corev1.Pod{on("a", uses("3", "1Gi")), on("b", uses("2", "4Gi")), on("c", uses("100m", "5Gi"))}, uses("500m", "1Gi"), "b"},
		{"balanced in three resources", only("NodeResourcesBalancedAllocation", `{resources: [{name: cpu}, {name: memory}, {name: example.com/gpu}]}`), gpus,
			[]*corev1.Pod{on("a", uses("1900m", "3900Mi")), on("b", uses("1900m", "3900Mi"))}, `{containers: [{name: c, resources: {requests: {cpu: 100m, memory: 196Mi, example.com/gpu: "1"}}}]}`, "b"},

		{"an added affinity", `pluginConfig: [{name: NodeAffinity, args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: In, values: [y]}]}]}}}}]`, nil, nil, `{}`, "c"},
		{"an added affinity against the pod's", `pluginConfig: [{name: NodeAffinity, args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: In, values: [y]}]}]}}}}]`, nil, nil, `{nodeSelector: {kubernetes.io/hostname: a}}`,
			"0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 2 node(s) didn't match scheduler-enforced node affinity."},
		{"an added preference", `pluginConfig: [{name: NodeAffinity, args: {addedAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: zone, operator: In, values: [y]}]}}]}}}]`, nil, nil, `{}`, "c"},

		{"what others want near them", only("InterPodAffinity", `{}`), nil, []*corev1.Pod{pod(t, "db", `{nodeName: b, affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: web}}}]}}}`)}, `{}`, "b"},
		{"does not count", only("InterPodAffinity", `{hardPodAffinityWeight: 0}`), nil, []*corev1.Pod{pod(t, "db", `{nodeName: b, affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: web}}}]}}}`)}, `{}`, "a b c"},
		{"what others would like near them", only("InterPodAffinity", `{}`), nil, []*corev1.Pod{pod(t, "db", `{nodeName: b, affinity: {podAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: web}}}}]}}}`)}, `{}`, "b"},
		{"is ignored", only("InterPodAffinity", `{ignorePreferredTermsOfExistingPods: true}`), nil, []*corev1.Pod{pod(t, "db", `{nodeName: b, affinity: {podAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: web}}}}]}}}`)}, `{}`, "a b c"},

		{"spread by default over hosts", only("PodTopologySpread", `{}`), nil, []*corev1.Pod{web("a"), web("a"), web("b"), web("c")}, `{}`, "b c"},
		{"spread by a list", only("PodTopologySpread", `{defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]}`), nil, []*corev1.Pod{web("a")}, `{}`, "c"},
		{"a list of nothing", only("PodTopologySpread", `{defaultingType: List}`), nil, []*corev1.Pod{web("a"), web("a")}, `{}`, "a b c"},
		{"a pod's own constraints win over the list", only("PodTopologySpread", `{defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]}`), nil, []*corev1.Pod{web("c"), web("a")},
			`{topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]}`, "b"},
		{"too few domains", only("PodTopologySpread", `{}`), nil, []*corev1.Pod{web("a"), web("c")},
			`{topologySpreadConstraints: [{maxSkew: 1, minDomains: 3, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]}`,
			"0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints."},
		{"a tainted domain counts", ``, map[string]string{"c": `{spec: {taints: [{key: k, effect: NoSchedule}]}}`}, []*corev1.Pod{web("a")},
			`{topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]}`,
			"0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 node(s) didn't match pod topology spread constraints."},
		{"or does not", ``, map[string]string{"c": `{spec: {taints: [{key: k, effect: NoSchedule}]}}`}, []*corev1.Pod{web("a")},
			`{topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, nodeTaintsPolicy: Honor, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]}`, "b"},
		{"a domain that is not selected does not count", ``, nil, []*corev1.Pod{web("a")},
			`{nodeSelector: {zone: x}, topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]}`, "b"},
		{"or does", ``, nil, []*corev1.Pod{web("a")},
			`{nodeSelector: {zone: x}, topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, nodeAffinityPolicy: Ignore, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]}`,
			"0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 2 node(s) didn't match pod topology spread constraints."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := cluster(t, tt.nodes, tt.there...)
			s.Select.SetService("d", "web", map[string]string{"app": "web"})
			p := pod(t, "web", tt.pod)
			p.UID = "new"
			if got := outcome(t, profile(t, tt.profile), p, s); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestVolumes checks where pods with volumes may go.
func TestVolumes(t *testing.T) {
	claim := func(name, text string) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{}
		parse(t, c, `{metadata: {namespace: d, name: `+name+`}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`)
		parse(t, c, text)
		c.UID = types.UID(name)
		return c
	}
	pv := func(name, text string) *corev1.PersistentVolume {
		v := &corev1.PersistentVolume{}
		parse(t, v, `{metadata: {name: `+name+`}, spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, storageClassName: late}, status: {phase: Available}}`)
		parse(t, v, text)
		return v
	}
	class := func(name, text string) *storagev1.StorageClass {
		c := &storagev1.StorageClass{}
		parse(t, c, `{metadata: {name: `+name+`}, provisioner: example.com/p}`)
		parse(t, c, text)
		return c
	}
	here := func(key, value string) string {
		return `nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: ` + key + `, operator: In, values: [` + value + `]}]}]}}`
	}
	const mounts = `{volumes: [{name: v, persistentVolumeClaim: {claimName: one}}]}`
	late := class("late", `{volumeBindingMode: WaitForFirstConsumer, provisioner: kubernetes.io/no-provisioner}`)
	made := class("made", `{volumeBindingMode: WaitForFirstConsumer}`)
	bound := `{spec: {volumeName: v1}, status: {phase: Bound}}`
	for _, tt := range []struct {
		name  string
		there []*corev1.Pod
		have  []any
		pod   string
		want  string
	}{
		{"no claim", nil, nil, mounts, `0/3 nodes are available: persistentvolumeclaim "one" not found.`},
		{"an ephemeral one is not there yet", nil, nil, `{volumes: [{name: v, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce]}}}}]}`,
			`0/3 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim "p-v".`},
		{"immediate and unbound", nil, []any{claim("one", `{}`)}, mounts, "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims."},
		{"of no class that there is", nil, []any{claim("one", `{spec: {storageClassName: none}}`)}, mounts, `0/3 nodes are available: storageclass.storage.k8s.io "none" not found.`},
		{"lost", nil, []any{claim("one", `{spec: {volumeName: gone}, status: {phase: Lost}}`)}, mounts, `0/3 nodes are available: persistentvolumeclaim "one" bound to non-existent persistentvolume "gone".`},
		{"bound", nil, []any{claim("one", bound), pv("v1", `{}`)}, mounts, "a b c"},
		{"bound to nothing", nil, []any{claim("one", bound)}, mounts, "0/3 nodes are available: 3 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)."},
		{"bound elsewhere", nil, []any{claim("one", bound), pv("v1", `{spec: {`+here("zone", "y")+`}}`)}, mounts, "c"},
		{"bound out of reach", nil, []any{claim("one", bound), pv("v1", `{spec: {`+here("zone", "q")+`}}`)}, mounts, "0/3 nodes are available: 3 node(s) didn't match PersistentVolume's node affinity."},
		{"in a zone by its label", nil, []any{claim("one", bound), pv("v1", `{metadata: {labels: {topology.kubernetes.io/zone: "p__q"}}}`)}, mounts, "0/3 nodes are available: 3 node(s) had no available volume zone."},
		{"waits, and one node has a volume", nil, []any{late, claim("one", `{spec: {storageClassName: late}}`), pv("v1", `{spec: {`+here("kubernetes.io/hostname", "b")+`}}`)}, mounts, "b"},
		{"waits, and the volume is too small", nil, []any{late, claim("one", `{spec: {storageClassName: late, resources: {requests: {storage: 2Gi}}}}`), pv("v1", `{}`)}, mounts,
			"0/3 nodes are available: 3 node(s) didn't find available persistent volumes to bind."},
		{"waits, and the volume is another's", nil, []any{late, claim("one", `{spec: {storageClassName: late}}`), pv("v1", `{spec: {claimRef: {namespace: d, name: two}}}`)}, mounts,
			"0/3 nodes are available: 3 node(s) didn't find available persistent volumes to bind."},
		{"two claims need two volumes", nil, []any{late, claim("one", `{spec: {storageClassName: late}}`), claim("two", `{spec: {storageClassName: late}}`),
			pv("v1", `{spec: {`+here("kubernetes.io/hostname", "b")+`}}`), pv("v2", `{spec: {`+here("zone", "x")+`}}`)},
			`{volumes: [{name: v, persistentVolumeClaim: {claimName: one}}, {name: w, persistentVolumeClaim: {claimName: two}}]}`, "b"},
		{"is made where the class reaches", nil, []any{class("made", `{volumeBindingMode: WaitForFirstConsumer, allowedTopologies: [{matchLabelExpressions: [{key: zone, values: [y]}]}]}`), claim("one", `{spec: {storageClassName: made}}`)}, mounts, "c"},
		{"is being made for a node", nil, []any{made, claim("one", `{metadata: {annotations: {volume.kubernetes.io/selected-node: b}}, spec: {storageClassName: made}}`)}, mounts, "b"},
		{"where there is space", nil, []any{made, claim("one", `{spec: {storageClassName: made}}`), "driver", "capacity"}, mounts, "c"},
		{"one user in the cluster", []*corev1.Pod{pod(t, "", `{nodeName: a, volumes: [{name: v, persistentVolumeClaim: {claimName: one}}]}`)},
			[]any{claim("one", `{spec: {accessModes: [ReadWriteOncePod], volumeName: v1}, status: {phase: Bound}}`), pv("v1", `{}`)}, mounts,
			"0/3 nodes are available: 3 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode."},
		{"one user of a disk on a node", []*corev1.Pod{pod(t, "", `{nodeName: a, volumes: [{name: v, gcePersistentDisk: {pdName: x}}]}`), pod(t, "", `{nodeName: b, volumes: [{name: v, gcePersistentDisk: {pdName: x, readOnly: true}}]}`)}, nil,
			`{volumes: [{name: v, gcePersistentDisk: {pdName: x, readOnly: true}}]}`, "b c"},
		{"as many as a node can attach", []*corev1.Pod{pod(t, "", `{nodeName: a, volumes: [{name: v, persistentVolumeClaim: {claimName: two}}]}`)},
			[]any{claim("one", bound), pv("v1", `{spec: {csi: {driver: example.com/p, volumeHandle: h1}}}`), claim("two", `{spec: {volumeName: v2}, status: {phase: Bound}}`),
				pv("v2", `{spec: {csi: {driver: example.com/p, volumeHandle: h2}}}`), "limits"}, mounts, "b c"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := cluster(t, nil, tt.there...)
			for _, o := range tt.have {
				switch o := o.(type) {
				case *corev1.PersistentVolumeClaim:
					s.Volumes.Claims.Put(o)
				case *corev1.PersistentVolume:
					s.Volumes.Volumes.Put(o)
				case *storagev1.StorageClass:
					s.Volumes.Classes.Put(o)
				case string:
					special(t, s, o)
				}
			}
			p := pod(t, "web", tt.pod)
			p.UID = "new"
			got := outcome(t, sched.UsesOf(plugins.All), p, s)
			if tt.want == "a b c" || tt.want == "b c" { // who else is there decides between them
				if !strings.Contains(tt.want, got) {
					t.Errorf("got %q, want one of %q", got, tt.want)
				}
			} else if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// special adds what few tests need: a driver that tells its capacity, how much
// there is in each zone, or how many volumes nodes can attach.
func special(t *testing.T, s *sched.State, what string) {
	switch what {
	case "driver":
		d := &storagev1.CSIDriver{}
		parse(t, d, `{metadata: {name: example.com/p}, spec: {storageCapacity: true}}`)
		s.Volumes.Drivers.Put(d)
	case "capacity":
		for zone, size := range map[string]string{"x": "500Mi", "y": "5Gi"} {
			c := &storagev1.CSIStorageCapacity{}
			parse(t, c, `{metadata: {namespace: k, name: `+zone+`}, storageClassName: made, capacity: `+size+`, nodeTopology: {matchLabels: {zone: `+zone+`}}}`)
			s.Volumes.Capacities.Put(c)
		}
	case "limits":
		for _, name := range []string{"a", "b", "c"} {
			n := &storagev1.CSINode{}
			parse(t, n, `{metadata: {name: `+name+`}, spec: {drivers: [{name: example.com/p, nodeID: x, allocatable: {count: 1}}]}}`)
			s.Volumes.Nodes.Put(n)
		}
	}
}
