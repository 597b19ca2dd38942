package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/podspec"
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

// quotaResource checks the name of a resource that a quota bounds.
func quotaResource(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := podspec.ResourceName(name, at)
	if !strings.Contains(string(name), "/") && !isQuotaResource(name) {
		errs = append(errs, field.Invalid(at, string(name), "must be a standard resource for quota"))
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
