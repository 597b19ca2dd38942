package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

// These are the names of resources that have no domain, in groups that share rules.
var (
	// countedResources come whole.
	countedResources = []corev1.ResourceName{"pods", "resourcequotas", "services", "replicationcontrollers", "secrets", "configmaps",
		"persistentvolumeclaims", "services.nodeports", "services.loadbalancers"}
	// computeResources are those that only pods use.
	computeResources = []corev1.ResourceName{"cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"}
	// spaceResources are amounts of storage.
	spaceResources = []corev1.ResourceName{"ephemeral-storage", "requests.ephemeral-storage", "limits.ephemeral-storage", "requests.storage"}
)

func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

// isQuotaResource says whether a quota can bound a resource without a domain.
func isQuotaResource(name corev1.ResourceName) bool {
	return slices.Contains(countedResources, name) || slices.Contains(computeResources, name) || slices.Contains(spaceResources, name) || isHugePages(name)
}

// resourceName checks the name of a resource: one of those without a domain, or
// one that has a domain.
func resourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := validate.Qualified(string(name), at)
	if !strings.Contains(string(name), "/") && len(errs) == 0 && name != corev1.ResourceStorage && !isQuotaResource(name) {
		errs = append(errs, field.Invalid(at, string(name), "must be a standard resource type or fully qualified"))
	}
	return errs
}

// quotaResource checks the name of a resource that a quota bounds.
func quotaResource(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := resourceName(name, at)
	if !strings.Contains(string(name), "/") && !isQuotaResource(name) {
		errs = append(errs, field.Invalid(at, string(name), "must be a standard resource for quota"))
	}
	return errs
}

// amount checks a quantity of a resource: not negative, and whole for what comes whole.
func amount(name corev1.ResourceName, q resource.Quantity, at *field.Path) field.ErrorList {
	errs := podspec.Quantity(name, q, at)
	if slices.Contains(countedResources, name) && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(at, q, "must be an integer"))
	}
	return errs
}

// scopeCovers says whether a quota of a scope can bound a resource: those that
// select pods bound what pods use, best-effort pods only by their number.
func scopeCovers(scope corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	switch scope {
	case corev1.ResourceQuotaScopeBestEffort:
		return name == corev1.ResourcePods
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return name == corev1.ResourcePods || slices.Contains(computeResources, name)
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
	}
	return true
}

// isNative says whether a resource is Kubernetes' own, not one that a device
// plugin or an administrator gives a node.
func isNative(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// overcommits says whether a request for the resource may be below its limit.
func overcommits(name corev1.ResourceName) bool {
	return isNative(name) && !strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// containerResource checks the name of a resource that containers can ask for.
func containerResource(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := validate.Qualified(string(name), at)
	plain := !strings.Contains(string(name), "/")
	switch {
	case len(errs) > 0:
	case plain && name != corev1.ResourceCPU && name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage && overcommits(name):
		errs = append(errs, field.Invalid(at, string(name), "must be a standard resource for containers"))
	case !isNative(name) && (strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) ||
		len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) > 0):
		errs = append(errs, field.Invalid(at, string(name), "doesn't follow extended resource name standard"))
	}
	return errs
}
