package networking

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/kinds/column"
	"proa/internal/kinds/fill"
	"proa/internal/kinds/validate"
)

// NetworkPolicy says who may talk with the pods that it selects.
var NetworkPolicy = &api.Kind[*networkingv1.NetworkPolicy]{
	API: "networking.k8s.io/v1", Resource: "networkpolicies", Scope: api.Namespaced, Short: []string{"netpol"},
	Columns: []api.Column[*networkingv1.NetworkPolicy]{
		column.Doc(api.Col("Pod-Selector", func(p *networkingv1.NetworkPolicy) string { return metav1.FormatLabelSelector(&p.Spec.PodSelector) }),
			networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"]),
	},
	Default: defaultPolicy,
	Prepare: func(p, old *networkingv1.NetworkPolicy) {
		p.Generation = grown(old, func() bool { return !equality.Semantic.DeepEqual(p.Spec, old.Spec) })
	},
	Validate: validatePolicy,
	Warn:     warnPolicy,
}

func defaultPolicy(p *networkingv1.NetworkPolicy) {
	s := &p.Spec
	if len(s.PolicyTypes) == 0 {
		s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(s.Egress) > 0 {
			s.PolicyTypes = append(s.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	for i := range s.Ingress {
		defaultPorts(s.Ingress[i].Ports)
	}
	for i := range s.Egress {
		defaultPorts(s.Egress[i].Ports)
	}
}

func defaultPorts(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		fill.Nil(&ports[i].Protocol, corev1.ProtocolTCP)
	}
}

func validatePolicy(p, old *networkingv1.NetworkPolicy) (errs field.ErrorList) {
	s := &p.Spec
	v := policyCheck{}
	if old != nil {
		v.had = blocks(&old.Spec)
	}
	errs = metavalidation.ValidateLabelSelector(&s.PodSelector, metavalidation.LabelSelectorValidationOptions{}, spec.Child("podSelector"))
	for i, r := range s.Ingress {
		at := spec.Child("ingress").Index(i)
		errs = append(errs, v.rule(r.Ports, r.From, at.Child("ports"), at.Child("from"))...)
	}
	for i, r := range s.Egress {
		at := spec.Child("egress").Index(i)
		errs = append(errs, v.rule(r.Ports, r.To, at.Child("ports"), at.Child("to"))...)
	}
	types := spec.Child("policyTypes")
	if len(s.PolicyTypes) > 2 {
		return append(errs, field.Invalid(types, s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range s.PolicyTypes {
		errs = append(errs, validate.Known(t, types.Index(i), networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)...)
	}
	return errs
}

// warnPolicy warns about CIDRs that not every reader understands alike.
func warnPolicy(p, _ *networkingv1.NetworkPolicy) (out []string) {
	peers := func(list []networkingv1.NetworkPolicyPeer, at *field.Path) {
		for i := range list {
			b := list[i].IPBlock
			if b == nil {
				continue
			}
			at := at.Index(i).Child("ipBlock")
			out = append(out, warnCIDR(at.Child("cidr"), b.CIDR)...)
			for n, e := range b.Except {
				out = append(out, warnCIDR(at.Child("except").Index(n), e)...)
			}
		}
	}
	for i, r := range p.Spec.Ingress {
		peers(r.From, spec.Child("ingress").Index(i).Child("from"))
	}
	for i, r := range p.Spec.Egress {
		peers(r.To, spec.Child("egress").Index(i).Child("to"))
	}
	return out
}

func warnCIDR(at *field.Path, cidr string) []string {
	if len(validation.IsValidCIDRForLegacyField(at, cidr, false, nil)) > 0 {
		return nil // refused, not warned about
	}
	return validation.GetWarningsForCIDR(at, cidr)
}

// blocks is every CIDR of a policy.
func blocks(s *networkingv1.NetworkPolicySpec) (out []string) {
	add := func(peers []networkingv1.NetworkPolicyPeer) {
		for _, p := range peers {
			if p.IPBlock != nil {
				out = append(append(out, p.IPBlock.CIDR), p.IPBlock.Except...)
			}
		}
	}
	for _, r := range s.Ingress {
		add(r.From)
	}
	for _, r := range s.Egress {
		add(r.To)
	}
	return out
}

// A policyCheck checks the rules of one policy.
type policyCheck struct {
	had []string // CIDRs of the old state, which may stay however they are written
}

func (v policyCheck) rule(ports []networkingv1.NetworkPolicyPort, peers []networkingv1.NetworkPolicyPeer, portPath, peerPath *field.Path) (errs field.ErrorList) {
	for i := range ports {
		errs = append(errs, validatePolicyPort(&ports[i], portPath.Index(i))...)
	}
	for i := range peers {
		errs = append(errs, v.peer(&peers[i], peerPath.Index(i))...)
	}
	return errs
}

func validatePolicyPort(p *networkingv1.NetworkPolicyPort, at *field.Path) (errs field.ErrorList) {
	if p.Protocol != nil {
		errs = append(errs, validate.Known(*p.Protocol, at.Child("protocol"), corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	}
	if p.Port != nil {
		errs = append(errs, validate.PortOrName(*p.Port, at.Child("port"))...)
	}
	if p.EndPort == nil {
		return errs
	}
	end := at.Child("endPort")
	switch {
	case p.Port == nil:
		errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is not specified"))
	case p.Port.Type == intstr.String:
		errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric"))
	default:
		if *p.EndPort < p.Port.IntVal {
			errs = append(errs, field.Invalid(end, *p.EndPort, "must be greater than or equal to `port`"))
		}
		errs = append(errs, validate.Port(*p.EndPort, end)...)
	}
	return errs
}

func (v policyCheck) peer(p *networkingv1.NetworkPolicyPeer, at *field.Path) (errs field.ErrorList) {
	if p.PodSelector != nil {
		errs = append(errs, metavalidation.ValidateLabelSelector(p.PodSelector, metavalidation.LabelSelectorValidationOptions{}, at.Child("podSelector"))...)
	}
	if p.NamespaceSelector != nil {
		errs = append(errs, metavalidation.ValidateLabelSelector(p.NamespaceSelector, metavalidation.LabelSelectorValidationOptions{}, at.Child("namespaceSelector"))...)
	}
	if p.IPBlock != nil {
		errs = append(errs, v.block(p.IPBlock, at.Child("ipBlock"))...)
	}
	selects := p.PodSelector != nil || p.NamespaceSelector != nil
	switch {
	case !selects && p.IPBlock == nil:
		errs = append(errs, field.Required(at, "must specify a peer"))
	case selects && p.IPBlock != nil:
		errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
	}
	return errs
}

func (v policyCheck) block(b *networkingv1.IPBlock, at *field.Path) (errs field.ErrorList) {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(at.Child("cidr"), "")}
	}
	if errs := validation.IsValidCIDRForLegacyField(at.Child("cidr"), b.CIDR, true, v.had); len(errs) > 0 {
		return errs
	}
	outer, err := netip.ParsePrefix(b.CIDR)
	for i, e := range b.Except {
		path := at.Child("except").Index(i)
		if bad := validation.IsValidCIDRForLegacyField(path, e, true, v.had); len(bad) > 0 {
			errs = append(errs, bad...)
			continue
		}
		inner, err2 := netip.ParsePrefix(e)
		if err == nil && err2 == nil && (!outer.Contains(inner.Addr()) || outer.Bits() >= inner.Bits()) {
			errs = append(errs, field.Invalid(path, e, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}
