package flowcontrol

import (
	"strconv"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
)

// Defaults returns the priority levels and flow schemas that every cluster has
// (kubernetes.io/docs/concepts/cluster-administration/flow-control, "Defaults"),
// new ones on every call: the mandatory ones and the suggested ones.
func Defaults() []api.Object {
	var out []api.Object
	for _, name := range []string{"exempt", "catch-all"} {
		out = append(out, mandatoryLevel(name), mandatorySchema(name))
	}
	for _, l := range suggestedLevels() {
		out = append(out, l)
	}
	for _, s := range suggestedSchemas() {
		out = append(out, s)
	}
	return out
}

// mandatoryLevel is the level of this name that no cluster can be without, or nil.
func mandatoryLevel(name string) *flowcontrolv1.PriorityLevelConfiguration {
	switch name {
	case flowcontrolv1.PriorityLevelConfigurationNameExempt:
		return level(name, flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementExempt,
			Exempt: &flowcontrolv1.ExemptPriorityLevelConfiguration{NominalConcurrencyShares: new(int32), LendablePercent: new(int32)}})
	case flowcontrolv1.PriorityLevelConfigurationNameCatchAll:
		return limited(name, 5, 0, nil)
	}
	return nil
}

// mandatorySchema is the schema of this name that no cluster can be without, or nil.
func mandatorySchema(name string) *flowcontrolv1.FlowSchema {
	switch name {
	case flowcontrolv1.FlowSchemaNameExempt:
		return schema(name, "exempt", 1, "", anything(groups(api.GroupMasters)))
	case flowcontrolv1.FlowSchemaNameCatchAll:
		return schema(name, "catch-all", flowcontrolv1.FlowSchemaMaxMatchingPrecedence, flowcontrolv1.FlowDistinguisherMethodByUserType, anything(everybody()))
	}
	return nil
}

func suggestedLevels() []*flowcontrolv1.PriorityLevelConfiguration {
	queues := func(n, hand int32) *flowcontrolv1.QueuingConfiguration {
		return &flowcontrolv1.QueuingConfiguration{Queues: n, HandSize: hand, QueueLengthLimit: 50}
	}
	return []*flowcontrolv1.PriorityLevelConfiguration{
		limited("system", 30, 33, queues(64, 6)),
		limited("node-high", 40, 25, queues(64, 6)),
		limited("leader-election", 10, 0, queues(16, 4)),
		limited("workload-high", 40, 50, queues(128, 6)),
		limited("workload-low", 100, 90, queues(128, 6)),
		limited("global-default", 20, 50, queues(128, 6)),
	}
}

func suggestedSchemas() []*flowcontrolv1.FlowSchema {
	const byUser, byNamespace = flowcontrolv1.FlowDistinguisherMethodByUserType, flowcontrolv1.FlowDistinguisherMethodByNamespaceType
	system := []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindServiceAccount,
		ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: metav1.NamespaceSystem, Name: flowcontrolv1.NameAll}}}
	return []*flowcontrolv1.FlowSchema{
		schema("probes", "exempt", 2, "", flowcontrolv1.PolicyRulesWithSubjects{Subjects: everybody(),
			NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/healthz", "/readyz", "/livez"}}}}),
		schema("system-leader-election", "leader-election", 100, byUser, flowcontrolv1.PolicyRulesWithSubjects{
			Subjects:      append(users(api.UserControllers, api.UserScheduler), system...),
			ResourceRules: []flowcontrolv1.ResourcePolicyRule{resources("get create update", "coordination.k8s.io", "leases", false)}}),
		schema("system-node-high", "node-high", 400, byUser, flowcontrolv1.PolicyRulesWithSubjects{
			Subjects: groups(api.GroupNodes),
			ResourceRules: []flowcontrolv1.ResourcePolicyRule{
				resources("*", "", "nodes nodes/status", true), resources("*", "coordination.k8s.io", "leases", false)}}),
		schema("system-nodes", "system", 500, byUser, anything(groups(api.GroupNodes))),
		schema("kube-controller-manager", "workload-high", 800, byNamespace, anything(users(api.UserControllers))),
		schema("kube-scheduler", "workload-high", 800, byNamespace, anything(users(api.UserScheduler))),
		schema("kube-system-service-accounts", "workload-high", 900, byNamespace, anything(system)),
		schema("service-accounts", "workload-low", 9000, byUser, anything(groups(api.GroupServiceAccounts))),
		schema("global-default", "global-default", 9900, byUser, anything(everybody())),
	}
}

func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Annotations: map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: "true"}}
}

func level(name string, s flowcontrolv1.PriorityLevelConfigurationSpec) *flowcontrolv1.PriorityLevelConfiguration {
	return &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: meta(name), Spec: s}
}

// limited is a level with shares, a part in percent that others may borrow, and queues; without them it rejects.
func limited(name string, shares, lend int32, q *flowcontrolv1.QueuingConfiguration) *flowcontrolv1.PriorityLevelConfiguration {
	response := flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject, Queuing: q}
	if q != nil {
		response.Type = flowcontrolv1.LimitResponseTypeQueue
	}
	return level(name, flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited,
		Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: &shares, LendablePercent: &lend, LimitResponse: response}})
}

func schema(name, level string, precedence int32, by flowcontrolv1.FlowDistinguisherMethodType, rules ...flowcontrolv1.PolicyRulesWithSubjects) *flowcontrolv1.FlowSchema {
	s := &flowcontrolv1.FlowSchema{ObjectMeta: meta(name), Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level},
		MatchingPrecedence:         precedence, Rules: rules}}
	if by != "" {
		s.Spec.DistinguisherMethod = &flowcontrolv1.FlowDistinguisherMethod{Type: by}
	}
	return s
}

// anything are the rules that match every request of the subjects.
func anything(who []flowcontrolv1.Subject) flowcontrolv1.PolicyRulesWithSubjects {
	return flowcontrolv1.PolicyRulesWithSubjects{Subjects: who,
		ResourceRules:    []flowcontrolv1.ResourcePolicyRule{resources("*", "*", "*", true)},
		NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}}}
}

// resources is a rule for resources of one group in every namespace, and outside of them if cluster is true.
func resources(verbs, group, names string, cluster bool) flowcontrolv1.ResourcePolicyRule {
	return flowcontrolv1.ResourcePolicyRule{Verbs: strings.Fields(verbs), APIGroups: []string{group}, Resources: strings.Fields(names),
		Namespaces: []string{flowcontrolv1.NamespaceEvery}, ClusterScope: cluster}
}

func everybody() []flowcontrolv1.Subject {
	return groups(api.GroupUnauthenticated, api.GroupAuthenticated)
}

func groups(names ...string) (out []flowcontrolv1.Subject) {
	for _, n := range names {
		out = append(out, flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: n}})
	}
	return out
}

func users(names ...string) (out []flowcontrolv1.Subject) {
	for _, n := range names {
		out = append(out, flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: n}})
	}
	return out
}

// RenewSchema changes have, a schema as the cluster has it, where the rules of
// the annotation apf.kubernetes.io/autoupdate-spec (see its documentation in the
// API) let the system's own want rule.
func RenewSchema(have, want *flowcontrolv1.FlowSchema) {
	if renews(&have.ObjectMeta, mandatorySchema(want.Name) != nil) {
		want.Spec.DeepCopyInto(&have.Spec)
	}
}

// RenewLevel is RenewSchema for priority levels. What a user set in the spec.exempt
// of the level "exempt" stays.
func RenewLevel(have, want *flowcontrolv1.PriorityLevelConfiguration) {
	if !renews(&have.ObjectMeta, mandatoryLevel(want.Name) != nil) {
		return
	}
	mine := have.Spec.Exempt
	want.Spec.DeepCopyInto(&have.Spec)
	if mine != nil && have.Spec.Exempt != nil {
		have.Spec.Exempt = mine
	}
}

// renews says whether the system's spec replaces an object's, and notes that in its annotation.
func renews(m *metav1.ObjectMeta, mandatory bool) bool {
	asked, err := strconv.ParseBool(m.Annotations[flowcontrolv1.AutoUpdateAnnotationKey])
	yes := mandatory || err == nil && asked || err != nil && m.Generation == 1
	if err != nil || yes != asked {
		if m.Annotations == nil {
			m.Annotations = map[string]string{}
		}
		m.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] = strconv.FormatBool(yes)
	}
	return yes
}
