package quota

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

func read[T any](t *testing.T, text string) *T {
	t.Helper()
	o := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		t.Fatal(err)
	}
	return o
}

func show(l corev1.ResourceList) string {
	var out []string
	for k, v := range l {
		out = append(out, fmt.Sprintf("%s=%s", k, v.String()))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestUsage(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, tt := range []struct {
		gr   schema.GroupResource
		obj  any
		want string
	}{
		{schema.GroupResource{Group: "apps", Resource: "deployments"}, nil, "count/deployments.apps=1"},
		{corev1.Resource("configmaps"), nil, "configmaps=1 count/configmaps=1"},
		{corev1.Resource("endpoints"), nil, "count/endpoints=1"},
		{Pods, read[corev1.Pod](t, `spec: {containers: [{name: c, resources: {requests: {cpu: 100m, x.io/y: 1, hugepages-2Mi: 4Mi}, limits: {memory: 1Gi}}}, {name: d, resources: {requests: {cpu: 50m}}}]}`),
			"count/pods=1 cpu=150m hugepages-2Mi=4Mi limits.memory=1Gi pods=1 requests.cpu=150m requests.hugepages-2Mi=4Mi requests.x.io/y=1"},
		{Pods, read[corev1.Pod](t, `{spec: {containers: [{name: c, resources: {requests: {cpu: 1}}}]}, status: {phase: Succeeded}}`), "count/pods=1"},
		{Services, read[corev1.Service](t, `spec: {type: ClusterIP, ports: [{port: 1}]}`), "count/services=1 services.nodeports=0 services=1"},
		{Services, read[corev1.Service](t, `spec: {type: NodePort, ports: [{port: 1}, {port: 2}]}`), "count/services=1 services.nodeports=2 services=1"},
		{Services, read[corev1.Service](t, `spec: {type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 1}, {port: 2, nodePort: 30000}]}`),
			"count/services=1 services.loadbalancers=1 services.nodeports=1 services=1"},
		{Claims, read[corev1.PersistentVolumeClaim](t, `spec: {storageClassName: fast, resources: {requests: {storage: 1Gi}}}`),
			"count/persistentvolumeclaims=1 fast.storageclass.storage.k8s.io/persistentvolumeclaims=1 fast.storageclass.storage.k8s.io/requests.storage=1Gi persistentvolumeclaims=1 requests.storage=1Gi"},
	} {
		if got := show(Usage(tt.gr, tt.obj, now)); got != tt.want {
			t.Errorf("%v:\n got %s\nwant %s", tt.gr, got, tt.want)
		}
		for name := range Usage(tt.gr, tt.obj, now) {
			if KindOf(name) != tt.gr {
				t.Errorf("%s is used by %v, not by %v", name, KindOf(name), tt.gr)
			}
		}
	}
	gone := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{Time: now.Add(-time.Minute)}, DeletionGracePeriodSeconds: new(int64(30))}}
	if got := show(Usage(Pods, gone, now)); got != "count/pods=1" {
		t.Errorf("a pod that should be gone uses %s", got)
	}
}

func TestCovers(t *testing.T) {
	for i, tt := range []struct {
		spec, pod string
		want      bool
	}{
		{`{}`, `{}`, true},
		{`{scopes: [BestEffort]}`, `{containers: [{name: c}]}`, true},
		{`{scopes: [NotBestEffort]}`, `{containers: [{name: c}]}`, false},
		{`{scopes: [BestEffort, Terminating]}`, `{containers: [{name: c}]}`, false},
		{`{scopes: [BestEffort, Terminating]}`, `{activeDeadlineSeconds: 1, containers: [{name: c}]}`, true},
		{`{scopes: [PriorityClass]}`, `{}`, false},
		{`{scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In, values: [a, b]}]}}`, `{priorityClassName: b}`, true},
		{`{scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: NotIn, values: [a, b]}]}}`, `{priorityClassName: b}`, false},
		{`{scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: DoesNotExist}]}}`, `{}`, true},
		{`{scopes: [CrossNamespacePodAffinity]}`, `{affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: k}]}}}`, false},
		{`{scopes: [CrossNamespacePodAffinity]}`, `{affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: k, namespaceSelector: {}}}]}}}`, true},
	} {
		q := &corev1.ResourceQuota{Spec: *read[corev1.ResourceQuotaSpec](t, tt.spec)}
		if got := Covers(q, &corev1.Pod{Spec: *read[corev1.PodSpec](t, tt.pod)}); got != tt.want {
			t.Errorf("%d: %v", i, got)
		}
	}
	if q := (&corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}}}); Covers(q, &corev1.Service{}) {
		t.Error("a service is in a scope of pods")
	}
}

func TestUnsaid(t *testing.T) {
	for i, tt := range []struct{ hard, pod, want string }{
		{`{pods: 1}`, `{containers: [{name: c}]}`, ""},
		{`{cpu: 1, limits.memory: 1}`, `{containers: [{name: b}, {name: a}], initContainers: [{name: i, resources: {requests: {cpu: 1}}}]}`, "cpu for: a,b; limits.memory for: a,b,i"},
		{`{requests.cpu: 1}`, `{containers: [{name: c, resources: {requests: {cpu: 1}}}]}`, ""},
		{`{requests.cpu: 1}`, `{resources: {requests: {cpu: 1}}, containers: [{name: c}]}`, ""},
	} {
		q := &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Hard: *read[corev1.ResourceList](t, tt.hard)}}
		if got := Unsaid(q, &corev1.Pod{Spec: *read[corev1.PodSpec](t, tt.pod)}); got != tt.want {
			t.Errorf("%d: %q, want %q", i, got, tt.want)
		}
	}
}
