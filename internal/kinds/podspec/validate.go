package podspec

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/validate"
)

// ValidateTemplate checks a pod template.
func ValidateTemplate(t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabels(t.Labels, path.Child("labels"))
	errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, path.Child("annotations"))...)
	errs = append(errs, Validate(&t.Spec, path.Child("spec"))...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// Validate checks a pod spec by itself.
func Validate(s *corev1.PodSpec, path *field.Path) (errs field.ErrorList) {
	add := func(e field.ErrorList) { errs = append(errs, e...) }

	vols, e := validateVolumes(s.Volumes, path.Child("volumes"))
	add(e)
	v := checker{spec: s, volumes: vols, names: sets.New[string]()}
	v.grace = corev1.DefaultTerminationGracePeriodSeconds
	if s.TerminationGracePeriodSeconds != nil {
		v.grace = *s.TerminationGracePeriodSeconds
	}
	add(v.containers(path.Child("containers")))
	add(v.initContainers(path.Child("initContainers")))
	add(v.ephemeralContainers(path.Child("ephemeralContainers")))
	add(validatePodResources(s, path))
	add(validate.OneOf(s.RestartPolicy, path.Child("restartPolicy"),
		corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever))
	add(validateDNSPolicy(s, path))
	add(validateHost(s, path))
	add(validatePodSecurity(s, path))
	add(validateNames(s, path))
	if d := s.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		add(field.ErrorList{field.Invalid(path.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, math.MaxInt32))})
	}
	add(validateScheduling(s, path))
	for i, a := range s.HostAliases {
		at := path.Child("hostAliases").Index(i)
		add(legacyIP(a.IP, at.Child("ip")))
		for j, h := range a.Hostnames {
			add(validate.Subdomain(h, at.Child("hostnames").Index(j)))
		}
	}
	for i, g := range s.ReadinessGates {
		add(validate.Qualified(string(g.ConditionType), path.Child("readinessGates").Index(i).Child("conditionType")))
	}
	return errs
}

// legacyIP checks an address in a field where it need not be in canonical form.
func legacyIP(ip string, path *field.Path) field.ErrorList {
	return validation.IsValidIPForLegacyField(path, ip, true, nil)
}

func validateNames(s *corev1.PodSpec, path *field.Path) (errs field.ErrorList) {
	check := func(v, name string, f func(string, *field.Path) field.ErrorList) {
		if v != "" {
			errs = append(errs, f(v, path.Child(name))...)
		}
	}
	check(s.ServiceAccountName, "serviceAccountName", validate.Subdomain)
	check(s.NodeName, "nodeName", validate.Subdomain)
	check(s.Hostname, "hostname", validate.Label)
	check(s.Subdomain, "subdomain", validate.Label)
	check(s.PriorityClassName, "priorityClassName", validate.Subdomain)
	if s.RuntimeClassName != nil {
		errs = append(errs, validate.Subdomain(*s.RuntimeClassName, path.Child("runtimeClassName"))...)
	}
	if h := s.HostnameOverride; h != nil {
		at := path.Child("hostnameOverride")
		if *h == "" {
			errs = append(errs, field.Required(at, "must not be empty"))
		} else {
			errs = append(errs, validate.Subdomain(*h, at)...)
		}
		if len(*h) > 64 {
			errs = append(errs, field.TooLongCharacters(at, *h, 64))
		}
		if s.HostNetwork {
			errs = append(errs, field.Forbidden(at, "may not be set when `hostNetwork` is true"))
		}
		if s.SetHostnameAsFQDN != nil && *s.SetHostnameAsFQDN {
			errs = append(errs, field.Forbidden(at, "may not be set when `setHostnameAsFQDN` is true"))
		}
	}
	return errs
}

const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

func validateDNSPolicy(s *corev1.PodSpec, path *field.Path) field.ErrorList {
	errs := validate.OneOf(s.DNSPolicy, path.Child("dnsPolicy"),
		corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet, corev1.DNSDefault, corev1.DNSNone)
	c, at := s.DNSConfig, path.Child("dnsConfig")
	if s.DNSPolicy == corev1.DNSNone {
		if c == nil {
			return append(errs, field.Required(at, "must provide `dnsConfig` when `dnsPolicy` is None"))
		}
		if len(c.Nameservers) == 0 {
			return append(errs, field.Required(at.Child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None"))
		}
	}
	if c == nil {
		return errs
	}
	if len(c.Nameservers) > maxNameservers {
		errs = append(errs, field.Invalid(at.Child("nameservers"), c.Nameservers, "must not have more than 3 nameservers"))
	}
	for i, n := range c.Nameservers {
		errs = append(errs, legacyIP(n, at.Child("nameservers").Index(i))...)
	}
	if len(c.Searches) > maxSearches {
		errs = append(errs, field.Invalid(at.Child("searches"), c.Searches, "must not have more than 32 search paths"))
	}
	chars := 0
	for i, d := range c.Searches {
		chars += len(d) + 1
		if d != "." {
			if n := len(d); n > 0 && d[n-1] == '.' {
				d = d[:n-1]
			}
			errs = append(errs, validate.Messages(at.Child("searches").Index(i), d, validation.IsDNS1123SubdomainWithUnderscore(d))...)
		}
	}
	if chars-1 > maxSearchChars {
		errs = append(errs, field.Invalid(at.Child("searches"), c.Searches, "must not have more than 2048 characters (including spaces) in the search list"))
	}
	for i, o := range c.Options {
		if o.Name == "" {
			errs = append(errs, field.Required(at.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}

// validateHost checks what a pod shares with its host.
func validateHost(s *corev1.PodSpec, path *field.Path) (errs field.ErrorList) {
	if s.HostNetwork {
		for _, list := range []struct {
			name string
			of   []corev1.Container
		}{{"containers", s.Containers}, {"initContainers", s.InitContainers}} {
			for i, c := range list.of {
				for j, p := range c.Ports {
					if p.HostPort != 0 && p.HostPort != p.ContainerPort {
						at := path.Child(list.name).Index(i).Child("ports").Index(j)
						errs = append(errs, field.Invalid(at.Child("containerPort"), p.ContainerPort, "must match `hostPort` when `hostNetwork` is true"))
					}
				}
			}
		}
	}
	if isTrue(s.ShareProcessNamespace) && s.HostPID {
		errs = append(errs, field.Invalid(path.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	if s.HostUsers != nil && !*s.HostUsers {
		for _, host := range []struct {
			name string
			on   bool
		}{{"hostNetwork", s.HostNetwork}, {"hostPID", s.HostPID}, {"hostIPC", s.HostIPC}} {
			if host.on {
				errs = append(errs, field.Forbidden(path.Child(host.name), "when `hostUsers` is false"))
			}
		}
	}
	if s.OS != nil {
		errs = append(errs, validate.OneOf(s.OS.Name, path.Child("os", "name"), corev1.Linux, corev1.Windows)...)
	}
	return errs
}

func isTrue(b *bool) bool { return b != nil && *b }

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
