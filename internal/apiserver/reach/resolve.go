package reach

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/kinds/discovery"
)

// Resolve returns where a port of a Service leads now, in a random order and
// never empty: the ready endpoints, or the external name of a Service that has
// one. Errors are 503 *errors.StatusError that say what is missing.
func Resolve(ctx context.Context, h api.Handler, ns, name string, port int32) ([]string, error) {
	s, err := core.Service.Get(ctx, h, ns, name)
	if apierrors.IsNotFound(err) {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("service \"%s/%s\" not found", ns, name))
	}
	if err != nil {
		return nil, fmt.Errorf("read service \"%s/%s\": %w", ns, name, err)
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return []string{net.JoinHostPort(s.Spec.ExternalName, strconv.Itoa(int(port)))}, nil
	}
	p := Port(s, port)
	if p == nil {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("service \"%s/%s\" has no port %d", ns, name, port))
	}
	slices, err := Slices(ctx, h, ns, name)
	if err != nil {
		return nil, fmt.Errorf("read the endpoints of service \"%s/%s\": %w", ns, name, err)
	}
	out := Ready(slices, p.Name)
	if len(out) == 0 {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("service \"%s/%s\" has no ready endpoints", ns, name))
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out, nil
}

// Port returns the TCP port of a Service with this number, or nil.
func Port(s *corev1.Service, number int32) *corev1.ServicePort {
	for i := range s.Spec.Ports {
		if p := &s.Spec.Ports[i]; p.Port == number && (p.Protocol == corev1.ProtocolTCP || p.Protocol == "") {
			return p
		}
	}
	return nil
}

// Slices reads the EndpointSlices of a Service.
func Slices(ctx context.Context, h api.Handler, ns, name string) ([]*discoveryv1.EndpointSlice, error) {
	return discovery.EndpointSlice.List(ctx, h, ns, api.WithLabels(map[string]string{discoveryv1.LabelServiceName: name}))
}

// Ready returns the addresses, with their ports, of the ready endpoints behind a
// named port.
func Ready(slices []*discoveryv1.EndpointSlice, port string) (out []string) {
	for _, s := range slices {
		if s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for _, p := range s.Ports {
			if p.Port == nil || p.Name != nil && *p.Name != port || p.Name == nil && port != "" {
				continue
			}
			if p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
				continue
			}
			for _, e := range s.Endpoints {
				if e.Conditions.Ready != nil && !*e.Conditions.Ready || len(e.Addresses) == 0 {
					continue
				}
				out = append(out, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))))
			}
		}
	}
	return out
}
