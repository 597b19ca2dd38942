package access

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
)

// Verbs of the default roles, as RBAC writes them.
const (
	reads  = "get list watch"
	writes = "create delete deletecollection patch update"
	every  = reads + " " + writes
)

// rule is a policy rule from words separated by blanks. The core group is "core".
func rule(verbs, groups, resources string, names ...string) rbacv1.PolicyRule {
	gs := strings.Fields(groups)
	for i, g := range gs {
		if g == "core" {
			gs[i] = ""
		}
	}
	return rbacv1.PolicyRule{Verbs: strings.Fields(verbs), APIGroups: gs, Resources: strings.Fields(resources), ResourceNames: names}
}

func paths(verbs, urls string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Fields(verbs), NonResourceURLs: strings.Fields(urls)}
}

// Resources that the user-facing roles are about (kubernetes.io/docs/reference/access-authn-authz/rbac).
const (
	workloadsApps  = "daemonsets deployments deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale"
	workloadsCore  = "configmaps endpoints persistentvolumeclaims pods replicationcontrollers replicationcontrollers/scale serviceaccounts services"
	workloadStatus = "daemonsets/status deployments/status replicasets/status statefulsets/status"
	coreStatus     = "namespaces/status persistentvolumeclaims/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status services/status bindings events limitranges namespaces"
)

func viewRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(reads, "core", workloadsCore+" "+coreStatus),
		rule(reads, "discovery.k8s.io", "endpointslices"),
		rule(reads, "apps", workloadsApps+" "+workloadStatus+" controllerrevisions"),
		rule(reads, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
		rule(reads, "batch", "cronjobs cronjobs/status jobs jobs/status"),
		rule(reads, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
		rule(reads, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
		rule(reads, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
	}
}

func editRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(reads, "core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
		rule("create", "core", "pods/eviction serviceaccounts/token"),
		rule("impersonate", "core", "serviceaccounts"),
		rule(writes, "core", "pods pods/attach pods/exec pods/portforward pods/proxy secrets services services/proxy "+
			"configmaps endpoints events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale serviceaccounts"),
		rule(writes, "apps", workloadsApps+" deployments/rollback"),
		rule(writes, "autoscaling", "horizontalpodautoscalers"),
		rule(writes, "batch", "cronjobs jobs"),
		rule(writes, "policy", "poddisruptionbudgets"),
		rule(writes, "networking.k8s.io", "ingresses networkpolicies"),
		rule(every, "coordination.k8s.io", "leases"),
		rule(writes, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
	}
}

func adminRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule("create", "authorization.k8s.io", "localsubjectaccessreviews"),
		rule(every, "rbac.authorization.k8s.io", "rolebindings roles"),
	}
}

// aggregate labels: what the roles admin, edit and view are made of.
func aggregated(name, to string, rules []rbacv1.PolicyRule) *rbacv1.ClusterRole {
	r := clusterRole(name, rules...)
	r.Labels["rbac.authorization.k8s.io/aggregate-to-"+to] = "true"
	return r
}

func aggregating(name string, rules []rbacv1.PolicyRule) *rbacv1.ClusterRole {
	r := clusterRole(name, rules...)
	r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
		{MatchLabels: map[string]string{"rbac.authorization.k8s.io/aggregate-to-" + name: "true"}}}}
	return r
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: defaultMeta(name), Rules: rules}
}

func defaultMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"}}
}

func bound(name string, subjects ...rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{ObjectMeta: defaultMeta(name), Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}}
}

func user(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}
}

func group(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: name}
}

// Defaults returns Kubernetes' default cluster roles and bindings, new ones on
// every call. The roles of upstream's single controllers are not among them:
// Proa's controllers run in the server's process under one name.
func Defaults() []api.Object {
	var out []api.Object
	for _, r := range userRoles() {
		out = append(out, r)
	}
	for _, r := range append(systemRoles(), certificateRoles()...) {
		out = append(out, r)
	}
	for _, b := range bindings() {
		out = append(out, b)
	}
	return append(out, extensionReader())
}

// extensionReader lets aggregated API servers read whom to believe.
func extensionReader() *rbacv1.Role {
	meta := defaultMeta("extension-apiserver-authentication-reader")
	meta.Namespace = metav1.NamespaceSystem
	return &rbacv1.Role{ObjectMeta: meta,
		Rules: []rbacv1.PolicyRule{rule("get list watch", "core", "configmaps", "extension-apiserver-authentication")}}
}

func userRoles() []*rbacv1.ClusterRole {
	view, edit, admin := viewRules(), editRules(), adminRules()
	return []*rbacv1.ClusterRole{
		clusterRole("cluster-admin", rule("*", "*", "*"), paths("*", "*")),
		aggregating("admin", append(append(append([]rbacv1.PolicyRule{}, admin...), edit...), view...)),
		aggregating("edit", append(append([]rbacv1.PolicyRule{}, edit...), view...)),
		aggregating("view", view),
		aggregated("system:aggregate-to-admin", "admin", admin),
		withEdit(aggregated("system:aggregate-to-edit", "edit", edit)),
		withView(aggregated("system:aggregate-to-view", "view", view)),
		withView(aggregated("system:aggregated-metrics-reader", "view", []rbacv1.PolicyRule{rule(reads, "metrics.k8s.io", "nodes pods")})),
	}
}

// The roles edit and view are themselves parts of the wider ones.
func withEdit(r *rbacv1.ClusterRole) *rbacv1.ClusterRole {
	r.Labels["rbac.authorization.k8s.io/aggregate-to-admin"] = "true"
	return r
}

func withView(r *rbacv1.ClusterRole) *rbacv1.ClusterRole {
	r.Labels["rbac.authorization.k8s.io/aggregate-to-edit"] = "true"
	return withEdit(r)
}

func systemRoles() []*rbacv1.ClusterRole {
	events := rule("create patch update", "core events.k8s.io", "events")
	reviews := []rbacv1.PolicyRule{
		rule("create", "authentication.k8s.io", "tokenreviews"),
		rule("create", "authorization.k8s.io", "subjectaccessreviews")}
	return []*rbacv1.ClusterRole{
		clusterRole("system:discovery", paths("get", "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")),
		clusterRole("system:public-info-viewer", paths("get", "/healthz /livez /readyz /version /version/")),
		clusterRole("system:service-account-issuer-discovery", paths("get", "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/")),
		clusterRole("system:monitoring", paths("get", "/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*")),
		clusterRole("system:basic-user",
			rule("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
			rule("create", "authentication.k8s.io", "selfsubjectreviews")),
		clusterRole("system:auth-delegator", reviews...),
		clusterRole("system:kubelet-api-admin",
			rule(reads+" proxy", "core", "nodes"),
			rule("*", "core", "nodes/configz nodes/healthz nodes/log nodes/metrics nodes/pods nodes/proxy nodes/stats")),
		clusterRole("system:node", nodeRole(reviews)...),
		clusterRole("system:node-proxier",
			rule("list watch", "core", "services endpoints"), rule(reads, "core", "nodes"),
			rule("list watch", "discovery.k8s.io", "endpointslices"),
			rule("list watch", "networking.k8s.io", "servicecidrs"), events),
		clusterRole("system:kube-dns", rule("list watch", "core", "endpoints services")),
		clusterRole("system:kube-scheduler",
			events, rule("create get update", "coordination.k8s.io", "leases"),
			rule(reads, "core", "nodes namespaces persistentvolumeclaims persistentvolumes replicationcontrollers services"),
			rule("delete "+reads, "core", "pods"), rule("create", "core", "bindings pods/binding"),
			rule("patch update", "core", "pods/status"),
			rule(reads, "apps", "replicasets statefulsets"), rule(reads, "policy", "poddisruptionbudgets"),
			rule(reads, "storage.k8s.io", "csidrivers csinodes csistoragecapacities storageclasses volumeattachments"),
			rule(reads, "resource.k8s.io", "deviceclasses devicetaintrules resourceclaims resourceslices"),
			rule("patch update", "resource.k8s.io", "resourceclaims resourceclaims/status"),
			rule("get list patch update watch", "core", "pods/finalizers")),
		clusterRole("system:volume-scheduler",
			rule("get list patch update watch", "core", "persistentvolumes persistentvolumeclaims"),
			rule(reads, "storage.k8s.io", "storageclasses")),
		clusterRole("system:kube-controller-manager", rule("*", "*", "*"), paths("*", "*")),
		clusterRole("system:persistent-volume-provisioner",
			rule("create delete "+reads, "core", "persistentvolumes"), rule("get list update watch", "core", "persistentvolumeclaims"),
			rule(reads, "storage.k8s.io", "storageclasses"), rule("watch", "core", "events"), events),
		clusterRole("system:node-problem-detector", rule("get", "core", "nodes"), rule("patch", "core", "nodes/status"), events),
	}
}

// certificateRoles are about who may ask for certificates and who may approve
// them (kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests).
func certificateRoles() []*rbacv1.ClusterRole {
	const group, prefix = "certificates.k8s.io", "system:certificates.k8s.io:"
	approver := func(role, signer string) *rbacv1.ClusterRole {
		return clusterRole(prefix+role, rule("approve", group, "signers", "kubernetes.io/"+signer))
	}
	return []*rbacv1.ClusterRole{
		clusterRole(prefix+"certificatesigningrequests:nodeclient", rule("create", group, "certificatesigningrequests/nodeclient")),
		clusterRole(prefix+"certificatesigningrequests:selfnodeclient", rule("create", group, "certificatesigningrequests/selfnodeclient")),
		approver("kube-apiserver-client-approver", "kube-apiserver-client"),
		approver("kube-apiserver-client-kubelet-approver", "kube-apiserver-client-kubelet"),
		approver("kubelet-serving-approver", "kubelet-serving"),
		approver("legacy-unknown-approver", "legacy-unknown"),
		clusterRole("system:cluster-trust-bundle-discovery", rule(reads, group, "clustertrustbundles")),
	}
}

// nodeRole is what nodes needed before they were judged by what runs on them. No
// group is bound to it: see [Nodes].
func nodeRole(reviews []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	return append(append([]rbacv1.PolicyRule{}, reviews...),
		rule(reads, "core", "services"), rule("create "+reads, "core", "nodes"),
		rule("patch update", "core", "nodes nodes/status"),
		rule("create delete "+reads, "core", "pods"), rule("patch update", "core", "pods/status"),
		rule("create", "core", "pods/eviction"),
		rule(reads, "core", "configmaps secrets"),
		rule("get", "core", "persistentvolumeclaims persistentvolumes"),
		rule("create delete get patch update", "coordination.k8s.io", "leases"),
		rule("create", "core", "serviceaccounts/token"), rule("get", "core", "serviceaccounts"),
		rule(reads, "node.k8s.io", "runtimeclasses"),
		rule(reads, "storage.k8s.io", "csidrivers"),
		rule("get", "storage.k8s.io", "volumeattachments"),
		rule("create delete get patch update", "storage.k8s.io", "csinodes"),
		rule("get", "resource.k8s.io", "resourceclaims"),
		rule(every, "resource.k8s.io", "resourceslices"),
		rule("create "+reads, "certificates.k8s.io", "certificatesigningrequests podcertificaterequests"),
		rule(reads, "certificates.k8s.io", "clustertrustbundles"),
		rule("get", "storage.k8s.io", "volumeattachments"),
		rule("create delete get patch update", "storage.k8s.io", "csinodes"),
		rule("create patch update", "core events.k8s.io", "events"))
}

func bindings() []*rbacv1.ClusterRoleBinding {
	return []*rbacv1.ClusterRoleBinding{
		bound("cluster-admin", group(api.GroupMasters)),
		bound("system:discovery", group(api.GroupAuthenticated)),
		bound("system:basic-user", group(api.GroupAuthenticated)),
		bound("system:public-info-viewer", group(api.GroupAuthenticated), group(api.GroupUnauthenticated)),
		bound("system:service-account-issuer-discovery", group(api.GroupServiceAccounts)),
		bound("system:monitoring", group("system:monitoring")),
		bound("system:cluster-trust-bundle-discovery", group(api.GroupServiceAccounts)),
		bound("system:node-proxier", user("system:kube-proxy")),
		bound("system:kube-scheduler", user(api.UserScheduler)),
		bound("system:volume-scheduler", user(api.UserScheduler)),
		bound("system:kube-controller-manager", user(api.UserControllers)),
		bound("system:kube-dns", rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "kube-system", Name: "kube-dns"}),
		bound("system:node"),
	}
}
