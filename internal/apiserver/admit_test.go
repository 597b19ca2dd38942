package apiserver_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/admit"
	"proa/internal/kinds/core"
	"proa/internal/kinds/discovery"
	"proa/internal/kinds/networking"
	"proa/internal/kinds/rbac"
	"proa/internal/store/memory"
)

var cluster = apiserver.Defaults{
	API:         netip.MustParseAddrPort("192.0.2.1:6443"),
	ServiceIP:   netip.MustParseAddr("10.43.0.1"),
	ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"),
}

// admitting starts a server with all steps, the defaults and a service account in each namespace.
func admitting(t testing.TB, set admit.Settings) *apiserver.Server {
	s := start(t, memory.New(nil), func(c *apiserver.Config) { c.Admit = admit.All(set) })
	if err := s.EnsureDefaults(t.Context(), cluster); err != nil {
		t.Fatal(err)
	}
	account(t, s, "default")
	return s
}

func account(t testing.TB, s *apiserver.Server, ns string) {
	t.Helper()
	_, err := core.ServiceAccount.Create(t.Context(), s, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "default"},
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}}})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEnsureDefaults(t *testing.T) {
	e := memory.New(nil)
	s := start(t, e, func(c *apiserver.Config) { c.Admit = admit.All(admit.Settings{}) })
	role := func(verbs ...string) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{
			ObjectMeta: metav1.ObjectMeta{Name: "r", Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"}},
			Rules:      []rbacv1.PolicyRule{{Verbs: verbs, APIGroups: []string{""}, Resources: []string{"pods"}}},
		}
	}
	d := cluster
	d.Objects = []api.Object{role("get")}
	ensure := func() int64 {
		t.Helper()
		if err := s.EnsureDefaults(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		return s.Revision()
	}
	rev := ensure()
	if again := ensure(); again != rev {
		t.Errorf("a second call wrote something: revision %d after %d", again, rev)
	}
	cidr := must[*networkingv1.ServiceCIDR](t)(networking.ServiceCIDR.Get(t.Context(), s, "", "kubernetes"))
	if c := cidr.Status.Conditions; len(cidr.Spec.CIDRs) != 1 || cidr.Spec.CIDRs[0] != "10.43.0.0/16" || len(c) != 1 || c[0].Type != "Ready" || c[0].Status != "True" {
		t.Errorf("%+v", cidr)
	}
	d.Objects = []api.Object{role("list")}
	d.API = netip.MustParseAddrPort("192.0.2.2:7443")
	ensure()
	r := must[*rbacv1.ClusterRole](t)(rbac.ClusterRole.Get(t.Context(), s, "", "r"))
	if len(r.Rules) != 2 {
		t.Errorf("rules: %v", r.Rules)
	}
	slice := must[*discoveryv1.EndpointSlice](t)(discovery.EndpointSlice.Get(t.Context(), s, "default", "kubernetes"))
	if slice.Endpoints[0].Addresses[0] != "192.0.2.2" || *slice.Ports[0].Port != 7443 {
		t.Errorf("endpoints: %+v", slice)
	}
	svc := must[*corev1.Service](t)(core.Service.Get(t.Context(), s, "default", "kubernetes"))
	if svc.Spec.ClusterIP != "10.43.0.1" {
		t.Errorf("cluster address %s", svc.Spec.ClusterIP)
	}
}

func TestNamespaceLifecycle(t *testing.T) {
	s := admitting(t, admit.Settings{})
	ctx := t.Context()
	_, err := core.ConfigMap.Create(ctx, s, configMap("nowhere", "x"))
	wantError(t, err, 404, metav1.StatusReasonNotFound, `namespaces "nowhere" not found`)
	_, err = core.Namespace.Create(ctx, s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := core.Namespace.Delete(ctx, s, "", "a", api.Options{}); err != nil {
		t.Fatal(err)
	}
	ns := must[*corev1.Namespace](t)(core.Namespace.Get(ctx, s, "", "a"))
	if ns.Status.Phase != corev1.NamespaceTerminating {
		t.Errorf("phase %s", ns.Status.Phase)
	}
	_, err = core.ConfigMap.Create(ctx, s, configMap("a", "x"))
	wantError(t, err, 403, metav1.StatusReasonForbidden, `configmaps "x" is forbidden: unable to create new content in namespace a because it is being terminated`)
	if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("the cause is missing: %v", err)
	}
	ns = api.Clone(ns)
	ns.Spec.Finalizers = nil
	_, err = s.Handle(ctx, &api.Request{Verb: api.Update, Resource: core.Namespace.Def(), Name: "a", Sub: "finalize", Object: ns})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := core.Namespace.Get(ctx, s, "", "a"); !apierrors.IsNotFound(err) {
		t.Errorf("still there after its last finalizer: %v", err)
	}
	err = core.Namespace.Delete(ctx, s, "", "kube-system", api.Options{})
	wantError(t, err, 403, metav1.StatusReasonForbidden, "this namespace may not be deleted")
}

func TestPodAdmission(t *testing.T) {
	s := admitting(t, admit.Settings{})
	ctx := t.Context()
	p := must[*corev1.Pod](t)(core.Pod.Create(ctx, s, pod("default", "p", "")))
	if p.Spec.ServiceAccountName != "default" || len(p.Spec.Volumes) != 1 || len(p.Spec.Containers[0].VolumeMounts) != 1 ||
		!strings.HasPrefix(p.Spec.Volumes[0].Name, "kube-api-access-") || p.Spec.Volumes[0].Name != p.Spec.Containers[0].VolumeMounts[0].Name {
		t.Errorf("no token: %+v", p.Spec)
	}
	if *p.Spec.Priority != 0 || *p.Spec.PreemptionPolicy != corev1.PreemptLowerPriority || len(p.Spec.Tolerations) != 2 || p.Spec.ImagePullSecrets[0].Name != "pull" {
		t.Errorf("bad spec: %+v", p.Spec)
	}
	crit := pod("default", "crit", "")
	crit.Spec.PriorityClassName = "system-node-critical"
	crit.Spec.AutomountServiceAccountToken = new(false)
	crit = must[*corev1.Pod](t)(core.Pod.Create(ctx, s, crit))
	if *crit.Spec.Priority != 2_000_001_000 || len(crit.Spec.Volumes) != 0 {
		t.Errorf("bad spec: %+v", crit.Spec)
	}
	bad := pod("default", "bad", "")
	bad.Spec.PriorityClassName = "none"
	_, err := core.Pod.Create(ctx, s, bad)
	wantError(t, err, 403, metav1.StatusReasonForbidden, "no PriorityClass with name none was found")
	bad = pod("default", "bad", "")
	bad.Spec.ServiceAccountName = "none"
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	_, err = core.Pod.Create(short, s, bad)
	wantError(t, err, 403, metav1.StatusReasonForbidden, `error looking up service account default/none: serviceaccount "none" not found`)
}

// A pod that comes before its namespace's account waits for it.
func TestPodWaitsForAccount(t *testing.T) {
	s := admitting(t, admit.Settings{})
	go func() {
		time.Sleep(20 * time.Millisecond) // so that the pod usually comes first; either order must work
		_, _ = core.ServiceAccount.Create(t.Context(), s, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "default"}})
	}()
	if _, err := core.Pod.Create(t.Context(), s, pod("kube-system", "p", "")); err != nil {
		t.Fatal(err)
	}
}

func service(name string, change func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"a": "b"}, Ports: []corev1.ServicePort{{Port: 80}}}}
	if change != nil {
		change(&s.Spec)
	}
	return s
}

func TestServiceAddresses(t *testing.T) {
	s := admitting(t, admit.Settings{NodePorts: [2]int32{30000, 30002}})
	ctx := t.Context()
	m := must[*corev1.Service](t)
	plain := m(core.Service.Create(ctx, s, service("plain", nil)))
	if plain.Spec.ClusterIP == "" || plain.Spec.ClusterIPs[0] != plain.Spec.ClusterIP || plain.Spec.IPFamilies[0] != corev1.IPv4Protocol {
		t.Fatalf("no address: %+v", plain.Spec)
	}
	_, err := core.Service.Create(ctx, s, service("dup", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.43.0.1" }))
	wantError(t, err, 422, metav1.StatusReasonInvalid, "failed to allocate IP 10.43.0.1: provided IP is already allocated")
	_, err = core.Service.Create(ctx, s, service("out", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.99.0.1" }))
	wantError(t, err, 422, metav1.StatusReasonInvalid, "The range of valid IPs is 10.43.0.0/16")

	port := func(n int32) func(*corev1.ServiceSpec) {
		return func(s *corev1.ServiceSpec) { s.Type, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, n }
	}
	one := m(core.Service.Create(ctx, s, service("one", port(30001))))
	_, err = core.Service.Create(ctx, s, service("two", port(30001)))
	wantError(t, err, 422, metav1.StatusReasonInvalid, "spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated")
	_, err = core.Service.Create(ctx, s, service("far", port(40000)))
	wantError(t, err, 422, metav1.StatusReasonInvalid, "provided port is not in the valid range. The range of valid ports is 30000-30002")
	if two := m(core.Service.Create(ctx, s, service("two", port(0)))); two.Spec.Ports[0].NodePort == 0 || two.Spec.Ports[0].NodePort == 30001 {
		t.Errorf("node port %d", two.Spec.Ports[0].NodePort)
	}
	// Both protocols of a port share one node port.
	both := m(core.Service.Create(ctx, s, service("both", func(s *corev1.ServiceSpec) {
		s.Type = corev1.ServiceTypeNodePort
		s.Ports = []corev1.ServicePort{{Name: "t", Port: 53}, {Name: "u", Port: 53, Protocol: corev1.ProtocolUDP}}
	})))
	if a, b := both.Spec.Ports[0].NodePort, both.Spec.Ports[1].NodePort; a == 0 || a != b {
		t.Errorf("node ports %d and %d", a, b)
	}
	_, err = core.Service.Create(ctx, s, service("full", port(0)))
	if err == nil || !strings.Contains(err.Error(), "range is full") {
		t.Errorf("made a fourth: %v", err)
	}

	// A service that becomes internal gives its port back; its address stays.
	ip := one.Spec.ClusterIP
	patch := []byte(`{"spec":{"type":"ClusterIP"}}`)
	one = m(core.Service.Patch(ctx, s, "default", "one", "", types.MergePatchType, patch))
	if one.Spec.ClusterIP != ip || one.Spec.Ports[0].NodePort != 0 {
		t.Errorf("after becoming internal: %+v", one.Spec)
	}
	m(core.Service.Create(ctx, s, service("again", port(30001))))
	one = m(core.Service.Patch(ctx, s, "default", "one", "", types.MergePatchType, []byte(`{"spec":{"type":"ExternalName","externalName":"a.example"}}`)))
	if one.Spec.ClusterIP != "" {
		t.Errorf("an external name with address %s", one.Spec.ClusterIP)
	}
	m(core.Service.Create(ctx, s, service("heir", func(s *corev1.ServiceSpec) { s.ClusterIP = ip })))
	if err := core.Service.Delete(ctx, s, "default", "heir", api.Options{}); err != nil {
		t.Fatal(err)
	}
	m(core.Service.Create(ctx, s, service("heir", func(s *corev1.ServiceSpec) { s.ClusterIP = ip })))
	head := m(core.Service.Create(ctx, s, service("head", func(s *corev1.ServiceSpec) { s.ClusterIP = "None" })))
	if head.Spec.ClusterIPs[0] != "None" {
		t.Errorf("headless: %+v", head.Spec)
	}
}

// No address is given twice, whatever runs at the same time, and a restart knows all of them.
func TestServiceAddressesAreUnique(t *testing.T) {
	e := memory.New(nil)
	set := admit.Settings{Services: netip.MustParsePrefix("10.9.0.0/26")}
	s := start(t, e, func(c *apiserver.Config) { c.Admit = admit.All(set) })
	if err := s.EnsureDefaults(t.Context(), apiserver.Defaults{}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen, full := map[string]string{}, 0
	for i := range 80 {
		wg.Go(func() {
			svc, err := core.Service.Create(t.Context(), s, service(fmt.Sprint("s", i), nil))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				full++
				return
			}
			if by := seen[svc.Spec.ClusterIP]; by != "" {
				t.Errorf("%s was given to %s and %s", svc.Spec.ClusterIP, by, svc.Name)
			}
			seen[svc.Spec.ClusterIP] = svc.Name
		})
	}
	wg.Wait()
	if len(seen) != 62 || full != 18 {
		t.Errorf("%d services got addresses and %d none, of 62 addresses", len(seen), full)
	}
	other, err := apiserver.New(t.Context(), apiserver.Config{Engine: e, Kinds: kindsAll, Admit: admit.All(set)})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := core.Service.Create(t.Context(), other, service("late", nil)); err == nil {
		t.Error("a restarted server gave an address twice")
	}
}
