package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// WarnTemplate warns about the pod template of a workload, at spec.template.
func WarnTemplate(t *corev1.PodTemplateSpec) []string {
	return WarnTemplateAt(t, field.NewPath("spec", "template"))
}

// WarnTemplateAt warns about a pod template.
func WarnTemplateAt(t *corev1.PodTemplateSpec, at *field.Path) []string {
	return warn(&t.Spec, t.Annotations, at)
}

// WarnPod warns about a pod.
func WarnPod(p *corev1.Pod) []string { return warn(&p.Spec, p.Annotations, nil) }

// WarnName warns about the name of a new object that hostnames are made of.
func WarnName(name, used string) []string {
	msgs := validation.IsDNS1123Label(name)
	if name == "" || len(msgs) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("metadata.name: this is used in %s, which can result in surprising behavior; a DNS label is recommended: %v", used, msgs)}
}

// WarnWorkload warns about what makes pods from a template, and is new if old is false.
func WarnWorkload(name string, t *corev1.PodTemplateSpec, old bool) (out []string) {
	if !old {
		out = WarnName(name, "Pod names and hostnames")
	}
	return append(out, WarnTemplate(t)...)
}

// oldNodeLabels are labels of nodes that have a newer name, or none.
var oldNodeLabels = map[string]string{
	"beta.kubernetes.io/arch":                  "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
	"beta.kubernetes.io/os":                    "deprecated since v1.14; use \"kubernetes.io/os\" instead",
	"failure-domain.beta.kubernetes.io/region": "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
	"failure-domain.beta.kubernetes.io/zone":   "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
	"beta.kubernetes.io/instance-type":         "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
}

// A warner gathers warnings. Paths are only made for what there is to warn of.
type warner struct{ out []string }

func (w *warner) say(at *field.Path, format string, args ...any) {
	w.out = append(w.out, at.String()+": "+fmt.Sprintf(format, args...))
}

func warn(s *corev1.PodSpec, annotations map[string]string, root *field.Path) []string {
	w, path := &warner{}, root.Child("spec")
	for k := range s.NodeSelector {
		if msg := oldNodeLabels[k]; msg != "" {
			w.say(path.Child("nodeSelector").Key(k), "%s", msg)
		}
	}
	if s.Affinity != nil {
		w.affinity(s.Affinity, path.Child("affinity"))
	}
	for i := range s.TopologySpreadConstraints {
		c, at := &s.TopologySpreadConstraints[i], path.Child("topologySpreadConstraints").Index(i)
		w.oldLabel(c.TopologyKey, at.Child("topologyKey"))
		w.nullSelector(c.LabelSelector, at)
	}
	if len(annotations) > 0 {
		w.annotations(s, annotations, root.Child("metadata", "annotations"))
	}
	w.lists(s, path)
	for i := range s.Volumes {
		w.volume(&s.Volumes[i], path.Child("volumes"), i)
	}
	for r, q := range s.Overhead {
		if fractions(r, &q) {
			w.say(path.Child("overhead").Key(string(r)), fractional, q.String())
		}
	}
	if g := s.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		w.say(path.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	w.containers(s, path)
	return w.out
}

func (w *warner) oldLabel(key string, at *field.Path) {
	if msg := oldNodeLabels[key]; msg != "" {
		w.say(at, "%s is %s", key, msg)
	}
}

func (w *warner) nullSelector(s *metav1.LabelSelector, at *field.Path) {
	if s == nil {
		w.say(at.Child("labelSelector"), "a null labelSelector results in matching no pod")
	}
}

func (w *warner) affinity(a *corev1.Affinity, path *field.Path) {
	if n := a.NodeAffinity; n != nil {
		at := path.Child("nodeAffinity")
		if r := n.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			for i := range r.NodeSelectorTerms {
				w.nodeTerm(&r.NodeSelectorTerms[i], false, at.Child(requiredTerms, "nodeSelectorTerms").Index(i))
			}
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			w.nodeTerm(&n.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference, true, at.Child(preferred).Index(i).Child("preference"))
		}
	}
	if a := a.PodAffinity; a != nil {
		w.podTerms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution, path.Child("podAffinity"))
	}
	if a := a.PodAntiAffinity; a != nil {
		w.podTerms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution, path.Child("podAntiAffinity"))
	}
}

// nodeTerm warns of old labels, and of values that no label can have where those are not refused.
func (w *warner) nodeTerm(t *corev1.NodeSelectorTerm, values bool, path *field.Path) {
	for i, e := range t.MatchExpressions {
		at := path.Child("matchExpressions").Index(i)
		w.oldLabel(e.Key, at.Child("key"))
		for j, v := range e.Values {
			if !values {
				break
			}
			for _, msg := range validation.IsValidLabelValue(v) {
				w.say(at.Child("values").Index(j), "%s is invalid, %s", v, msg)
			}
		}
	}
}

func (w *warner) podTerms(must []corev1.PodAffinityTerm, rather []corev1.WeightedPodAffinityTerm, path *field.Path) {
	one := func(t *corev1.PodAffinityTerm, at *field.Path) {
		w.oldLabel(t.TopologyKey, at.Child("topologyKey"))
		w.nullSelector(t.LabelSelector, at)
	}
	for i := range must {
		one(&must[i], path.Child(requiredTerms).Index(i))
	}
	for i := range rather {
		one(&rather[i].PodAffinityTerm, path.Child(preferred).Index(i).Child("podAffinityTerm"))
	}
}

// annotations warns of those that fields have replaced.
func (w *warner) annotations(s *corev1.PodSpec, set map[string]string, path *field.Path) {
	const seccomp = "non-functional in v1.27+; use the \"seccompProfile\" field instead"
	for k := range set {
		at := path.Key(k)
		container, ofContainer := strings.CutPrefix(k, "container.seccomp.security.alpha.kubernetes.io/")
		switch {
		case k == "scheduler.alpha.kubernetes.io/critical-pod":
			w.say(at, "non-functional in v1.16+; use the \"priorityClassName\" field instead")
		case k == "security.alpha.kubernetes.io/sysctls" || k == "security.alpha.kubernetes.io/unsafe-sysctls":
			w.say(at, "non-functional in v1.11+; use the \"sysctls\" field instead")
		case k == "seccomp.security.alpha.kubernetes.io/pod":
			if s.SecurityContext == nil || s.SecurityContext.SeccompProfile == nil {
				w.say(at, seccomp)
			}
		case ofContainer:
			is := func(c corev1.Container) bool {
				return c.Name == container && (c.SecurityContext == nil || c.SecurityContext.SeccompProfile == nil)
			}
			if slices.ContainsFunc(s.Containers, is) || slices.ContainsFunc(s.InitContainers, is) {
				w.say(at, seccomp)
			}
		case strings.HasPrefix(k, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix):
			w.say(at, "deprecated since v1.30; use the \"appArmorProfile\" field instead")
		}
	}
}

// lists warns of entries that are there twice, or that name nothing.
func (w *warner) lists(s *corev1.PodSpec, path *field.Path) {
	for i, h := range s.HostAliases {
		at := path.Child("hostAliases").Index(i).Child("ip")
		if slices.ContainsFunc(s.HostAliases[:i], func(o corev1.HostAlias) bool { return o.IP == h.IP }) {
			w.say(at, "duplicate ip %q", h.IP)
		}
		w.out = append(w.out, validation.GetWarningsForIP(at, h.IP)...)
	}
	for i, r := range s.ImagePullSecrets {
		if slices.Contains(s.ImagePullSecrets[:i], r) {
			w.say(path.Child("imagePullSecrets").Index(i).Child("name"), "duplicate name %q", r.Name)
		}
		if r.Name == "" {
			w.say(path.Child("imagePullSecrets").Index(i).Child("name"), "invalid empty name %q", r.Name)
		}
	}
	if s.DNSConfig != nil {
		for i, ip := range s.DNSConfig.Nameservers {
			w.out = append(w.out, validation.GetWarningsForIP(path.Child("dnsConfig", "nameservers").Index(i), ip)...)
		}
	}
}

// volume warns of a volume of a driver that Kubernetes gave up, and of sizes.
func (w *warner) volume(v *corev1.Volume, path *field.Path, i int) {
	for _, d := range [...]struct {
		there      bool
		name, text string
	}{
		{v.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
		{v.GitRepo != nil, "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"},
		{v.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
		{v.Flocker != nil, "flocker", "deprecated in v1.22, non-functional in v1.25+"},
		{v.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
		{v.Quobyte != nil, "quobyte", "deprecated in v1.22, non-functional in v1.25+"},
		{v.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
		{v.CephFS != nil, "cephfs", "deprecated in v1.28, non-functional in v1.31+"},
		{v.RBD != nil, "rbd", "deprecated in v1.28, non-functional in v1.31+"},
	} {
		if d.there {
			w.say(path.Index(i).Child(d.name), "%s", d.text)
		}
	}
	if e := v.Ephemeral; e != nil && e.VolumeClaimTemplate != nil {
		at := path.Index(i).Child("ephemeral", "volumeClaimTemplate", "spec", "resources")
		r := &e.VolumeClaimTemplate.Spec.Resources
		if q, ok := r.Requests[corev1.ResourceStorage]; ok && q.MilliValue()%1000 != 0 {
			w.say(at.Child("requests").Key("storage"), fractional, q.String())
		}
		if q, ok := r.Limits[corev1.ResourceStorage]; ok && q.MilliValue()%1000 != 0 {
			w.say(at.Child("limits").Key("storage"), fractional, q.String())
		}
	}
}
