package podspec

import (
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// ValidateTemplate checks a pod template.
func ValidateTemplate(t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := validate.Labels(t.Labels, path.Child("labels"))
	if len(t.Annotations) > 0 {
		errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, path.Child("annotations"))...)
	}
	v := checker{spec: &t.Spec}
	v.annotations(t.Annotations, path.Child("annotations"))
	spec := path.Child("spec")
	v.all(spec)
	v.annotationsMatch(t.Annotations, spec)
	if len(t.Spec.EphemeralContainers) > 0 {
		v.add(field.Forbidden(spec.Child("ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return append(errs, v.errs...)
}

// ValidatePod checks a new pod, except for its metadata as such.
func ValidatePod(p *corev1.Pod) field.ErrorList {
	path := field.NewPath("spec")
	v := checker{spec: &p.Spec, pod: &p.ObjectMeta}
	v.ofPod(path)
	if len(p.Spec.EphemeralContainers) > 0 {
		v.add(field.Forbidden(path.Child("ephemeralContainers"), "cannot be set on create"))
	}
	if p.Spec.NodeName != "" && len(p.Spec.SchedulingGates) > 0 {
		v.add(field.Forbidden(path.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	v.annotationsMatch(p.Annotations, path)
	return v.errs
}

// ValidateChanged checks a changed pod by itself; what may have changed is for
// [ValidateUpdate] to say.
func ValidateChanged(p *corev1.Pod) field.ErrorList {
	v := checker{spec: &p.Spec, pod: &p.ObjectMeta}
	v.ofPod(field.NewPath("spec"))
	return v.errs
}

// ofPod checks what is asked of pods: more than of templates, whose gaps are
// filled when pods are made of them.
func (v *checker) ofPod(path *field.Path) {
	v.annotations(v.pod.Annotations, field.NewPath("metadata", "annotations"))
	v.all(path)
	if v.spec.ServiceAccountName != "" {
		return
	}
	for i := range v.spec.Volumes {
		p := v.spec.Volumes[i].Projected
		for j := 0; p != nil && j < len(p.Sources); j++ {
			if p.Sources[j].ServiceAccountToken != nil {
				v.add(field.Forbidden(path.Child("volumes").Index(i).Child("projected", "sources").Index(j).Child("serviceAccountToken"),
					"must not be specified when serviceAccountName is not set"))
			}
		}
	}
}

// all checks a pod spec.
func (v *checker) all(path *field.Path) {
	s := v.spec
	if s.TerminationGracePeriodSeconds == nil {
		v.add(field.Required(path.Child("terminationGracePeriodSeconds"), ""))
	}
	v.allVolumes(s.Volumes, path.Child("volumes"))
	v.resourceClaims(path)
	v.containers(path.Child("containers"))
	v.initContainers(path)
	v.ephemeralContainers(path)
	v.podResources(path)
	v.host(path)
	oneOf(v, s.RestartPolicy, path, "restartPolicy", corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	v.dns(path)
	v.podSecurity(path)
	v.scheduling(path)
	for i := range s.ReadinessGates {
		if t := string(s.ReadinessGates[i].ConditionType); !validate.IsLabelKey(t) {
			v.add(validate.Qualified(t, path.Child("readinessGates").Index(i).Child("conditionType"))...)
		}
	}
	v.hostProcess(path)
	v.ownNames(path)
	if d := s.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		v.add(field.Invalid(path.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, math.MaxInt32)))
	}
	for i, a := range s.HostAliases {
		at := path.Child("hostAliases").Index(i)
		v.add(legacyIP(a.IP, at.Child("ip"))...)
		for j, h := range a.Hostnames {
			v.add(validate.Subdomain(h, at.Child("hostnames").Index(j))...)
		}
	}
	v.operatingSystem(path)
	v.evictionResponders(path)
}

// legacyIP checks an address in a field where it need not be in canonical form.
func legacyIP(ip string, path *field.Path) field.ErrorList {
	return validation.IsValidIPForLegacyField(path, ip, true, nil)
}

// ownNames checks the names that the spec gives and refers to.
func (v *checker) ownNames(path *field.Path) {
	s := v.spec
	for _, n := range [...]struct{ value, name string }{{s.ServiceAccountName, "serviceAccountName"}, {s.NodeName, "nodeName"},
		{s.PriorityClassName, "priorityClassName"}} {
		if n.value != "" && !validate.IsSubdomain(n.value) {
			v.add(validate.Subdomain(n.value, path.Child(n.name))...)
		}
	}
	for _, n := range [...]struct{ value, name string }{{s.Hostname, "hostname"}, {s.Subdomain, "subdomain"}} {
		if n.value != "" && !validate.IsLabel(n.value) {
			v.add(validate.Label(n.value, path.Child(n.name))...)
		}
	}
	if s.RuntimeClassName != nil {
		v.add(validate.Subdomain(*s.RuntimeClassName, path.Child("runtimeClassName"))...)
	}
	if g := s.SchedulingGroup; g != nil {
		at := path.Child("schedulingGroup")
		if g.PodGroupName == nil {
			v.add(field.Invalid(at, "", "must specify one of: `podGroupName`"))
		} else {
			v.add(validate.Subdomain(*g.PodGroupName, at.Child("podGroupName"))...)
		}
	}
	h, at := s.HostnameOverride, path.Child("hostnameOverride")
	if h == nil {
		return
	}
	if isTrue(s.SetHostnameAsFQDN) {
		v.add(field.Forbidden(at, "may not be specified when setHostnameAsFQDN is true"))
	}
	if s.HostNetwork {
		v.add(field.Forbidden(at, "may not be specified when hostNetwork is true"))
	}
	if len(*h) > 64 {
		v.add(field.TooLong(at, "", 64))
	}
	v.add(validate.Subdomain(*h, at)...)
}

// evictionResponders checks who answers when the pod is to be evicted.
func (v *checker) evictionResponders(path *field.Path) {
	list, path := v.spec.EvictionResponders, path.Child("evictionResponders")
	if len(list) > 10 {
		v.add(field.TooMany(path, len(list), 10))
	}
	if len(list) > 0 && v.spec.SchedulingGroup != nil {
		v.add(field.Forbidden(path, "may not be specified when `schedulingGroup` is set"))
	}
	seen := map[string]bool{}
	for i, r := range list {
		at := path.Index(i)
		domain, _, prefixed := strings.Cut(r.Name, "/")
		ours := domain == "k8s.io" || strings.HasSuffix(domain, ".k8s.io")
		switch {
		case r.Name == "":
			v.add(field.Required(at.Child("name"), ""))
		case seen[r.Name]:
			v.add(field.Duplicate(at, r))
		case !validate.IsLabelKey(r.Name):
			v.add(validate.Qualified(r.Name, at.Child("name"))...)
		case !prefixed:
			v.add(field.Invalid(at.Child("name"), r.Name, "must include a prefix (e.g. 'example.com/key')"))
		case ours || domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io"):
			v.add(field.Invalid(at.Child("name"), r.Name, "domain names *.k8s.io and *.kubernetes.io are reserved"))
		}
		seen[r.Name] = true
		switch p := r.Priority; {
		case p == nil:
			v.add(field.Required(at.Child("priority"), ""))
		case *p < 0:
			v.add(field.Invalid(at.Child("priority"), *p, "must be greater than or equal to 0"))
		case *p > 100_000:
			v.add(field.Invalid(at.Child("priority"), *p, "must be less than or equal to 100000"))
		case *p < 1000 && !ours:
			v.add(field.Invalid(at.Child("priority"), *p, "the interval 0-999 is reserved for responders with *.k8s.io suffix"))
		}
	}
}

const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

func (v *checker) dns(path *field.Path) {
	s := v.spec
	oneOf(v, s.DNSPolicy, path, "dnsPolicy", corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	c, at := s.DNSConfig, path.Child("dnsConfig")
	if c == nil {
		if s.DNSPolicy == corev1.DNSNone {
			v.add(field.Required(at, "must provide `dnsConfig` when `dnsPolicy` is None"))
		}
		return
	}
	if s.DNSPolicy == corev1.DNSNone && len(c.Nameservers) == 0 {
		v.add(field.Required(at.Child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None"))
		return
	}
	if len(c.Nameservers) > maxNameservers {
		v.add(field.Invalid(at.Child("nameservers"), c.Nameservers, fmt.Sprintf("must not have more than %d nameservers", maxNameservers)))
	}
	for i, n := range c.Nameservers {
		v.add(legacyIP(n, at.Child("nameservers").Index(i))...)
	}
	if len(c.Searches) > maxSearches {
		v.add(field.Invalid(at.Child("searches"), c.Searches, fmt.Sprintf("must not have more than %d search paths", maxSearches)))
	}
	if len(strings.Join(c.Searches, " ")) > maxSearchChars {
		v.add(field.Invalid(at.Child("searches"), c.Searches,
			fmt.Sprintf("must not have more than %d characters (including spaces) in the search list", maxSearchChars)))
	}
	for i, d := range c.Searches {
		if d != "." {
			d = strings.TrimSuffix(d, ".")
			said(v, at.Child("searches").Index(i), d, validation.IsDNS1123SubdomainWithUnderscore(d))
		}
	}
	for i, o := range c.Options {
		if o.Name == "" {
			v.add(field.Required(at.Child("options").Index(i), "must not be empty"))
		}
	}
}

// host checks what a pod shares with its host.
func (v *checker) host(path *field.Path) {
	s := v.spec
	for i := 0; s.HostNetwork && i < len(s.Containers); i++ {
		for j, p := range s.Containers[i].Ports {
			// The host's port of a template is filled in when a pod is made of it.
			if p.HostPort != p.ContainerPort && (v.pod != nil || p.HostPort != 0) {
				v.add(field.Invalid(path.Child("containers").Index(i).Child("ports").Index(j).Child("hostPort"), p.HostPort,
					"must match `containerPort` when `hostNetwork` is true"))
			}
		}
	}
	if v.hostUsers() {
		return
	}
	for _, h := range [...]struct {
		name string
		on   bool
	}{{"hostNetwork", s.HostNetwork}, {"HostPID", s.HostPID}, {"HostIPC", s.HostIPC}} {
		if h.on {
			v.add(field.Forbidden(path.Child(h.name), "when `hostUsers` is false"))
		}
	}
	v.each(path, func(c *corev1.Container, at *field.Path) {
		if len(c.VolumeDevices) > 0 {
			v.add(field.Forbidden(at.Child("volumeDevices"), "when `hostUsers` is false"))
		}
	})
}

// AlwaysRestarts checks a template whose pods never end by themselves: those of
// kind, which keeps them running.
func AlwaysRestarts(t *corev1.PodTemplateSpec, kind string, path *field.Path) (errs field.ErrorList) {
	if p := t.Spec.RestartPolicy; p != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(path.Child("spec", "restartPolicy"), p, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(path.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+kind+" is not Supported"))
	}
	return errs
}

// claimName is the name of the claim that is made for an ephemeral volume.
func claimName(pod *metav1.ObjectMeta, volume string) string { return pod.Name + "-" + volume }
