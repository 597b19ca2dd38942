package story

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"proa/internal/pki"
)

const goodDeployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: good}
spec:
  replicas: 0
  selector: {matchLabels: {app: good}}
  template:
    metadata: {labels: {app: good}}
    spec:
      containers: [{name: c, image: "proa-test:1"}]
`

const goodService = `
apiVersion: v1
kind: Service
metadata: {name: good}
spec:
  selector: {app: good}
  ports: [{port: 80}]
`

// pod is a manifest of one container.
func pod(name, container string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers: [%s]\n", name, container)
}

// What a person gets wrong, and what kubectl tells them.
func TestBadInput(t *testing.T) {
	h := newHost(t, true)
	c := newCluster(t, h)
	c.up()
	c.load("proa-test-1")
	c.apply(goodDeployment)
	c.apply(goodService)
	change := func(manifest, old, new string) string {
		t.Helper()
		if !strings.Contains(manifest, old) {
			t.Fatalf("no %q in %s", old, manifest)
		}
		return strings.ReplaceAll(manifest, old, new)
	}

	for _, x := range []struct{ name, manifest, want string }{
		{"unknown field", change(goodDeployment, "replicas: 0", "replica: 0"),
			`strict decoding error: unknown field "spec.replica"`},
		{"misspelt field", change(change(goodDeployment, "name: good", "name: new"), "image:", "imgae:"),
			`Error from server (BadRequest): error when creating "STDIN": Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: unknown field "spec.template.spec.containers[0].imgae"`},
		{"wrong type", change(change(goodDeployment, "name: good", "name: new"), "replicas: 0", `replicas: "three"`),
			`Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`},
		{"no image", pod("new", "{name: c}"),
			`The Pod "new" is invalid: spec.containers[0].image: Required value`},
		{"no kind", "apiVersion: v1\nmetadata: {name: x}\n", `error validating data: kind not set`},
		{"invalid name", change(goodDeployment, "name: good", "name: Not_Good"),
			`The Deployment "Not_Good" is invalid: metadata.name: Invalid value: "Not_Good": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`},
		{"selector that matches nothing", change(change(goodDeployment, "name: good", "name: new"), "labels: {app: good}", "labels: {app: other}"),
			"The Deployment \"new\" is invalid: spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`"},
		{"invalid selector", change(change(goodDeployment, "name: good", "name: new"), "{matchLabels: {app: good}}", "{matchExpressions: [{key: app, operator: Near, values: [x]}]}"),
			`spec.selector.matchExpressions[0].operator: Invalid value: "Near": not a valid selector operator`},
		{"immutable selector", change(goodDeployment, "app: good", "app: better"),
			`The Deployment "good" is invalid: spec.selector: Invalid value: {"matchLabels":{"app":"better"}}: field is immutable`},
		{"immutable cluster address", change(goodService, "spec:", "spec:\n  clusterIP: 10.43.0.77"),
			`spec.clusterIPs[0]: Invalid value: ["10.43.0.77"]: may not change once set`},
		{"missing namespace", change(goodDeployment, "name: good", "name: good, namespace: nowhere"),
			`Error from server (NotFound): error when creating "STDIN": namespaces "nowhere" not found`},
		{"port out of range", change(change(goodService, "name: good", "name: new"), "port: 80", "port: 99999"),
			`* spec.ports[0].port: Invalid value: 99999: must be between 1 and 65535, inclusive`},
		{"more asked than limited", pod("new", `{name: c, image: "proa-test:1", resources: {requests: {memory: 2Gi}, limits: {memory: 1Gi}}}`),
			`The Pod "new" is invalid: spec.containers[0].resources.requests: Invalid value: "2Gi": must be less than or equal to memory limit of 1Gi`},
		{"volume that is not there", pod("new", `{name: c, image: "proa-test:1", volumeMounts: [{name: data, mountPath: /data}]}`),
			`The Pod "new" is invalid: spec.containers[0].volumeMounts[0].name: Not found: "data"`},
	} {
		t.Run(x.name, func(t *testing.T) { c.in(t).refused(x.manifest, x.want) })
	}
	t.Run("unknown kind", func(t *testing.T) {
		c.in(t).refused("apiVersion: v1\nkind: Pood\nmetadata: {name: x}\n",
			`resource mapping not found for name: "x" namespace: "" from "STDIN": no matches for kind "Pood" in version "v1"`, "apply", "--validate=false", "-f", "-")
	})
	t.Run("label selector of a list", func(t *testing.T) {
		c.in(t).refused("", `unable to parse requirement`, "get", "pods", "-l", "a in (b")
		c.in(t).refused("", `field label not supported: spec.colour`, "get", "pods", "--field-selector", "spec.colour=red")
	})
	t.Run("not there", func(t *testing.T) {
		c.in(t).refused("", `Error from server (NotFound): pods "nobody" not found`, "get", "pod", "nobody")
		c.in(t).refused("", `error: the server doesn't have a resource type "pood"`, "get", "pood")
	})
	t.Run("containers", func(t *testing.T) { badContainers(t, c.in(t)) })
	t.Run("clients", func(t *testing.T) { badClients(t, c.in(t)) })
	t.Run("access", func(t *testing.T) { podAccess(t, c.in(t)) })
}

// badContainers are pods that cannot run, each with its reason where people look.
func badContainers(t *testing.T, c *cluster) {
	for _, x := range []struct{ manifest string }{
		{pod("no-image", `{name: c, image: "proa-test:missing"}`)},
		{pod("bad-name", `{name: c, image: "Not:A:Name"}`)},
		{pod("no-command", `{name: c, image: "proa-test:1", command: [/bin/nothing]}`)},
		{pod("fails", `{name: c, image: "proa-test:1", command: [/bin/proa-test, exit, "3"]}`)},
		{pod("too-big", `{name: c, image: "proa-test:1", resources: {requests: {memory: 100Ti}}}`)},
		{pod("no-config", `{name: c, image: "proa-test:1", command: [/bin/proa-test, sleep, 1000s], envFrom: [{configMapRef: {name: nowhere}}]}`)},
		{pod("never-pull", `{name: c, image: "absent:1", imagePullPolicy: Never}`)},
	} {
		c.apply(x.manifest)
	}
	waiting := "jsonpath={.status.containerStatuses[0].state.waiting.reason}: {.status.containerStatuses[0].state.waiting.message}"
	events := func(name string, wants ...string) {
		t.Helper()
		for _, w := range wants {
			c.until(30*time.Second, w, "get", "events", "--field-selector", "involvedObject.name="+name, "-o", `jsonpath={range .items[*]}{.type} {.reason} {.message}{"\n"}{end}`)
		}
	}
	c.until(40*time.Second, `ImagePullBackOff: Back-off pulling image "proa-test:missing"`, "get", "pod", "no-image", "-o", waiting)
	events("no-image", `Normal Pulling Pulling image "proa-test:missing"`, `Warning Failed Failed to pull image "proa-test:missing"`, "Warning Failed Error: ErrImagePull",
		`Normal BackOff Back-off pulling image "proa-test:missing"`, "Warning Failed Error: ImagePullBackOff")
	c.until(20*time.Second, "InvalidImageName: ", "get", "pod", "bad-name", "-o", waiting)
	events("bad-name", `Warning InspectFailed Failed to apply default image tag "Not:A:Name": couldn't parse image name "Not:A:Name": invalid reference format`, "Warning Failed Error: InvalidImageName")
	c.until(30*time.Second, "no such file or directory", "get", "pod", "no-command", "-o", "jsonpath={.status}")
	events("no-command", "Warning Failed Error: ", `exec: "/bin/nothing": stat /bin/nothing: no such file or directory`)
	c.until(30*time.Second, "CrashLoopBackOff: back-off 10s restarting failed container=c pod=fails_default", "get", "pod", "fails", "-o", waiting)
	c.until(5*time.Second, "3 Error", "get", "pod", "fails", "-o", "jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode} {.status.containerStatuses[0].lastState.terminated.reason}")
	events("fails", "Warning BackOff Back-off restarting failed container c in pod fails_default")
	events("too-big", "Warning FailedScheduling 0/1 nodes are available: 1 Insufficient memory. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
	c.until(5*time.Second, "Unschedulable: 0/1 nodes are available: 1 Insufficient memory. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.", "get", "pod", "too-big", "-o", "jsonpath={.status.conditions[0].reason}: {.status.conditions[0].message}")
	c.until(20*time.Second, `CreateContainerConfigError: configmap "nowhere" not found`, "get", "pod", "no-config", "-o", waiting)
	events("no-config", `Warning Failed Error: configmap "nowhere" not found`)
	c.until(20*time.Second, "ErrImageNeverPull: ", "get", "pod", "never-pull", "-o", waiting)

	// What was missing comes, and the pod runs.
	c.k("create", "configmap", "nowhere")
	c.until(30*time.Second, "Running", "get", "pod", "no-config")
	c.k("delete", "pods", "--all", "--timeout=40s")
}

// badClients have no business with the API.
func badClients(t *testing.T, c *cluster) {
	k, err := pki.ReadKubeconfig(c.p.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	// A certificate that another authority signed for the same name.
	other, err := pki.OpenCA(t.TempDir(), "ca", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := other.Keep(t.TempDir(), "admin", pki.Leaf{User: "proa-admin", Groups: []string{"system:masters"}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	forged, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	token := func(claims string) string {
		enc := base64.RawURLEncoding.EncodeToString
		return "Bearer " + enc([]byte(`{"alg":"none"}`)) + "." + enc([]byte(claims)) + "."
	}
	for _, x := range []struct {
		name  string
		certs []tls.Certificate
		auth  string
		code  int
	}{
		{"nobody", nil, "", 401},
		{"a forged certificate", []tls.Certificate{forged}, "", 401},
		{"an unknown token", nil, "Bearer abc", 401},
		{"an unsigned token", nil, token(`{"iss":"https://kubernetes.default.svc.cluster.local","sub":"system:serviceaccount:kube-system:default"}`), 401},
		{"a password", nil, "Basic YWRtaW46YWRtaW4=", 401},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, k.Server+"/api/v1/namespaces/default/pods", nil)
		if err != nil {
			t.Fatal(err)
		}
		if x.auth != "" {
			req.Header.Set("Authorization", x.auth)
		}
		resp, err := c.tlsClient(k.CA, x.certs...).Do(req)
		if err != nil {
			t.Errorf("%s: %v", x.name, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != x.code || !strings.Contains(string(body), `"reason":"Unauthorized"`) {
			t.Errorf("%s: %d %s %v, want %d", x.name, resp.StatusCode, body, err, x.code)
		}
	}
	// Nor is there a way without TLS.
	code, body, err := get(t.Context(), client(c.ns), "http://127.0.0.1:6443/api/v1/namespaces")
	if err == nil && code/100 == 2 {
		t.Errorf("plain HTTP: %d %s", code, body)
	}
}

// podAccess is what a pod may do with its service account: nothing, until a
// role says so, and no longer than that.
func podAccess(t *testing.T, c *cluster) {
	c.apply(pod("asks", `{name: c, image: "proa-test:1", command: [/bin/proa-test, sleep, 1000s]}`))
	c.k("wait", "--for=condition=Ready", "pod/asks", "--timeout=30s")
	ask := func(url string) (string, error) {
		return c.run("", c.host.kubectl, "exec", "asks", "--", "/bin/proa-test", "api", url)
	}
	until := func(want string, ok bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			out, err := ask("/api/v1/namespaces/default/configmaps")
			if strings.Contains(out, want) && (err == nil) == ok {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("a pod asks for configmaps: %v %s\nwant %q", err, out, want)
			}
		}
	}
	if out, err := ask("/version"); err != nil || !strings.Contains(out, "+proa") {
		t.Fatalf("a pod asks for /version: %v %s", err, out)
	}
	const denied = `configmaps is forbidden: User \"system:serviceaccount:default:default\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\"`
	until(denied, false)
	c.k("create", "role", "reader", "--verb=list", "--resource=configmaps")
	c.k("create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:default")
	until("kube-root-ca.crt", true)
	c.k("delete", "rolebinding", "reader")
	until(denied, false)

	// A token that was taken out of the pod ends with it.
	tok := c.k("exec", "asks", "--", "/bin/proa-test", "read", "/var/run/secrets/kubernetes.io/serviceaccount/token")
	whoami := func() (string, error) {
		return c.run("", c.host.kubectl, "--kubeconfig=/dev/null", "--server=https://127.0.0.1:6443", "--insecure-skip-tls-verify", "--token="+tok, "auth", "whoami")
	}
	if out, err := whoami(); err != nil || !strings.Contains(out, "system:serviceaccount:default:default") {
		t.Errorf("kubectl auth whoami with the pod's token: %v %s", err, out)
	}
	c.k("delete", "pod", "asks", "--timeout=20s")
	if out, err := whoami(); err == nil || !strings.Contains(out, "Unauthorized") && !strings.Contains(out, "must be logged in") {
		t.Errorf("kubectl auth whoami with the token of a pod that is gone: %v %s", err, out)
	}
}

// Ports that are taken, and a caller who is not root.
func TestBadStart(t *testing.T) {
	h := newHost(t, true)
	c := newCluster(t, h)
	var l net.Listener
	err := h.ns.Do(func() (err error) { l, err = net.Listen("tcp", ":6443"); return err })
	if err != nil {
		t.Fatal(err)
	}
	me, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("port 6443, for the API, is taken by %s (process %d): stop what uses it, or give other ports with --ports",
		strings.TrimSpace(string(me)), os.Getpid())
	for _, args := range [][]string{{"up"}, {"up", "-d"}} {
		out, err := c.proaErr(args...)
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("proa %s with a taken port: %v %s\nwant %q", args, err, out, want)
		}
	}
	l.Close()
	c.up() // nothing of that is in the way

	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} { // others may enter
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	nobody := func(args ...string) (string, error) {
		cmd := exec.Command(c.proa, args...)
		cmd.Env = append(os.Environ(), "PROA_ROOT="+c.root, "HOME=/nonexistent")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.Dir = "/"
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := c.host.ns.Do(cmd.Start); err != nil {
			return "", err
		}
		err := cmd.Wait()
		return out.String(), err
	}
	for _, x := range []struct {
		args []string
		want string
	}{
		{[]string{"up"}, "starting containers needs root: run 'sudo proa up', or try 'proa up --pretend' without"},
		{[]string{"status"}, "permission denied: run as root"},
		{[]string{"kubectl", "get", "pods"}, "is for root: run as root, or set KUBECONFIG to a copy of your own"},
		{[]string{"down"}, "run as root"},
		{[]string{"clean", "--yes"}, "run as root"},
	} {
		out, err := nobody(x.args...)
		if os.IsPermission(err) {
			t.Skipf("the program is where only root may go: %v", err)
		}
		if err == nil || !strings.Contains(out, x.want) {
			t.Errorf("proa %s by nobody: %v %s\nwant %q", strings.Join(x.args, " "), err, out, x.want)
		}
	}
	if c.pid() == 0 {
		t.Error("proa was ended by nobody")
	}
}
