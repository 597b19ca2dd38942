package story

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

const topPods = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy}
spec:
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      containers:
      - {name: work, image: 'proa-test:1', imagePullPolicy: IfNotPresent, command: [/bin/proa-test, burn, 1h], resources: {requests: {cpu: 100m}, limits: {cpu: 200m}}}
      - {name: rest, image: 'proa-test:1', imagePullPolicy: IfNotPresent, command: [/bin/proa-test, sleep, 1h], resources: {requests: {cpu: 10m}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: busy}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: busy}
  maxReplicas: 2
  metrics: [{type: ContainerResource, containerResource: {name: cpu, container: work, target: {type: Utilization, averageUtilization: 100}}}]
`

// What nodes and containers use is told by "kubectl top", and an autoscaler acts
// on it, without any server of metrics.
func TestTop(t *testing.T) {
	h := newHost(t, true)
	c := newCluster(t, h)
	c.up()
	c.load("proa-test-1")
	c.apply(topPods)
	c.k("wait", "--for=condition=Available", "deploy/busy", "--timeout=60s")
	if out := c.k("get", "apiservice", "v1beta1.metrics.k8s.io"); !strings.Contains(out, "Local") || !strings.Contains(out, "True") {
		t.Errorf("the APIService: %s", out)
	}
	c.until(60*time.Second, "busy-", "get", "--raw", "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods")

	node := strings.TrimPrefix(c.k("get", "nodes", "-o", "name"), "node/")
	top := strings.Fields(c.k("top", "node", "--no-headers"))
	if len(top) != 5 || top[0] != node || number(t, top[1], "m") == 0 || number(t, top[3], "Mi") == 0 {
		t.Errorf("top node: %q", top)
	}
	found := map[string]int{}
	for line := range strings.Lines(c.k("top", "pod", "-A", "--containers", "-l", "app=busy", "--no-headers")) {
		f := strings.Fields(line)
		if len(f) != 5 || f[0] != "default" || !strings.HasPrefix(f[1], "busy-") || !strings.HasSuffix(f[4], "Mi") {
			t.Errorf("top pod: %q", line)
			continue
		}
		found[f[2]] = number(t, f[3], "m")
	}
	// The limit is kept over any window; the rest of the machine may be busy, too.
	if work, ok := found["work"]; !ok || work < 20 || work > 250 {
		t.Errorf("top pod: %v", found)
	}
	if rest, ok := found["rest"]; !ok || rest > 10 {
		t.Errorf("top pod: %v", found)
	}
	if out := c.k("get", "--raw", "/api/v1/nodes/"+node+"/proxy/metrics/resource"); !strings.Contains(out, `container="work"`) || !strings.Contains(out, "node_cpu_usage_seconds_total") {
		t.Errorf("what metrics-server would read: %s", out)
	}
	c.until(80*time.Second, "2", "get", "deploy", "busy", "-o", "jsonpath={.spec.replicas}")
}

// number reads a figure of "kubectl top".
func number(t *testing.T, text, unit string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSuffix(text, unit))
	if err != nil {
		t.Errorf("%q is no number with %s", text, unit)
	}
	return n
}
