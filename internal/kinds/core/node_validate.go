package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

func validateNode(n, old *corev1.Node) (errs field.ErrorList) {
	errs = validateTaints(n.Spec.Taints, specPath.Child("taints"))
	for i, c := range n.Spec.PodCIDRs {
		errs = append(errs, validation.IsValidCIDRForLegacyField(specPath.Child("podCIDRs").Index(i), c, false, nil)...)
	}
	if len(n.Spec.PodCIDRs) > 0 && n.Spec.PodCIDRs[0] != n.Spec.PodCIDR {
		errs = append(errs, field.Invalid(specPath.Child("podCIDRs").Index(0), n.Spec.PodCIDRs[0], "must equal `podCIDR`"))
	}
	status := field.NewPath("status")
	for list, of := range map[string]corev1.ResourceList{"capacity": n.Status.Capacity, "allocatable": n.Status.Allocatable} {
		for name, q := range of {
			errs = append(errs, validate.Qualified(string(name), status.Child(list).Key(string(name)))...)
			errs = append(errs, podspec.Quantity(name, q, status.Child(list).Key(string(name)))...)
		}
	}
	seen := map[corev1.NodeAddress]bool{}
	for i, a := range n.Status.Addresses {
		if seen[a] {
			errs = append(errs, field.Duplicate(status.Child("addresses").Index(i), a))
		}
		seen[a] = true
	}
	if old == nil {
		return errs
	}
	if len(old.Spec.PodCIDRs) > 0 && !equality.Semantic.DeepEqual(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(specPath.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	if old.Spec.ProviderID != "" && n.Spec.ProviderID != old.Spec.ProviderID {
		errs = append(errs, field.Forbidden(specPath.Child("providerID"), "node updates may not change providerID except from \"\" to valid"))
	}
	return errs
}

func validateTaints(taints []corev1.Taint, path *field.Path) (errs field.ErrorList) {
	type key struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := map[key]bool{}
	for i, t := range taints {
		at := path.Index(i)
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		errs = append(errs, validate.Messages(at.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
		errs = append(errs, validate.OneOf(t.Effect, at.Child("effect"),
			corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)...)
		if seen[key{t.Key, t.Effect}] {
			e := field.Duplicate(at, t)
			e.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, e)
		}
		seen[key{t.Key, t.Effect}] = true
	}
	return errs
}

func validateEndpoints(e, _ *corev1.Endpoints) (errs field.ErrorList) {
	for i := range e.Subsets {
		s, at := &e.Subsets[i], field.NewPath("subsets").Index(i)
		if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for name, list := range map[string][]corev1.EndpointAddress{"addresses": s.Addresses, "notReadyAddresses": s.NotReadyAddresses} {
			for j := range list {
				errs = append(errs, validateEndpointAddress(&list[j], at.Child(name).Index(j))...)
			}
		}
		for j, p := range s.Ports {
			pp := at.Child("ports").Index(j)
			if p.Name == "" && len(s.Ports) > 1 {
				errs = append(errs, field.Required(pp.Child("name"), ""))
			} else if p.Name != "" {
				errs = append(errs, validate.Label(p.Name, pp.Child("name"))...)
			}
			errs = append(errs, validate.Port(p.Port, pp.Child("port"))...)
			errs = append(errs, validate.OneOf(p.Protocol, pp.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
			if p.AppProtocol != nil {
				errs = append(errs, validate.Qualified(*p.AppProtocol, pp.Child("appProtocol"))...)
			}
		}
	}
	return errs
}

func validateEndpointAddress(a *corev1.EndpointAddress, at *field.Path) (errs field.ErrorList) {
	errs = validation.IsValidIPForLegacyField(at.Child("ip"), a.IP, false, nil)
	if len(errs) == 0 {
		errs = NonSpecialIP(a.IP, at.Child("ip"))
	}
	if a.Hostname != "" {
		errs = append(errs, validate.Label(a.Hostname, at.Child("hostname"))...)
	}
	if a.NodeName != nil {
		for _, msg := range validation.IsDNS1123Subdomain(*a.NodeName) {
			errs = append(errs, field.Invalid(at.Child("nodeName"), *a.NodeName, msg))
		}
	}
	return errs
}

func validateReplicationController(r, _ *corev1.ReplicationController) (errs field.ErrorList) {
	errs = validate.Count(r.Spec.MinReadySeconds, specPath.Child("minReadySeconds"))
	if len(r.Spec.Selector) == 0 {
		errs = append(errs, field.Required(specPath.Child("selector"), ""))
	}
	if r.Spec.Replicas == nil {
		errs = append(errs, field.Required(specPath.Child("replicas"), ""))
	} else {
		errs = append(errs, validate.Count(*r.Spec.Replicas, specPath.Child("replicas"))...)
	}
	t, at := r.Spec.Template, specPath.Child("template")
	if t == nil {
		return append(errs, field.Required(at, ""))
	}
	for k, v := range r.Spec.Selector {
		if t.Labels[k] != v {
			errs = append(errs, field.Invalid(at.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
			break
		}
	}
	errs = append(errs, podspec.ValidateTemplate(t, at)...)
	return append(errs, podspec.AlwaysRestarts(t, "ReplicationController", at)...)
}

// quotaScopes are the scopes that a quota can have.
var quotaScopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeCrossNamespacePodAffinity,
	corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopePriorityClass,
	corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeVolumeAttributesClass}

func validateResourceQuota(q, old *corev1.ResourceQuota) (errs field.ErrorList) {
	errs = quotaList(q.Spec.Hard, specPath.Child("hard"))
	seen := map[corev1.ResourceQuotaScope]bool{}
	scopes := specPath.Child("scopes")
	for _, s := range q.Spec.Scopes {
		errs = append(errs, validate.Known(s, scopes, quotaScopes...)...)
		seen[s] = true
	}
	for _, pair := range [][2]corev1.ResourceQuotaScope{{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating}} {
		if seen[pair[0]] && seen[pair[1]] {
			errs = append(errs, field.Invalid(scopes, q.Spec.Scopes, "conflicting scopes"))
		}
	}
	if q.Spec.ScopeSelector != nil {
		for i, r := range q.Spec.ScopeSelector.MatchExpressions {
			errs = append(errs, validateScopeRequirement(r, specPath.Child("scopeSelector", "matchExpressions").Index(i))...)
		}
	}
	if old != nil {
		same := map[corev1.ResourceQuotaScope]bool{}
		for _, s := range old.Spec.Scopes {
			same[s] = true
		}
		if !equality.Semantic.DeepEqual(seen, same) {
			errs = append(errs, field.Invalid(scopes, q.Spec.Scopes, "field is immutable"))
		}
	}
	return errs
}

func validateScopeRequirement(r corev1.ScopedResourceSelectorRequirement, at *field.Path) (errs field.ErrorList) {
	errs = validate.Known(r.ScopeName, at.Child("scopeName"), quotaScopes...)
	switch r.Operator {
	case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
		if len(r.Values) == 0 {
			errs = append(errs, field.Required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
		}
	case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			errs = append(errs, field.Invalid(at.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
		}
	default:
		errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	return errs
}

func quotaList(l corev1.ResourceList, at *field.Path) (errs field.ErrorList) {
	for name, q := range l {
		errs = append(errs, validate.Qualified(string(name), at.Key(string(name)))...)
		errs = append(errs, podspec.Quantity(name, q, at.Key(string(name)))...)
	}
	return errs
}

func validateResourceQuotaStatus(q, _ *corev1.ResourceQuota) field.ErrorList {
	status := field.NewPath("status")
	return append(quotaList(q.Status.Hard, status.Child("hard")), quotaList(q.Status.Used, status.Child("used"))...)
}

func validateLimitRange(l, _ *corev1.LimitRange) (errs field.ErrorList) {
	seen := map[corev1.LimitType]bool{}
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], specPath.Child("limits").Index(i)
		errs = append(errs, validate.Qualified(string(item.Type), at.Child("type"))...)
		if seen[item.Type] {
			errs = append(errs, field.Duplicate(at.Child("type"), item.Type))
		}
		seen[item.Type] = true
		if item.Type == corev1.LimitTypePod {
			if len(item.Default) > 0 {
				errs = append(errs, field.Forbidden(at.Child("default"), "may not be specified when `type` is 'Pod'"))
			}
			if len(item.DefaultRequest) > 0 {
				errs = append(errs, field.Forbidden(at.Child("defaultRequest"), "may not be specified when `type` is 'Pod'"))
			}
		}
		if item.Type == corev1.LimitTypePersistentVolumeClaim && item.Max.Storage().IsZero() && item.Min.Storage().IsZero() {
			errs = append(errs, field.Required(at, "either minimum or maximum storage value is required, but neither was provided"))
		}
		errs = append(errs, limitOrder(item, at)...)
	}
	return errs
}

// limitOrder checks min ≤ defaultRequest ≤ default ≤ max for every resource.
func limitOrder(item *corev1.LimitRangeItem, at *field.Path) (errs field.ErrorList) {
	lists := []struct {
		name string
		of   corev1.ResourceList
	}{{"min", item.Min}, {"defaultRequest", item.DefaultRequest}, {"default", item.Default}, {"max", item.Max}}
	phrase := map[string]string{"min": "min", "defaultRequest": "default request", "default": "default", "max": "max"}
	for i, low := range lists {
		for name, q := range low.of {
			errs = append(errs, podspec.Quantity(name, q, at.Child(low.name).Key(string(name)))...)
			for _, high := range lists[i+1:] {
				if h, ok := high.of[name]; ok && q.Cmp(h) > 0 {
					errs = append(errs, field.Invalid(at.Child(low.name).Key(string(name)), q.String(),
						fmt.Sprintf("%s value %s is greater than %s value %s", phrase[low.name], q.String(), phrase[high.name], h.String())))
				}
			}
		}
	}
	for name, q := range item.MaxLimitRequestRatio {
		if q.MilliValue() < 1000 {
			errs = append(errs, field.Invalid(at.Child("maxLimitRequestRatio").Key(string(name)), q.String(),
				fmt.Sprintf("ratio %s is less than 1", q.String())))
		}
	}
	return errs
}
