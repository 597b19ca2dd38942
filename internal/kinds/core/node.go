package core

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"proa/internal/api"
	"proa/internal/kinds/column"
)

// Node is a machine that runs pods.
var Node = &api.Kind[*corev1.Node]{
	API: "v1", Resource: "nodes", Scope: api.Cluster, Short: []string{"no"},
	Whole: true,
	Columns: []api.Column[*corev1.Node]{
		column.Name(column.Plain[*corev1.Node]),
		column.Doc(api.Col("Status", nodeStatus), "The status of the node"),
		column.Doc(api.Col("Roles", nodeRoles), "The roles of the node"),
		column.Age[*corev1.Node](),
		column.Doc(api.Col("Version", func(n *corev1.Node) string { return n.Status.NodeInfo.KubeletVersion }),
			"Kubelet Version reported by the node."),
		api.Wide("Internal-IP", func(n *corev1.Node) string { return nodeAddress(n, corev1.NodeInternalIP) }),
		api.Wide("External-IP", func(n *corev1.Node) string { return nodeAddress(n, corev1.NodeExternalIP) }),
		api.Wide("OS-Image", func(n *corev1.Node) string { return orUnknown(n.Status.NodeInfo.OSImage) }),
		api.Wide("Kernel-Version", func(n *corev1.Node) string { return orUnknown(n.Status.NodeInfo.KernelVersion) }),
		api.Wide("Container-Runtime", func(n *corev1.Node) string { return orUnknown(n.Status.NodeInfo.ContainerRuntimeVersion) }),
	},
	Fields: map[string]func(*corev1.Node) string{
		"spec.unschedulable": func(n *corev1.Node) string { return strconv.FormatBool(n.Spec.Unschedulable) },
	},
	Default:        defaultNode,
	Prepare:        prepareNode,
	Validate:       validateNode,
	Warn:           warnNode,
	Status:         true,
	PrepareStatus:  func(n, old *corev1.Node) { n.Spec = old.Spec },
	ValidateStatus: validateNode,
	Ungenerated:    true,
	Sub: map[string]*api.Sub{
		"proxy": {Verbs: []api.Verb{api.Create, api.Delete, api.Get, api.Patch, api.Update}, Kind: "NodeProxyOptions", Connect: true},
	},
}

func nodeStatus(n *corev1.Node) string {
	s := "Unknown"
	if c := NodeCondition(n, corev1.NodeReady); c != nil {
		s = "NotReady"
		if c.Status == corev1.ConditionTrue {
			s = "Ready"
		}
	}
	if n.Spec.Unschedulable {
		s += ",SchedulingDisabled"
	}
	return s
}

// nodeRoles are the roles that the node's labels give it.
func nodeRoles(n *corev1.Node) string {
	var roles []string
	for k, v := range n.Labels {
		switch role, ok := strings.CutPrefix(k, "node-role.kubernetes.io/"); {
		case ok && role != "":
			roles = append(roles, role)
		case k == "kubernetes.io/role" && v != "":
			roles = append(roles, v)
		}
	}
	slices.Sort(roles)
	return orNone(strings.Join(slices.Compact(roles), ","))
}

func nodeAddress(n *corev1.Node, t corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == t {
			return a.Address
		}
	}
	return "<none>"
}

func orUnknown(s string) string {
	if s == "" {
		return "<unknown>"
	}
	return s
}

// defaultNode lets a node's allocatable be its capacity if it names none, and
// keeps podCIDR and podCIDRs the same.
func defaultNode(n *corev1.Node) {
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	if s := &n.Spec; s.PodCIDR != "" && (len(s.PodCIDRs) == 0 || s.PodCIDRs[0] != s.PodCIDR) {
		s.PodCIDRs = []string{s.PodCIDR} // who knows only the one changes that
	}
	if n.Spec.PodCIDR == "" && len(n.Spec.PodCIDRs) > 0 {
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	}
}

// prepareNode keeps the status on update. A node that registers itself creates
// its status too. The source of the kubelet's configuration is a feature that was
// removed, the preemption policy one that is not on (KEP-5836): only nodes that
// have them keep them.
func prepareNode(n, old *corev1.Node) {
	if old != nil {
		n.Status = old.Status
	}
	if old == nil || old.Spec.ConfigSource == nil {
		n.Spec.ConfigSource = nil
	}
	if old == nil || old.Spec.PodPreemptionPolicy == nil {
		n.Spec.PodPreemptionPolicy = nil
	}
}

func warnNode(n, _ *corev1.Node) (out []string) {
	if n.Spec.ConfigSource != nil {
		out = append(out, "spec.configSource: the feature is removed")
	}
	if n.Spec.DoNotUseExternalID != "" { //lint:ignore SA1019 that is what the warning is about
		out = append(out, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	for i, c := range n.Spec.PodCIDRs {
		out = append(out, validation.GetWarningsForCIDR(specPath.Child("podCIDRs").Index(i), c)...)
	}
	return out
}
