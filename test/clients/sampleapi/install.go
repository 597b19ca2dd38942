package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// local looks at the services that the cluster's own server stands for.
func (w *world) local(ctx context.Context) error {
	for _, name := range []string{"v1.", "v1.apps", "v1.rbac.authorization.k8s.io"} {
		s, err := w.services.ApiregistrationV1().APIServices().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if c := condition(s); s.Spec.Service != nil || c.Status != apiregistrationv1.ConditionTrue || c.Reason != "Local" {
			return fmt.Errorf("%s: %+v, %+v", name, s.Spec, c)
		}
	}
	return nil
}

// condition is the one that says whether a service is available.
func condition(s *apiregistrationv1.APIService) apiregistrationv1.APIServiceCondition {
	for _, c := range s.Status.Conditions {
		if c.Type == apiregistrationv1.Available {
			return c
		}
	}
	return apiregistrationv1.APIServiceCondition{}
}

func apiService(version string, ca []byte) *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: version + "." + group},
		Spec: apiregistrationv1.APIServiceSpec{Group: group, Version: version, CABundle: ca, GroupPriorityMinimum: 1000,
			VersionPriority: map[string]int32{"v1alpha1": 15, "v1beta1": 20}[version],
			Service:         &apiregistrationv1.ServiceReference{Namespace: ns, Name: "api"}},
	}
}

// absent registers a server before there is a way to it.
func (w *world) absent(ctx context.Context) error {
	if err := w.identity509(); err != nil {
		return err
	}
	if _, err := w.core.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	for _, version := range []string{"v1alpha1", "v1beta1"} {
		made, err := w.services.ApiregistrationV1().APIServices().Create(ctx, apiService(version, w.backend.ca), metav1.CreateOptions{})
		if err != nil {
			return err
		}
		if made.Spec.Service.Port == nil || *made.Spec.Service.Port != 443 {
			return fmt.Errorf("made without a port: %+v", made.Spec.Service)
		}
	}
	if err := w.condition(ctx, "v1alpha1", apiregistrationv1.ConditionFalse, "ServiceNotFound"); err != nil {
		return err
	}
	_, err := w.wardle.WardleV1alpha1().Flunders(ns).List(ctx, metav1.ListOptions{})
	if !apierrors.IsServiceUnavailable(err) {
		return fmt.Errorf("asked all the same: %w", err)
	}
	bad := apiService("v1", nil)
	bad.Name = "another"
	if _, err := w.services.ApiregistrationV1().APIServices().Create(ctx, bad, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		return fmt.Errorf("a service of another name: %w", err)
	}
	return nil
}

// condition waits until a service is available, or not, for a reason.
func (w *world) condition(ctx context.Context, version string, want apiregistrationv1.ConditionStatus, reasons ...string) error {
	return until(ctx, version+"."+group, func() error {
		s, err := w.services.ApiregistrationV1().APIServices().Get(ctx, version+"."+group, metav1.GetOptions{})
		if err != nil {
			return err
		}
		c := condition(s)
		for _, reason := range reasons {
			if c.Status == want && c.Reason == reason {
				return nil
			}
		}
		return fmt.Errorf("it is %s, %s: %s; want %s, %v", c.Status, c.Reason, c.Message, want, reasons)
	})
}

// start gives the server an account with its rights, and a service without selector.
func (w *world) start(ctx context.Context) error {
	token, err := w.account(ctx)
	if err != nil {
		return err
	}
	kubeconfig, err := w.kubeconfig("account.kubeconfig", token)
	if err != nil {
		return err
	}
	if w.backend.port, err = freePort(w.address); err != nil {
		return err
	}
	const policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n"
	if err := os.WriteFile(w.file("audit.yaml"), []byte(policy), 0o600); err != nil {
		return err
	}
	if err := errors.Join(w.startEtcd(), w.startServer(kubeconfig)); err != nil {
		return err
	}
	if err := answers(ctx, net.JoinHostPort(w.address, strconv.Itoa(w.backend.port))); err != nil {
		return err
	}
	_, err = w.core.CoreV1().Services(ns).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "api"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "https", Port: 443, TargetPort: intstr.FromInt(w.backend.port)}}}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = w.core.DiscoveryV1().EndpointSlices(ns).Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "api-1", Labels: map[string]string{discoveryv1.LabelServiceName: "api"}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{w.address}}},
		Ports: []discoveryv1.EndpointPort{{Name: new("https"), Port: new(int32(w.backend.port))}}}, metav1.CreateOptions{})
	return err
}

// account makes the server's account, with the rights that its manifests give it.
func (w *world) account(ctx context.Context) (string, error) {
	subject := []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: ns, Name: "apiserver"}}
	rule := func(group string, resources ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: []string{"get", "list", "watch"}}
	}
	rbac := w.core.RbacV1()
	_, err1 := w.core.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "apiserver"}}, metav1.CreateOptions{})
	_, err2 := rbac.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "wardle-server"}, Rules: []rbacv1.PolicyRule{
		rule("", "namespaces"), rule("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations", "flowschemas"),
		rule("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "validatingwebhookconfigurations", "validatingadmissionpolicies",
			"validatingadmissionpolicybindings", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings"),
	}}, metav1.CreateOptions{})
	err3 := w.bind(ctx, "wardle-server", "wardle-server", subject[0])
	err4 := w.bind(ctx, "wardle:system:auth-delegator", "system:auth-delegator", subject[0])
	_, err5 := rbac.RoleBindings("kube-system").Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "wardle-auth-reader"}, Subjects: subject,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "extension-apiserver-authentication-reader"}}, metav1.CreateOptions{})
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return "", err
	}
	return w.token(ctx, "apiserver")
}

// bind gives a subject a cluster role.
func (w *world) bind(ctx context.Context, name, role string, to rbacv1.Subject) error {
	_, err := w.core.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: []rbacv1.Subject{to},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}}, metav1.CreateOptions{})
	return err
}

func (w *world) token(ctx context.Context, account string) (string, error) {
	t, err := w.core.CoreV1().ServiceAccounts(ns).CreateToken(ctx, account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return t.Status.Token, nil
}

func (w *world) available(ctx context.Context) error {
	for _, version := range []string{"v1alpha1", "v1beta1"} {
		if err := w.condition(ctx, version, apiregistrationv1.ConditionTrue, "Passed"); err != nil {
			return err
		}
	}
	return nil
}

// dead kills the server: others do not suffer, and it comes back.
func (w *world) dead(ctx context.Context) error {
	if err := w.backend.kill(); err != nil {
		return err
	}
	_, err := w.wardle.WardleV1alpha1().Flunders(ns).List(ctx, metav1.ListOptions{})
	if !apierrors.IsServiceUnavailable(err) {
		return fmt.Errorf("asked while it is dead: %w", err)
	}
	began := time.Now()
	for range 20 {
		if _, err := w.core.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{}); err != nil {
			return err
		}
		if _, err := w.core.Discovery().ServerGroups(); err != nil {
			return err
		}
	}
	if took := time.Since(began); took > 4*time.Second {
		return fmt.Errorf("40 requests that it has no part in took %v", took)
	}
	if err := w.condition(ctx, "v1alpha1", apiregistrationv1.ConditionFalse, "FailedDiscoveryCheck"); err != nil {
		return err
	}
	if err := w.startServer(w.file("account.kubeconfig")); err != nil {
		return err
	}
	if err := w.available(ctx); err != nil {
		return err
	}
	return until(ctx, "it answers again", func() error {
		_, err := w.wardle.WardleV1alpha1().Flunders(ns).List(ctx, metav1.ListOptions{})
		return err
	})
}
