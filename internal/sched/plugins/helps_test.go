package plugins_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/sched"
	"proa/internal/sched/plugins"
)

// TestHelps checks which changes bring a pod back that a plugin kept out.
func TestHelps(t *testing.T) {
	node := func(text string) *corev1.Node {
		n := &corev1.Node{}
		parse(t, n, text)
		return n
	}
	other := func(label, spec string) *sched.Pod {
		p := pod(t, label, spec)
		p.UID = types.UID("other" + label)
		return sched.NewPod(p)
	}
	const db = `{topologyKey: zone, labelSelector: {matchLabels: {app: db}}}`
	near := `{affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [` + db + `]}}}`
	apart := `{affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [` + db + `]}}}`
	spread := `{topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]}`
	big := `{containers: [{name: c, resources: {requests: {cpu: "2"}}}]}`
	for _, tt := range []struct {
		name, plugin, pod string
		change            sched.Change
		want              bool
	}{
		{"a big node", "NodeResourcesFit", big, sched.Change{What: sched.NodeAdded, Node: node(`{metadata: {name: big}, status: {allocatable: {cpu: "4", pods: "10"}}}`)}, true},
		{"a small node", "NodeResourcesFit", big, sched.Change{What: sched.NodeAdded, Node: node(`{metadata: {name: small}, status: {allocatable: {cpu: "1", pods: "10"}}}`)}, false},
		{"a label of a node", "NodeResourcesFit", big, sched.Change{What: sched.NodeLabels}, false},
		{"a pod went", "NodeResourcesFit", big, sched.Change{What: sched.PodGone, Pod: other("x", `{}`)}, true},
		{"a pod asks for less of it", "NodeResourcesFit", big, sched.Change{What: sched.PodGone, Was: other("x", big), Pod: other("x", `{}`)}, true},
		{"a pod asks for less of something else", "NodeResourcesFit", big, sched.Change{What: sched.PodGone,
			Was: other("x", `{containers: [{name: c, resources: {requests: {memory: 1Gi}}}]}`), Pod: other("x", `{}`)}, false},
		{"a pod is on its way out", "NodeResourcesFit", big, sched.Change{What: sched.PodLeaves, Was: other("x", big), Pod: other("x", big)}, false},
		{"a pod came", "NodeResourcesFit", big, sched.Change{What: sched.PodPlaced, Pod: other("x", `{}`)}, false},

		{"labels that match", "NodeAffinity", `{nodeSelector: {disk: ssd}}`, sched.Change{What: sched.NodeLabels, Node: node(`{metadata: {labels: {disk: ssd}}}`)}, true},
		{"labels that do not", "NodeAffinity", `{nodeSelector: {disk: ssd}}`, sched.Change{What: sched.NodeLabels, Node: node(`{metadata: {labels: {disk: hdd}}}`)}, false},

		{"no taint any more", "TaintToleration", `{}`, sched.Change{What: sched.NodeTaints, Node: node(`{}`)}, true},
		{"another taint", "TaintToleration", `{}`, sched.Change{What: sched.NodeTaints, Node: node(`{spec: {taints: [{key: k, effect: NoSchedule}]}}`)}, false},
		{"uncordoned", "NodeUnschedulable", `{}`, sched.Change{What: sched.NodeTaints, Node: node(`{}`)}, true},
		{"cordoned", "NodeUnschedulable", `{}`, sched.Change{What: sched.NodeTaints, Node: node(`{spec: {unschedulable: true}}`)}, false},

		{"a port is free", "NodePorts", `{containers: [{name: c, ports: [{containerPort: 1, hostPort: 80}]}]}`,
			sched.Change{What: sched.PodGone, Pod: other("x", `{containers: [{name: c, ports: [{containerPort: 1, hostPort: 80}]}]}`)}, true},
		{"another port is free", "NodePorts", `{containers: [{name: c, ports: [{containerPort: 1, hostPort: 80}]}]}`,
			sched.Change{What: sched.PodGone, Pod: other("x", `{containers: [{name: c, ports: [{containerPort: 1, hostPort: 81}]}]}`)}, false},

		{"who is wanted near came", "InterPodAffinity", near, sched.Change{What: sched.PodPlaced, Pod: other("db", `{}`)}, true},
		{"somebody else came", "InterPodAffinity", near, sched.Change{What: sched.PodPlaced, Pod: other("x", `{}`)}, false},
		{"who is in the way went", "InterPodAffinity", apart, sched.Change{What: sched.PodGone, Pod: other("db", `{}`)}, true},
		{"who is in the way came", "InterPodAffinity", apart, sched.Change{What: sched.PodPlaced, Pod: other("db", `{}`)}, false},
		{"somebody else went", "InterPodAffinity", apart, sched.Change{What: sched.PodGone, Pod: other("x", `{}`)}, false},
		{"a label changed", "InterPodAffinity", near, sched.Change{What: sched.PodLabels | sched.PodGone, Was: other("x", `{}`), Pod: other("db", `{}`)}, true},
		{"who is in the way is on its way out", "InterPodAffinity", apart, sched.Change{What: sched.PodLeaves, Was: other("db", `{}`), Pod: other("db", `{}`)}, false},
		{"who keeps others away went", "InterPodAffinity", `{}`, sched.Change{What: sched.PodGone, Pod: other("x",
			`{affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone, labelSelector: {matchLabels: {app: web}}}]}}}`)}, true},

		{"one of those that are spread came", "PodTopologySpread", spread, sched.Change{What: sched.PodPlaced, Pod: other("web", `{}`)}, true},
		{"one of those is on its way out", "PodTopologySpread", spread, sched.Change{What: sched.PodLeaves, Was: other("web", `{}`), Pod: other("web", `{}`)}, true},
		{"another came", "PodTopologySpread", spread, sched.Change{What: sched.PodPlaced, Pod: other("x", `{}`)}, false},
		{"a node with the key", "PodTopologySpread", spread, sched.Change{What: sched.NodeAdded, Node: node(`{metadata: {labels: {zone: q}}}`)}, true},
		{"a node without", "PodTopologySpread", spread, sched.Change{What: sched.NodeAdded, Node: node(`{}`)}, false},
		{"a domain less", "PodTopologySpread", spread, sched.Change{What: sched.NodeRemoved, Node: node(`{metadata: {labels: {zone: q}}}`)}, true},

		{"a claim was bound", "VolumeBinding", `{}`, sched.Change{What: sched.Storage}, true},
		{"a pod without volumes went", "NodeVolumeLimits", `{}`, sched.Change{What: sched.PodGone, Pod: other("x", `{}`)}, false},
		{"the only user of the claim went", "VolumeRestrictions", `{volumes: [{name: v, persistentVolumeClaim: {claimName: one}}]}`,
			sched.Change{What: sched.PodGone, Pod: other("x", `{volumes: [{name: v, persistentVolumeClaim: {claimName: one}}]}`)}, true},
		{"the user of another claim went", "VolumeRestrictions", `{volumes: [{name: v, persistentVolumeClaim: {claimName: one}}]}`,
			sched.Change{What: sched.PodGone, Pod: other("x", `{volumes: [{name: v, persistentVolumeClaim: {claimName: two}}]}`)}, false},
	} {
		t.Run(tt.plugin+"/"+tt.name, func(t *testing.T) {
			s := cluster(t, nil)
			if tt.change.Node != nil && tt.change.Node.Name != "" {
				s.SetNode(tt.change.Node)
			}
			for _, p := range plugins.All {
				if p.Name != tt.plugin {
					continue
				}
				got := p.Wakes&tt.change.What != 0 && (p.Helps == nil || p.Helps(sched.NewPod(pod(t, "web", tt.pod)), s, &tt.change))
				if got != tt.want {
					t.Errorf("helps: %v, want %v", got, tt.want)
				}
				return
			}
			t.Fatal("there is no such plugin")
		})
	}
}
