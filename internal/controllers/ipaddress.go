package controllers

import (
	"context"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
	"proa/internal/kinds/networking"
)

// addressManager marks the IPAddress objects of services' cluster addresses.
const addressManager = "ipallocator.k8s.io"

// ServiceAddresses shows the cluster addresses of services as IPAddress objects.
// Who has which address is decided where services are written; the objects only
// tell of it.
var ServiceAddresses = &control.Controller[*corev1.Service]{
	Name: "service-ip-address",
	For:  core.Service,
	Watches: []control.Watch{control.On(networking.IPAddress, func(_ *control.Cluster, a *networkingv1.IPAddress) []control.Key {
		if p := a.Spec.ParentRef; ofService(a) && p != nil {
			return []control.Key{{Namespace: p.Namespace, Name: p.Name}}
		}
		return nil
	})},
	Writes: []api.Definition{networking.IPAddress},
	Reconcile: func(ctx context.Context, c *control.Cluster, s *corev1.Service) (time.Duration, error) {
		for _, ip := range clusterAddresses(s) {
			if err := showAddress(ctx, c, s, ip); err != nil {
				return 0, err
			}
		}
		return 0, nil
	},
}

// ServiceAddressRemoval removes the IPAddress objects of addresses that no
// service has any more.
var ServiceAddressRemoval = &control.Controller[*networkingv1.IPAddress]{
	Name: "service-ip-address-removal",
	For:  networking.IPAddress,
	Watches: []control.Watch{control.On(core.Service, func(_ *control.Cluster, s *corev1.Service) (keys []control.Key) {
		for _, ip := range clusterAddresses(s) {
			keys = append(keys, control.Key{Name: ip.String()})
		}
		return keys
	})},
	Writes: []api.Definition{networking.IPAddress},
	Reconcile: func(ctx context.Context, c *control.Cluster, a *networkingv1.IPAddress) (time.Duration, error) {
		if !ofService(a) || a.DeletionTimestamp != nil || inUse(c, a) {
			return 0, nil
		}
		return 0, ignoreNotFound(networking.IPAddress.Delete(ctx, c, "", a.Name, api.Options{UID: &a.UID}))
	},
}

// clusterAddresses is every cluster address of a service, in its one right form.
func clusterAddresses(s *corev1.Service) (out []netip.Addr) {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	for _, ip := range s.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(ip); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// ofService says whether an object tells of a service's address. Others may use
// the kind for addresses of their own.
func ofService(a *networkingv1.IPAddress) bool {
	return a.Labels[networkingv1.LabelManagedBy] == addressManager
}

// inUse says whether the service that an object names has the address.
func inUse(c *control.Cluster, a *networkingv1.IPAddress) bool {
	p := a.Spec.ParentRef
	if p == nil || p.Group != "" || p.Resource != "services" {
		return false
	}
	s, ok := control.Get(c, core.Service, p.Namespace, p.Name)
	if !ok {
		return false
	}
	for _, ip := range clusterAddresses(s) {
		if ip.String() == a.Name {
			return true
		}
	}
	return false
}

// showAddress makes the object of one address, in the place of one that another
// service left behind.
func showAddress(ctx context.Context, c *control.Cluster, s *corev1.Service, ip netip.Addr) error {
	parent := &networkingv1.ParentReference{Resource: "services", Namespace: s.Namespace, Name: s.Name}
	if a, ok := control.Get(c, networking.IPAddress, "", ip.String()); ok {
		if !ofService(a) || equality.Semantic.DeepEqual(a.Spec.ParentRef, parent) || inUse(c, a) {
			return nil
		}
		if err := ignoreNotFound(networking.IPAddress.Delete(ctx, c, "", a.Name, api.Options{UID: &a.UID})); err != nil {
			return err
		}
	}
	family := corev1.IPv4Protocol
	if ip.Is6() {
		family = corev1.IPv6Protocol
	}
	_, err := networking.IPAddress.Create(ctx, c, &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip.String(), Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: string(family), networkingv1.LabelManagedBy: addressManager}},
		Spec: networkingv1.IPAddressSpec{ParentRef: parent},
	})
	return made(err)
}
