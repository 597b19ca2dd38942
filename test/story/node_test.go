package story

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

const nodePods = `
apiVersion: v1
kind: Pod
metadata: {name: proxy-web}
spec:
  terminationGracePeriodSeconds: 300
  containers:
  - name: c
    image: proa-test:1
    imagePullPolicy: IfNotPresent
    command: [/bin/proa-test, serve, -name, web, -drain, 300s]
    ports: [{name: http, containerPort: 8080, hostPort: 18080}]
    readinessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: cat}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: 'proa-test:1', imagePullPolicy: IfNotPresent, command: [/bin/cat], stdin: true, stdinOnce: true}
---
apiVersion: v1
kind: Pod
metadata: {name: sysctl}
spec:
  securityContext: {sysctls: [{name: kernel.msgmax, value: "65536"}]}
  containers: [{name: c, image: 'proa-test:1', imagePullPolicy: IfNotPresent}]
`

// What reaches a pod from outside, by way of its node, and what a node says of
// itself: host ports, the proxies, attach, debug.
func TestNodeAndItsPods(t *testing.T) {
	h := newHost(t, true)
	c := newCluster(t, h)
	c.up()
	c.load("proa-test-1")
	c.apply(nodePods)
	c.k("wait", "--for=condition=Ready", "pod/proxy-web", "pod/cat", "--timeout=30s")
	node := strings.TrimPrefix(c.k("get", "nodes", "-o", "name"), "node/")

	t.Run("conditions", func(t *testing.T) {
		c := c.in(t)
		got := c.k("get", "node", node, "-o", `jsonpath={range .status.conditions[*]}{.type}={.status} {.reason};{end}`)
		for _, want := range []string{"MemoryPressure=False KubeletHasSufficientMemory;", "DiskPressure=False KubeletHasNoDiskPressure;",
			"PIDPressure=False KubeletHasSufficientPID;", "Ready=True KubeletReady;"} {
			if !strings.Contains(got, want) {
				t.Errorf("conditions: %s, want %s", got, want)
			}
		}
	})
	t.Run("sysctl", func(t *testing.T) {
		c.in(t).until(10*time.Second, "Failed SysctlForbidden Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted",
			"get", "pod", "sysctl", "-o", "jsonpath={.status.phase} {.status.reason} {.status.message}")
	})
	t.Run("proxies", func(t *testing.T) {
		c := c.in(t)
		for path, want := range map[string]string{
			"/api/v1/namespaces/default/pods/proxy-web/proxy/healthz":           "ok",
			"/api/v1/namespaces/default/pods/proxy-web:http/proxy/":             `"name":"web"`,
			"/api/v1/namespaces/default/pods/http:proxy-web:8080/proxy/healthz": "ok",
			"/api/v1/nodes/" + node + "/proxy/healthz":                          "ok",
			"/api/v1/nodes/" + node + "/proxy/metrics":                          `kubelet_node_name{node="` + node + `"} 1`,
			"/api/v1/nodes/" + node + "/proxy/pods":                             `"name":"proxy-web"`,
		} {
			if got := c.k("get", "--raw", path); !strings.Contains(got, want) {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
	})
	t.Run("attach", func(t *testing.T) {
		c := c.in(t)
		out, err := c.run("through and through\n", c.host.kubectl, "attach", "-i", "cat")
		if err != nil || !strings.Contains(out, "through and through") {
			t.Errorf("kubectl attach: %v\n%s", err, out)
		}
		c.until(10*time.Second, "Succeeded", "get", "pod", "cat", "-o", "jsonpath={.status.phase}")
	})
	t.Run("debug", func(t *testing.T) {
		c := c.in(t)
		// The command ends at once, perhaps before kubectl is attached to it: then
		// what it said is in its log, and kubectl must not wait for more.
		if out, err := c.run("", c.host.kubectl, "debug", "-i", "proxy-web", "--image=proa-test:1", "--image-pull-policy=IfNotPresent", "-c", "brief", "--target=c",
			"--", "/bin/cat", "/proc/1/cmdline"); err != nil {
			t.Errorf("kubectl debug: %v\n%s", err, out)
		}
		c.until(10*time.Second, "/bin/proa-test\x00serve", "logs", "proxy-web", "-c", "brief")
		c.until(10*time.Second, "Completed", "get", "pod", "proxy-web", "-o", "jsonpath={.status.ephemeralContainerStatuses[0].state.terminated.reason}")
		c.k("wait", "--for=condition=Ready", "pod/proxy-web", "--timeout=1s")
	})
	t.Run("host port, and the end by force", func(t *testing.T) {
		c := c.in(t)
		resp, err := client(h.peer).Get("http://192.0.2.2:18080/")
		if err != nil {
			t.Fatalf("from another machine: %v", err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), `"name":"web"`) {
			t.Errorf("from another machine: %v %s", err, body)
		}
		conn, err := h.ns.Dial("tcp", "192.0.2.2:18080", 5*time.Second)
		if err != nil {
			t.Errorf("from the node itself: %v", err)
		} else {
			conn.Close()
		}
		c.k("delete", "pod", "proxy-web", "--force", "--grace-period=0")
		var last net.Conn
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			if last, err = h.peer.Dial("tcp", "192.0.2.2:18080", time.Second); err != nil {
				break
			}
			last.Close()
			if time.Now().After(end) {
				t.Fatal("the port is open 10 s after its pod was deleted by force")
			}
		}
	})
}
