package apiserver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/internal/api"
	"proa/internal/kinds/flowcontrol"
	"proa/internal/kinds/networking"
)

// Defaults are what a cluster is born with.
type Defaults struct {
	// API is where pods reach the server: what the endpoints of the Service
	// "kubernetes" are. No such Service is made if it is not valid.
	API netip.AddrPort
	// ServiceIP is that Service's cluster address: the first of their range.
	ServiceIP netip.Addr
	// ServiceCIDR is that range, shown as the ServiceCIDR "kubernetes". None is
	// made if it is not valid.
	ServiceCIDR netip.Prefix
	// Objects are made if they are missing; roles and role bindings that are
	// marked for it get what they lack (rbac.authorization.kubernetes.io/autoupdate),
	// flow schemas and priority levels what they should be (apf.kubernetes.io/autoupdate-spec).
	Objects []api.Object
}

// EnsureDefaults makes what is missing of the namespaces that every cluster has,
// the system's priority classes, the Service "kubernetes" with its endpoints, the
// ServiceCIDR of that name, and d.Objects. It is called at every start.
func (s *Server) EnsureDefaults(ctx context.Context, d Defaults) error {
	var first, then []api.Object
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		first = append(first, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	for _, o := range d.Objects {
		if o.GetNamespace() == "" {
			first = append(first, o)
		} else {
			then = append(then, o)
		}
	}
	for _, c := range systemClasses {
		first = append(first, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: c.name}, Value: c.value, Description: c.description})
	}
	if d.API.IsValid() {
		then = append(then, kubernetesService(d)...)
	}
	if d.ServiceCIDR.IsValid() {
		first = append(first, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: serviceCIDR},
			Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{d.ServiceCIDR.Masked().String()}}})
	}
	if err := s.ensureAll(ctx, first); err != nil {
		return err
	}
	if d.ServiceCIDR.IsValid() {
		if err := s.readyServiceCIDR(ctx); err != nil {
			return err
		}
	}
	return s.ensureAll(ctx, then)
}

// serviceCIDR is the name of the ServiceCIDR, and of the Service, that every cluster has.
const serviceCIDR = "kubernetes"

// readyServiceCIDR says in the status of the cluster's range that it is in use.
func (s *Server) readyServiceCIDR(ctx context.Context) error {
	r := &api.Request{Verb: api.Update, Resource: networking.ServiceCIDR.Def(), Name: serviceCIDR, Sub: "status",
		User: api.User{Name: api.UserAPIServer, Groups: []string{api.GroupMasters}}}
	for {
		have, err := networking.ServiceCIDR.Get(ctx, s, "", serviceCIDR)
		if err != nil {
			return fmt.Errorf("read the default ServiceCIDR: %w", err)
		}
		if have.DeletionTimestamp != nil || meta.IsStatusConditionTrue(have.Status.Conditions, networkingv1.ServiceCIDRConditionReady) {
			return nil
		}
		have = api.Clone(have)
		meta.SetStatusCondition(&have.Status.Conditions, metav1.Condition{Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue,
			Message: "Kubernetes default Service CIDR is ready", LastTransitionTime: metav1.NewTime(s.clock.Now()).Rfc3339Copy()})
		r.Object = have
		if _, err := s.Handle(ctx, r); !apierrors.IsConflict(err) {
			return err
		}
	}
}

var systemClasses = []struct {
	name        string
	value       int32
	description string
}{
	{"system-node-critical", 2_000_001_000, "Used for system critical pods that must not be moved from their current node."},
	{"system-cluster-critical", 2_000_000_000, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."},
}

// ensureAll makes them side by side, so that they share the store's syncs.
func (s *Server) ensureAll(ctx context.Context, list []api.Object) error {
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, o := range list {
		wg.Go(func() { errs[i] = s.ensure(ctx, o) })
		if s.inTurn {
			wg.Wait()
		}
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("make the default %T %s: %w", list[i], list[i].GetName(), err)
		}
	}
	return nil
}

func (s *Server) ensure(ctx context.Context, want api.Object) error {
	t := s.tableOf(want)
	if t == nil {
		return fmt.Errorf("no served kind has this type")
	}
	user := api.User{Name: api.UserAPIServer, Groups: []string{api.GroupMasters}}
	r := &api.Request{Verb: api.Create, Resource: t.res, Namespace: want.GetNamespace(), Name: want.GetName(), User: user, Object: want}
	for {
		have := s.item(t, t.key(want.GetNamespace(), want.GetName()))
		if have == nil {
			r.Verb, r.Object = api.Create, api.Clone(want)
			if _, err := s.Handle(ctx, r); err == nil || !apierrors.IsAlreadyExists(err) {
				return err
			}
			continue
		}
		next := completed(have.Object(), want)
		if next == nil {
			return nil
		}
		r.Verb, r.Object = api.Update, next
		if _, err := s.Handle(ctx, r); err == nil || !apierrors.IsConflict(err) {
			return err
		}
	}
}

func (s *Server) tableOf(o api.Object) *table {
	if gvk := o.GetObjectKind().GroupVersionKind(); gvk.Kind != "" {
		for _, t := range s.tables {
			if t.res.GVK() == gvk {
				return t
			}
		}
	}
	for _, t := range s.tables {
		if fmt.Sprintf("%T", t.res.New()) == fmt.Sprintf("%T", o) {
			return t
		}
	}
	return nil
}

// completed is have with what it lacks of want, or nil if it lacks nothing
// that may be added to it.
func completed(have, want api.Object) api.Object {
	next := api.Clone(have)
	auto := have.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] == "true"
	switch n := next.(type) {
	case *rbacv1.ClusterRole:
		if w := want.(*rbacv1.ClusterRole); auto {
			if w.AggregationRule == nil { // else they are gathered from others
				n.Rules = union(n.Rules, w.Rules)
			}
			n.AggregationRule = w.AggregationRule
		}
	case *rbacv1.ClusterRoleBinding:
		if auto {
			n.Subjects = union(n.Subjects, want.(*rbacv1.ClusterRoleBinding).Subjects)
		}
	case *rbacv1.Role:
		if auto {
			n.Rules = union(n.Rules, want.(*rbacv1.Role).Rules)
		}
	case *rbacv1.RoleBinding:
		if auto {
			n.Subjects = union(n.Subjects, want.(*rbacv1.RoleBinding).Subjects)
		}
	case *flowcontrolv1.FlowSchema:
		flowcontrol.RenewSchema(n, want.(*flowcontrolv1.FlowSchema))
	case *flowcontrolv1.PriorityLevelConfiguration:
		flowcontrol.RenewLevel(n, want.(*flowcontrolv1.PriorityLevelConfiguration))
	case *corev1.Endpoints: //nolint:staticcheck // still what many clients read
		n.Subsets = want.(*corev1.Endpoints).Subsets //nolint:staticcheck
	case *discoveryv1.EndpointSlice:
		w := want.(*discoveryv1.EndpointSlice)
		n.Endpoints, n.Ports = w.Endpoints, w.Ports
	}
	if equality.Semantic.DeepEqual(next, have) {
		return nil
	}
	return next
}

func union[T any](have, want []T) []T {
	for _, w := range want {
		if !slices.ContainsFunc(have, func(h T) bool { return equality.Semantic.DeepEqual(h, w) }) {
			have = append(have, w)
		}
	}
	return have
}

// kubernetesService is how pods find the server.
func kubernetesService(d Defaults) []api.Object {
	meta := func(labels map[string]string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "kubernetes", Labels: labels}
	}
	port := int32(d.API.Port())
	ip := d.API.Addr().Unmap().String()
	family := discoveryv1.AddressTypeIPv4
	if !d.API.Addr().Unmap().Is4() {
		family = discoveryv1.AddressTypeIPv6
	}
	svc := &corev1.Service{
		ObjectMeta: meta(map[string]string{"component": "apiserver", "provider": "kubernetes"}),
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{
			Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(port)}}},
	}
	if d.ServiceIP.IsValid() {
		svc.Spec.ClusterIP = d.ServiceIP.String()
	}
	eps := &corev1.Endpoints{ //nolint:staticcheck // still what many clients read
		ObjectMeta: meta(map[string]string{discoveryv1.LabelSkipMirror: "true"}),
		Subsets: []corev1.EndpointSubset{{ //nolint:staticcheck
			Addresses: []corev1.EndpointAddress{{IP: ip}},
			Ports:     []corev1.EndpointPort{{Name: "https", Port: port, Protocol: corev1.ProtocolTCP}},
		}},
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  meta(map[string]string{discoveryv1.LabelServiceName: "kubernetes"}),
		AddressType: family,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}}},
		Ports:       []discoveryv1.EndpointPort{{Name: new("https"), Port: &port, Protocol: new(corev1.ProtocolTCP)}},
	}
	return []api.Object{svc, eps, slice}
}
