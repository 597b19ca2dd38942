package main

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A row is a workload: pods that have their nodes before, and pods that get theirs.
type row struct {
	name   string
	floor  float64 // what upstream's CI demands, in pods/s; 0: not known
	target float64 // pods/s; 0: only the multiple of the floor
	before int
	full   bool // what is there before fills every node and is less important
	old    func(*corev1.Pod)
	pod    func(i int, p *corev1.Pod)
}

const (
	zone     = corev1.LabelTopologyZone
	hostname = corev1.LabelHostname
)

// The floors are scheduler_perf's thresholds for 5,000 nodes.
var rows = []row{
	{name: "Basic", floor: 680, target: ofBasic, before: 1000},
	{name: "TopologySpreading", floor: 460, target: ofSpreading, before: 5000, pod: spreads(corev1.DoNotSchedule)},
	{name: "PreferredTopologySpreading", target: ofSpreading, before: 5000, pod: spreads(corev1.ScheduleAnyway)},
	{name: "DefaultTopologySpreading", floor: 160, before: 5000, pod: func(_ int, p *corev1.Pod) { p.Labels["app"] = served }},
	{name: "PodAffinity", floor: 35, target: ofAffinity, before: 5000, old: near, pod: each(near)},
	{name: "PodAntiAffinity", floor: 60, target: ofAffinity, before: 1000, old: apart, pod: each(apart)},
	{name: "PreferredPodAffinity", target: ofAffinity, before: 5000, old: ratherNear, pod: each(ratherNear)},
	{name: "PreferredPodAntiAffinity", target: ofAffinity, before: 5000, old: ratherApart, pod: each(ratherApart)},
	{name: "NodeAffinity", floor: 220, target: ofAffinity, before: 5000, pod: inZones},
	{name: "Daemonset", floor: 1100, pod: onNode},
	{name: "PreemptionAsync", floor: 570, before: 4, full: true, pod: func(_ int, p *corev1.Pod) {
		p.Spec.PriorityClassName = important
		request(p, "3", "500Mi")
	}},
}

const (
	served    = "served" // the app of the pods that a Service selects
	important = "important"
)

func each(f func(*corev1.Pod)) func(int, *corev1.Pod) {
	return func(_ int, p *corev1.Pod) { f(p) }
}

var blue = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "blue"}}

func spreads(otherwise corev1.UnsatisfiableConstraintAction) func(int, *corev1.Pod) {
	return func(_ int, p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 5, TopologyKey: zone, WhenUnsatisfiable: otherwise, LabelSelector: blue}}
	}
}

func near(p *corev1.Pod) {
	p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: blue, TopologyKey: zone}}}}
}

func apart(p *corev1.Pod) {
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: blue, TopologyKey: hostname}}}}
}

func liked() []corev1.WeightedPodAffinityTerm {
	return []corev1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: corev1.PodAffinityTerm{LabelSelector: blue, TopologyKey: hostname}}}
}

func ratherNear(p *corev1.Pod) {
	p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: liked()}}
}

func ratherApart(p *corev1.Pod) {
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: liked()}}
}

func inZones(_ int, p *corev1.Pod) {
	p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: zone, Operator: corev1.NodeSelectorOpIn, Values: []string{"z0", "z1"}}}}}}}}
}

// onNode is how pods of a DaemonSet name their node.
func onNode(i int, p *corev1.Pod) {
	p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{nodeName(i)}}}}}}}}
}

func nodeName(i int) string { return fmt.Sprintf("n%d", i) }

func request(p *corev1.Pod, cpu, memory string) {
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
}

func newPod(name string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": "blue"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "pause", Image: "registry.k8s.io/pause:3.10"}}}}
	request(p, "100m", "500Mi")
	return p
}
