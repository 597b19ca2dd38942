package controllers_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	svmv1 "k8s.io/api/storagemigration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// uidSource gives out UIDs in order.
type uidSource struct{ n atomic.Int64 }

func (u *uidSource) next() types.UID { return types.UID(fmt.Sprintf("uid-%06d", u.n.Add(1))) }

// show prints the objects of some kinds, one line each. What chance named is
// told by what it is; lines that are the same are counted.
func (w *world) show(kinds []string) string {
	w.t.Helper()
	var b strings.Builder
	for _, kind := range kinds {
		if kind == "identities" {
			w.identities(&b)
			continue
		}
		if kind == "tolerations" {
			w.tolerations(&b)
			continue
		}
		if kind == "zones" {
			w.zones(&b)
			continue
		}
		warnings := kind == "warnings" // events, of those alone
		if warnings {
			kind = "events"
		}
		r := w.ByName(kind)
		if r == nil {
			fmt.Fprintf(&b, "no %s\n", kind)
			continue
		}
		all, err := api.Untyped(r).List(w.t.Context(), w.h, "", api.Selectors{})
		if err != nil {
			w.t.Fatal(err)
		}
		var lines []string
		for _, o := range all {
			if l := line(o); !warnings || o.(*corev1.Event).Type == corev1.EventTypeWarning {
				lines = append(lines, l)
			}
		}
		b.WriteString(sorted(lines))
	}
	return b.String()
}

// sorted prints lines in order; those that are the same are counted.
func sorted(lines []string) string {
	var b strings.Builder
	slices.Sort(lines)
	for len(lines) > 0 {
		l, n := lines[0], 1
		for n < len(lines) && lines[n] == l {
			n++
		}
		if lines = lines[n:]; n > 1 {
			l = fmt.Sprintf("%s x%d", l, n)
		}
		fmt.Fprintln(&b, l)
	}
	return b.String()
}

// fields prints parts of the objects of a kind, a line for each that has one of
// them. A path is a JSON pointer without its first slash; * is every element.
func (w *world) fields(kind string, paths []string) string {
	w.t.Helper()
	all, err := api.Untyped(w.Kind(kind)).List(w.t.Context(), w.h, "", api.Selectors{})
	if err != nil {
		w.t.Fatal(err)
	}
	var lines []string
	for _, o := range all {
		var tree any
		text, err := json.Marshal(o)
		if err != nil {
			w.t.Fatal(err)
		}
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&tree); err != nil {
			w.t.Fatal(err)
		}
		said := ""
		for _, path := range paths {
			if v := part(tree, strings.Split(path, "/")); v != "" {
				said += fmt.Sprintf(" %s=%s", lastName(path), v)
			}
		}
		if hash := o.GetLabels()[appsv1.DefaultDeploymentUniqueLabelKey]; hash != "" {
			said = strings.ReplaceAll(said, hash, "#")
		}
		if said != "" {
			lines = append(lines, strings.TrimPrefix(strings.TrimPrefix(o.GetNamespace()+"/", "default/"), "/")+stable(o)+said)
		}
	}
	return sorted(lines)
}

// part is what is at a path, as text.
func part(v any, path []string) string {
	if len(path) == 0 {
		switch v := v.(type) {
		case nil:
			return ""
		case string:
			return v
		}
		b, _ := json.Marshal(v) // it was JSON before
		return string(b)
	}
	switch v := v.(type) {
	case map[string]any:
		return part(v[strings.ReplaceAll(path[0], "~1", "/")], path[1:])
	case []any:
		var parts []string
		for i, e := range v {
			if s := part(e, path[1:]); s != "" && (path[0] == "*" || path[0] == fmt.Sprint(i)) {
				parts = append(parts, s)
			}
		}
		return strings.Join(parts, ",")
	}
	return ""
}

// lastName is the last name in a path.
func lastName(path string) string {
	all := strings.Split(path, "/")
	for _, name := range slices.Backward(all) {
		if _, err := strconv.Atoi(name); err != nil && name != "*" {
			return strings.ReplaceAll(name, "~1", "/")
		}
	}
	return path
}

// identities prints what tells the pods of a stateful set apart.
func (w *world) identities(b *strings.Builder) {
	pods, err := core.Pod.List(w.t.Context(), w.h, "", api.Selectors{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range pods {
		if p.Labels[appsv1.StatefulSetPodNameLabel] == "" {
			continue
		}
		var volumes []string
		for _, v := range p.Spec.Volumes {
			name := v.Name
			if strings.HasPrefix(name, "kube-api-access-") {
				continue
			}
			if c := v.PersistentVolumeClaim; c != nil {
				name += ":" + c.ClaimName
			}
			volumes = append(volumes, name)
		}
		host := p.Spec.Hostname
		if host == "" { // it was taken in
			host = p.Name
		}
		fmt.Fprintf(b, "%s host=%s.%s index=%s name=%s volumes=%s\n", p.Name, host, p.Spec.Subdomain, p.Labels[appsv1.PodIndexLabel],
			p.Labels[appsv1.StatefulSetPodNameLabel], strings.Join(volumes, ","))
	}
}

// zones prints how many nodes of each zone there are, are ready, and have their pods chased away.
func (w *world) zones(b *strings.Builder) {
	nodes, err := core.Node.List(w.t.Context(), w.h, "", api.Selectors{})
	if err != nil {
		w.t.Fatal(err)
	}
	count := map[string][3]int{}
	for _, n := range nodes {
		c := count[n.Labels[corev1.LabelTopologyZone]]
		c[0]++
		if cond := core.NodeCondition(n, corev1.NodeReady); cond != nil && cond.Status == corev1.ConditionTrue {
			c[1]++
		}
		if slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Effect == corev1.TaintEffectNoExecute }) {
			c[2]++
		}
		count[n.Labels[corev1.LabelTopologyZone]] = c
	}
	for _, zone := range slices.Sorted(maps.Keys(count)) {
		fmt.Fprintf(b, "zone %s nodes=%d ready=%d chased=%d\n", zone, count[zone][0], count[zone][1], count[zone][2])
	}
}

// tolerations prints those of the first pod that are for ever.
func (w *world) tolerations(b *strings.Builder) {
	pods, err := core.Pod.List(w.t.Context(), w.h, "", api.Selectors{})
	if err != nil || len(pods) == 0 {
		return
	}
	var all []string
	for _, t := range pods[0].Spec.Tolerations {
		if t.TolerationSeconds == nil {
			all = append(all, fmt.Sprintf("%s:%s", t.Key, t.Effect))
		}
	}
	slices.Sort(all)
	fmt.Fprintln(b, strings.Join(all, "\n"))
}

func line(o api.Object) string {
	s := strings.TrimPrefix(o.GetNamespace()+"/", "default/")
	kind := strings.ToLower(o.GetObjectKind().GroupVersionKind().Kind)
	switch o := o.(type) {
	case *appsv1.Deployment:
		s = fmt.Sprintf("deployment %s%s rev=%s want=%d have=%d updated=%d available=%d", s, o.Name, o.Annotations["deployment.kubernetes.io/revision"],
			*o.Spec.Replicas, o.Status.Replicas, o.Status.UpdatedReplicas, o.Status.AvailableReplicas)
		if n := o.Status.TerminatingReplicas; n != nil && *n > 0 {
			s += fmt.Sprintf(" terminating=%d", *n)
		}
		for _, c := range o.Status.Conditions {
			s += fmt.Sprintf(" %s=%s/%s", c.Type, c.Status, c.Reason)
		}
		if by := o.Spec.Template.Annotations["proa.dev/config"]; by != "" {
			s += " restamped"
		}
	case *corev1.ConfigMap:
		s = "configmap " + s + o.Name
		if of := o.Annotations["proa.dev/copy-of"]; of != "" {
			s = "copy of configmap " + of
		}
		for _, k := range slices.Sorted(maps.Keys(o.Data)) {
			if k != "ca.crt" {
				s += fmt.Sprintf(" %s=%s", k, o.Data[k])
			}
		}
	case *corev1.Secret:
		s = "secret " + s + o.Name
		if of := o.Annotations["proa.dev/copy-of"]; of != "" {
			s = "copy of secret " + of
		}
		for _, k := range slices.Sorted(maps.Keys(o.Data)) {
			s += fmt.Sprintf(" %s=%s", k, o.Data[k])
		}
	case *appsv1.ReplicaSet:
		s = fmt.Sprintf("replicaset %s%s want=%d have=%d ready=%d available=%d", s, stable(o), *o.Spec.Replicas, o.Status.Replicas, o.Status.ReadyReplicas, o.Status.AvailableReplicas)
		if t := o.Status.TerminatingReplicas; t != nil && *t > 0 {
			s += fmt.Sprintf(" terminating=%d", *t)
		}
		for _, c := range o.Status.Conditions {
			s += fmt.Sprintf(" %s=%s/%s", c.Type, c.Status, c.Reason)
		}
	case *batchv1.CronJob:
		s = fmt.Sprintf("cronjob %s%s active=%d", s, o.Name, len(o.Status.Active))
		if t := o.Status.LastScheduleTime; t != nil {
			s += " last=" + t.UTC().Format("02T15:04:05")
		}
		if t := o.Status.LastSuccessfulTime; t != nil {
			s += " success=" + t.UTC().Format("02T15:04:05")
		}
	case *autoscalingv2.HorizontalPodAutoscaler:
		s = fmt.Sprintf("hpa %s%s have=%d want=%d", s, o.Name, o.Status.CurrentReplicas, o.Status.DesiredReplicas)
		for _, m := range o.Status.CurrentMetrics {
			if r := m.Resource; r != nil && r.Current.AverageUtilization != nil {
				s += fmt.Sprintf(" %s=%d%%", r.Name, *r.Current.AverageUtilization)
			}
		}
		for _, c := range o.Status.Conditions {
			s += fmt.Sprintf(" %s=%s/%s", c.Type, c.Status, c.Reason)
		}
	case *corev1.ResourceQuota:
		s = "quota " + s + o.Name
		var names []string
		for name, hard := range o.Status.Hard {
			used := o.Status.Used[name]
			names = append(names, fmt.Sprintf("%s=%s/%s", name, used.String(), hard.String()))
		}
		slices.Sort(names)
		s += " " + strings.Join(names, " ")
	case *corev1.ReplicationController:
		s = fmt.Sprintf("rc %s%s want=%d have=%d ready=%d available=%d", s, o.Name, *o.Spec.Replicas, o.Status.Replicas, o.Status.ReadyReplicas, o.Status.AvailableReplicas)
		for _, c := range o.Status.Conditions {
			s += fmt.Sprintf(" %s=%s/%s", c.Type, c.Status, c.Reason)
		}
	case *appsv1.StatefulSet:
		s = fmt.Sprintf("statefulset %s%s want=%d have=%d ready=%d available=%d current=%d updated=%d", s, o.Name, *o.Spec.Replicas, o.Status.Replicas,
			o.Status.ReadyReplicas, o.Status.AvailableReplicas, o.Status.CurrentReplicas, o.Status.UpdatedReplicas)
		if o.Status.CurrentRevision != o.Status.UpdateRevision {
			s += " rolling"
		}
		if n := o.Status.CollisionCount; n != nil {
			s += fmt.Sprintf(" collisions=%d", *n)
		}
	case *appsv1.DaemonSet:
		s = fmt.Sprintf("daemonset %s%s desired=%d current=%d ready=%d available=%d unavailable=%d updated=%d misscheduled=%d", s, o.Name,
			o.Status.DesiredNumberScheduled, o.Status.CurrentNumberScheduled, o.Status.NumberReady, o.Status.NumberAvailable,
			o.Status.NumberUnavailable, o.Status.UpdatedNumberScheduled, o.Status.NumberMisscheduled)
		if n := o.Status.CollisionCount; n != nil {
			s += fmt.Sprintf(" collisions=%d", *n)
		}
	case *appsv1.ControllerRevision:
		s = fmt.Sprintf("revision %d of %s%s", o.Revision, s, o.Name[:max(strings.LastIndex(o.Name, "-"), 0)])
		if metav1.GetControllerOf(o) == nil {
			s += " loose"
		}
	case *corev1.PersistentVolumeClaim:
		s = fmt.Sprintf("claim %s%s", s, o.Name)
		for _, r := range o.OwnerReferences {
			s += fmt.Sprintf(" of %s/%s", r.Kind, r.Name)
		}
	case *resourcev1.ResourceClaim:
		name := o.Name
		if e := o.Annotations[resourcev1.PodResourceClaimAnnotation]; e != "" && metav1.GetControllerOf(o) != nil {
			name = e + " of pod " + metav1.GetControllerOf(o).Name
		}
		s = "resourceclaim " + s + name
		if a := o.Status.Allocation; a != nil {
			s += " has"
			for _, r := range a.Devices.Results {
				s += fmt.Sprintf(" %s/%s/%s", r.Driver, r.Pool, r.Device)
			}
		}
		for _, r := range o.Status.ReservedFor {
			s += " for " + r.Name
		}
		if len(o.Finalizers) > 0 {
			s += " held"
		}
	case *corev1.Pod:
		s = fmt.Sprintf("pod %s%s %s", s, stable(o), o.Status.Phase)
		if o.Spec.Containers[0].Image != "img" {
			s += " " + o.Spec.Containers[0].Image
		}
		if a := o.Spec.Affinity; a != nil && a.NodeAffinity != nil {
			s += " for=" + a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
		}
		if all := o.Status.ContainerStatuses; len(all) > 0 && all[0].State.Running != nil && !core.PodReady(o) {
			s += " unready"
		}
		if i := o.Labels[batchv1.JobCompletionIndexAnnotation]; i != "" {
			s += " index=" + i
		}
		if c := core.PodCondition(o, corev1.DisruptionTarget); c != nil && c.Status == corev1.ConditionFalse {
			s += strings.TrimSuffix(" DisruptionTarget=False/"+c.Reason, "/")
		}
	case *policyv1.PodDisruptionBudget:
		s = fmt.Sprintf("budget %s%s gen=%d pods=%d desired=%d healthy=%d allowed=%d", s, o.Name, o.Status.ObservedGeneration,
			o.Status.ExpectedPods, o.Status.DesiredHealthy, o.Status.CurrentHealthy, o.Status.DisruptionsAllowed)
		if n := len(o.Status.DisruptedPods); n > 0 {
			s += fmt.Sprintf(" evicted=%d", n)
		}
		for _, c := range o.Status.Conditions {
			s += fmt.Sprintf(" %s=%s/%s", c.Type, c.Status, c.Reason)
			if c.Message != "" {
				s += fmt.Sprintf(" (%s)", c.Message)
			}
		}
	case *batchv1.Job:
		ready := int32(0)
		if o.Status.Ready != nil {
			ready = *o.Status.Ready
		}
		name := o.Name
		if at := o.Annotations[batchv1.CronJobScheduledTimestampAnnotation]; at != "" {
			name = name[:strings.LastIndex(name, "-")] + "@" + at
		}
		s = fmt.Sprintf("job %s%s active=%d ready=%d succeeded=%d failed=%d", s, name, o.Status.Active, ready, o.Status.Succeeded, o.Status.Failed)
		if o.Status.CompletedIndexes != "" {
			s += " done=" + o.Status.CompletedIndexes
		}
		if x := o.Status.FailedIndexes; x != nil && *x != "" {
			s += " given-up=" + *x
		}
		for _, c := range o.Status.Conditions {
			s += fmt.Sprintf(" %s=%s/%s", c.Type, c.Status, c.Reason)
		}
		if u := o.Status.UncountedTerminatedPods; u != nil && len(u.Failed)+len(u.Succeeded) > 0 {
			s += " uncounted"
		}
	case *discoveryv1.EndpointSlice:
		s = fmt.Sprintf("slice %s%s %s%s", s, o.Labels[discoveryv1.LabelServiceName], o.AddressType, ports(o.Ports))
		ready, serving, terminating := 0, 0, 0
		for _, e := range o.Endpoints {
			ready += is(e.Conditions.Ready)
			serving += is(e.Conditions.Serving)
			terminating += is(e.Conditions.Terminating)
			if e.Hostname != nil {
				s += " host=" + *e.Hostname
			}
		}
		s += fmt.Sprintf(" endpoints=%d ready=%d serving=%d terminating=%d", len(o.Endpoints), ready, serving, terminating)
	case *corev1.Endpoints:
		s = fmt.Sprintf("endpoints %s%s", s, o.Name)
		for _, set := range o.Subsets {
			s += fmt.Sprintf(" ready=%d notready=%d", len(set.Addresses), len(set.NotReadyAddresses))
			for _, p := range set.Ports {
				s += fmt.Sprintf(" %s:%d", p.Name, p.Port)
			}
		}
		for k, v := range o.Annotations {
			s += fmt.Sprintf(" %s=%s", k, v)
		}
	case *corev1.Event:
		message := o.Message
		if name, ok := strings.CutPrefix(message, "Created pod: "); ok {
			message = "Created pod: " + name[:len(name)-5]
		} else if name, ok := strings.CutPrefix(message, "Deleted pod: "); ok {
			message = "Deleted pod: " + name[:len(name)-5]
		}
		switch o.Reason {
		case "FailedDaemonPod", "SucceededDaemonPod":
			message = message[:strings.Index(message, "-")+1]
		case "OwnerRefInvalidNamespace":
			message, _, _ = strings.Cut(message, ", uid")
		}
		if o.Reason == "RolledBack" {
			message = "…" // names of replica sets
		}
		return fmt.Sprintf("%s %s %s/%s: %s", o.Type, o.Reason, o.InvolvedObject.Kind, o.InvolvedObject.Name, message)
	case *networkingv1.IPAddress:
		p := o.Spec.ParentRef
		s = fmt.Sprintf("ip %s %s/%s/%s family=%s", o.Name, p.Resource, p.Namespace, p.Name, o.Labels[networkingv1.LabelIPAddressFamily])
	case *corev1.Namespace:
		s = fmt.Sprintf("namespace %s %s", o.Name, o.Status.Phase)
		for _, c := range o.Status.Conditions {
			if c.Status == corev1.ConditionTrue {
				_, what, _ := strings.Cut(c.Message, "remaining: ")
				if strings.HasPrefix(what, "pods.") { // chance has named them
					what, _, _ = strings.Cut(what, " (")
				}
				s += strings.TrimSuffix(fmt.Sprintf(" %s/%s (%s)", c.Type, c.Reason, what), " ()")
			}
		}
	case *flowcontrolv1.FlowSchema:
		out := "flowschema " + o.Name
		for _, c := range o.Status.Conditions {
			out += fmt.Sprintf(" %s=%s/%s", c.Type, c.Status, c.Reason)
		}
		return out
	case *rbacv1.ClusterRole:
		s = "clusterrole " + o.Name
		for _, r := range o.Rules {
			s += fmt.Sprintf(" %v%v", r.Verbs, r.Resources)
		}
	case *apiextensionsv1.CustomResourceDefinition:
		s = fmt.Sprintf("definition %s stored=%s", o.Name, strings.Join(o.Status.StoredVersions, ","))
		if n := o.Status.AcceptedNames; n.Kind != "" {
			s += fmt.Sprintf(" names=%s", strings.Join(append([]string{n.Plural, n.Singular, n.Kind, n.ListKind}, n.ShortNames...), ","))
		}
		for _, c := range o.Status.Conditions {
			s += fmt.Sprintf("\n  %s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message)
		}
	case *svmv1.StorageVersionMigration:
		s = fmt.Sprintf("migration %s of %s", o.Name, o.Spec.Resource.Resource)
		for _, c := range o.Status.Conditions {
			s += strings.TrimSuffix(fmt.Sprintf(" %s=%s/%s: %s", c.Type, c.Status, c.Reason, c.Message), ": ")
		}
	case *corev1.Node:
		s = fmt.Sprintf("node %s %s", o.Name, o.Spec.PodCIDR)
		for _, t := range o.Spec.Taints {
			s += fmt.Sprintf(" %s:%s", t.Key, t.Effect)
		}
		for _, c := range o.Status.Conditions {
			s += fmt.Sprintf(" %s=%s", c.Type, c.Status)
		}
	default:
		s = fmt.Sprintf("%s %s%s", kind, s, o.GetName())
	}
	if o.GetDeletionTimestamp() != nil {
		s += " deleting"
	}
	if _, pod := o.(*corev1.Pod); pod {
		if metav1.GetControllerOf(o) == nil {
			s += " loose"
		}
	} else if len(o.GetOwnerReferences()) > 0 && kind == "configmap" {
		s += " owned"
	}
	return s
}

func ports(all []discoveryv1.EndpointPort) (s string) {
	for _, p := range all {
		s += fmt.Sprintf(" %s:%d", *p.Name, *p.Port)
	}
	return s
}

func is(b *bool) int {
	if b != nil && *b {
		return 1
	}
	return 0
}

// stable is a name without what chance put into it.
func stable(o api.Object) string {
	name := o.GetName()
	if o.GetGenerateName() != "" && o.GetLabels()[appsv1.StatefulSetPodNameLabel] == "" {
		name = name[:len(name)-5] + "*"
	}
	if hash := o.GetLabels()[appsv1.DefaultDeploymentUniqueLabelKey]; hash != "" {
		name = strings.Replace(name, hash, "#", 1)
		if rev := o.GetAnnotations()["deployment.kubernetes.io/revision"]; rev != "" {
			name += rev
		}
	}
	return name
}
