package story

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// newClients is a cluster for programs that other people wrote.
func newClients(t *testing.T) (*cluster, func(name string) string) {
	t.Helper()
	h := newHost(t, true)
	dir := os.Getenv("PROA_TEST_CLIENTS")
	if dir == "" {
		t.Skip("needs PROA_TEST_CLIENTS: run it by `make test-clients`")
	}
	c := newCluster(t, h)
	c.up()
	c.load("proa-test-1")
	return c, func(name string) string {
		path := filepath.Join(dir, name)
		if !exists(path) {
			t.Fatalf("%s is not there: make test-clients builds it", path)
		}
		return path
	}
}

// TestClients runs programs on the libraries that people write theirs with.
func TestClients(t *testing.T) {
	c, program := newClients(t)
	t.Setenv("SAMPLEAPI_KUBECTL", c.kubectl)
	for _, name := range []string{"clientgo", "manager", "operator", "dynamicop", "sampleapi"} {
		t.Run(name, func(t *testing.T) {
			out, err := c.in(t).run("", program(name))
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			t.Log(out)
		})
	}
}

// operatorManifest runs an operator in the cluster: its webhook is reached by a
// service. $CLIENTS is the folder of the program.
const operatorManifest = `
apiVersion: v1
kind: Namespace
metadata: {name: operator-system}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: operator, namespace: operator-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: operator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: operator, namespace: operator-system}]
---
apiVersion: v1
kind: Service
metadata: {name: webhook, namespace: operator-system}
spec:
  selector: {job-name: operator}
  ports: [{port: 443, targetPort: 9443}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: operator, namespace: operator-system}
spec:
  backoffLimit: 0
  template:
    spec:
      serviceAccountName: operator
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers:
      - name: operator
        image: proa-test:1
        command: [/clients/operator]
        env: [{name: OPERATOR_SERVICE, value: operator-system/webhook}]
        ports: [{containerPort: 9443}]
        volumeMounts: [{name: clients, mountPath: /clients, readOnly: true}]
      volumes: [{name: clients, hostPath: {path: $CLIENTS, type: Directory}}]
`

// TestOperatorInside runs an operator as a pod of the cluster that it serves.
func TestOperatorInside(t *testing.T) {
	c, program := newClients(t)
	c.apply(strings.ReplaceAll(operatorManifest, "$CLIENTS", filepath.Dir(program("operator"))))
	// Succeeded or Failed, and not Pending or Running.
	phase := c.until(85*time.Second, "ed", "get", "pods", "-n", "operator-system", "-o", "jsonpath={.items[*].status.phase}")
	log := c.k("logs", "-n", "operator-system", "job/operator")
	if phase != "Succeeded" || !strings.Contains(log, "ok operator") {
		t.Fatalf("the pod %s\n%s\n%s", phase, log, c.scene())
	}
	t.Log(log)
}

// TestHelm installs a chart, changes it, takes the change back and removes it.
func TestHelm(t *testing.T) {
	c, program := newClients(t)
	path := program("helm")
	helm := func(want string, args ...string) {
		t.Helper()
		out, err := c.run("", path, args...)
		if err != nil || !strings.Contains(out, want) {
			t.Fatalf("helm %s: %v\n%s\nwant %q\n%s", strings.Join(args, " "), err, out, want, c.scene())
		}
	}
	text := func(want string) {
		t.Helper()
		if got := c.k("get", "configmap", "blue-text", "-o", "jsonpath={.data.text}"); got != want {
			t.Errorf("the text is %q, want %q", got, want)
		}
		answers(t, client(c.ns), "GET", "http://"+c.k("get", "service", "blue", "-o", "jsonpath={.spec.clusterIP}")+"/", "", want)
	}
	helm("STATUS: deployed", "install", "blue", "testdata/chart", "--wait", "--timeout", "60s")
	text("first")
	helm("REVISION: 2", "upgrade", "blue", "testdata/chart", "--set", "text=second,replicas=2", "--wait", "--timeout", "60s")
	text("second")
	helm("deployed", "status", "blue")
	helm("superseded", "history", "blue")
	helm("Rollback was a success", "rollback", "blue", "1", "--wait", "--timeout", "60s")
	text("first")
	helm("web-0.1.0", "list")
	helm("ConfigMap", "get", "manifest", "blue")
	helm("blue", "uninstall", "blue", "--wait", "--timeout", "60s")
	if left := c.k("get", "all,ingress,pdb,hpa,configmap", "-l", "app=blue", "-o", "name"); left != "" {
		t.Errorf("after the removal there is still %s", left)
	}
}

// A step is a kubectl command and what it says.
type step struct {
	args  string // split at spaces
	in    string // standard input
	want  string // a regular expression
	fails bool
}

// steps plays s with a kubectl; {pod} is the name of the pod of deployment web.
func (c *cluster) steps(program string, s []step) {
	c.t.Helper()
	for _, x := range s {
		args := x.args
		if strings.Contains(args, "{pod}") {
			pod, err := c.run("", c.kubectl, "get", "pods", "-l", "app=web", "-o", "name", "--field-selector", "status.phase=Running")
			if err != nil {
				c.t.Fatal(err, pod)
			}
			pod, _, _ = strings.Cut(pod, "\n")
			args = strings.ReplaceAll(args, "{pod}", strings.TrimPrefix(pod, "pod/"))
		}
		out, err := c.run(x.in, program, strings.Fields(args)...)
		ok, bad := regexp.MatchString("(?s)"+x.want, out)
		if bad != nil {
			c.t.Fatal(bad)
		}
		if (err != nil) != x.fails || !ok {
			c.t.Errorf("kubectl %s: %v\n%s\nwant %q", args, err, out, x.want)
		}
	}
}

const webManifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: proa-test:1
        args: [serve, -name, web]
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
`

// kubectlSteps is kubectl's whole list of commands, but for those that wait for a
// person (edit has an editor that makes one change).
var kubectlSteps = []step{
	{args: "version", want: `Server Version: v1\.37\.`},
	{args: "cluster-info", want: "Kubernetes control plane"},
	{args: "api-versions", want: "apps/v1\n.*v1\n"},
	{args: "api-resources", want: `ingresses +ing +networking.k8s.io/v1 +true +Ingress`},
	{args: "config current-context", want: "."},
	{args: "explain deployment.spec.strategy", want: "rollingUpdate"},
	{args: "explain pod --recursive", want: "ephemeralContainers"},
	{args: "auth can-i create pods", want: "yes"},
	{args: "auth can-i --list", want: `\*\.\*`},
	{args: "auth can-i get pods --as=nobody", want: "no", fails: true},
	{args: "auth whoami", want: "Username"},
	{args: "create namespace other", want: "namespace/other created"},
	{args: "create configmap cm --from-literal=a=b", want: "configmap/cm created"},
	{args: "create secret generic s --from-literal=a=b", want: "secret/s created"},
	{args: "create serviceaccount sa", want: "created"},
	{args: "create token sa", want: `^[\w-]+\.[\w-]+\.[\w-]+\s*$`},
	{args: "create role r --verb=get --resource=pods", want: "created"},
	{args: "create rolebinding rb --role=r --serviceaccount=default:sa", want: "created"},
	{args: "auth can-i get pods --as=system:serviceaccount:default:sa", want: "yes"},
	{args: "create clusterrole cr --verb=get --resource=nodes", want: "created"},
	{args: "create clusterrolebinding crb --clusterrole=cr --user=ann", want: "created"},
	{args: "create quota q --hard=pods=50", want: "created"},
	{args: "create priorityclass pc --value=10", want: "created"},
	{args: "create poddisruptionbudget pdb --selector=app=web --max-unavailable=1", want: "created"},
	{args: "create ingress i --rule=a.example.com/=web:80", want: "created"},
	{args: "create job j --image=proa-test:1 -- /bin/proa-test exit 0", want: "job.batch/j created"},
	{args: "create cronjob cj --image=proa-test:1 --schedule=nonsense -- /bin/proa-test exit 0", want: "Invalid value", fails: true},
	{args: "wait --for=condition=complete job/j --timeout=60s", want: "condition met"},
	{args: "diff -f -", in: webManifest, want: `\+kind: Deployment`, fails: true},
	{args: "apply -f -", in: webManifest, want: "deployment.apps/web created"},
	{args: "apply -f -", in: webManifest, want: "deployment.apps/web unchanged"},
	{args: "diff -f -", in: webManifest, want: `^$`},
	{args: "apply view-last-applied deployment/web", want: "proa-test:1"},
	{args: "rollout status deployment/web --timeout=60s", want: "successfully rolled out"},
	{args: "wait --for=jsonpath={.status.readyReplicas}=1 deployment/web --timeout=60s", want: "condition met"},
	{args: "expose deployment web --port=80 --target-port=8080", want: "service/web exposed"},
	{args: "get all -o wide", want: `pod/web-.*service/web.*deployment.apps/web.*replicaset.apps/web`},
	{args: "get deployment web -o yaml", want: "uid: "},
	{args: "get pods --sort-by=.metadata.name -A", want: "web-"},
	{args: "get nodes -o custom-columns=N:.metadata.name,V:.status.nodeInfo.kubeletVersion", want: `v1\.37`},
	{args: "get --raw /api/v1/namespaces/default", want: `"kind":"Namespace"`},
	{args: "get pods --chunk-size=1 -A", want: "web-"},
	{args: "describe deployment web", want: `Replicas: +1 desired.*Events:`},
	{args: "describe pod {pod}", want: `Started.*Events:.*Scheduled`},
	{args: "describe node", want: "Allocated resources"},
	{args: "describe service web", want: "Endpoints:"},
	{args: "describe ingress i", want: "a.example.com"},
	{args: "describe pdb pdb", want: "Max unavailable"},
	{args: "events", want: "Scheduled"},
	{args: "logs {pod}", want: "."},
	{args: "logs deployment/web --tail=1 --timestamps", want: `^\d{4}-`},
	{args: "exec {pod} -- /bin/proa-test env HOSTNAME", want: "web-"},
	{args: "exec -i {pod} -- cat", in: "through", want: "through"},
	{args: "cp testdata/chart/Chart.yaml {pod}:/tmp/c.yaml", want: "^$"},
	{args: "exec {pod} -- cat /tmp/c.yaml", want: "appVersion"},
	{args: "label deployment web tier=front", want: "labeled"},
	{args: "get deployment -l tier=front -L tier", want: "front"},
	{args: "annotate deployment web note=yes", want: "annotated"},
	{args: "patch deployment web -p {\"spec\":{\"revisionHistoryLimit\":3}}", want: "patched"},
	{args: "patch deployment web --type=json -p [{\"op\":\"replace\",\"path\":\"/spec/revisionHistoryLimit\",\"value\":4}]", want: "patched"},
	{args: "patch deployment web --subresource=scale --type=merge -p {\"spec\":{\"replicas\":2}}", want: "patched"},
	{args: "scale deployment web --replicas=1 --current-replicas=2", want: "scaled"},
	{args: "autoscale deployment web --max=3 --cpu-percent=80", want: "autoscaled"},
	{args: "get hpa web", want: "Deployment/web"},
	{args: "set env deployment/web A=1", want: "env updated"},
	{args: "set resources deployment web --limits=memory=200Mi", want: "resource requirements updated"},
	{args: "set image deployment/web c=proa-test:1", want: "^"},
	{args: "set serviceaccount deployment web sa", want: "serviceaccount updated"},
	{args: "rollout status deployment/web --timeout=60s", want: "successfully rolled out"},
	{args: "rollout history deployment/web", want: `REVISION`},
	{args: "rollout undo deployment/web", want: "rolled back"},
	{args: "rollout pause deployment/web", want: "paused"},
	{args: "rollout resume deployment/web", want: "resumed"},
	{args: "rollout restart deployment/web", want: "restarted"},
	{args: "rollout status deployment/web --timeout=60s", want: "successfully rolled out"},
	{args: "edit configmap cm", want: "configmap/cm edited"},
	{args: "get configmap cm -o jsonpath={.data.a}", want: "^edited$"},
	{args: "apply --server-side -f - --field-manager=one", in: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {k: v}\n", want: "configmap/ssa serverside-applied"},
	{args: "apply --server-side -f - --field-manager=two", in: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {k: w}\n", want: `conflict with "one"`, fails: true},
	{args: "apply --server-side -f - --field-manager=two --force-conflicts", in: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {k: w}\n", want: "serverside-applied"},
	{args: "replace -f -", in: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {k: x}\n", want: "replaced"},
	{args: "run one --image=proa-test:1 --restart=Never -- serve -name one", want: "pod/one created"},
	{args: "wait --for=condition=Ready pod/one --timeout=60s", want: "condition met"},
	{args: "debug one --image=proa-test:1 -c dbg -- /bin/proa-test sleep 1s", want: "^"},
	{args: "set image pod/one one=proa-test:2 --dry-run=server", want: "image updated \\(server dry run\\)"},
	{args: "get pod one -o jsonpath={.spec.containers[0].image}", want: "^proa-test:1$"},
	{args: "delete pod one --grace-period=1", want: `pod "one" deleted`},
	{args: "taint nodes --all k=v:PreferNoSchedule", want: "tainted"},
	{args: "taint nodes --all k-", want: "untainted"},
	{args: "cordon --selector=kubernetes.io/os=linux", want: "cordoned"},
	{args: "uncordon --selector=kubernetes.io/os=linux", want: "uncordoned"},
	{args: "wait --for=condition=DisruptionAllowed pdb/pdb --timeout=60s", want: "condition met"},
	{args: "drain --selector=kubernetes.io/os=linux --dry-run=server --ignore-daemonsets --force --delete-emptydir-data", want: "drained"},
	{args: "certificate approve absent", want: "not found", fails: true},
	{args: "kustomize testdata/kustomize", want: "name: pre-cm"},
	{args: "apply -k testdata/kustomize", want: "configmap/pre-cm created"},
	{args: "delete -k testdata/kustomize", want: "deleted"},
	{args: "plugin list", want: "unable to find any kubectl plugins", fails: true},
	{args: "options", want: "--as"},
	{args: "completion bash", want: "kubectl"},
	{args: "auth reconcile -f -", in: "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: rec, namespace: default}\nrules: [{apiGroups: [\"\"], resources: [pods], verbs: [get]}]\n", want: "reconciled"},
	{args: "delete all -l app=web", want: "deleted"},
	{args: "delete deployment web --ignore-not-found", want: "^"},
	{args: "delete namespace other --timeout=60s", want: `"other" deleted`},
}

// editor is what "kubectl edit" starts: it writes edited for b.
func editor(t *testing.T) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "editor")
	if err := os.WriteFile(file, []byte("#!/bin/sh\nexec sed -i 's/^  a: b$/  a: edited/' \"$1\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("EDITOR", file)
}

// TestKubectl plays the whole command list of kubectl.
func TestKubectl(t *testing.T) {
	h := newHost(t, true)
	c := newCluster(t, h)
	c.up()
	c.load("proa-test-1")
	editor(t)
	c.steps(h.kubectl, kubectlSteps)
}

// TestKubectlProxy asks the API through "kubectl proxy", on a port and on a socket.
func TestKubectlProxy(t *testing.T) {
	h := newHost(t, true)
	c := newCluster(t, h, "--pretend", "--nodes", "1")
	c.up()
	socket := filepath.Join(c.root, "proxy.sock")
	address := c.proxy("--port=0")
	answers(t, client(h.ns), "GET", "http://"+address+"/api/", "", `"APIVersions"`)
	c.proxy("--unix-socket=" + socket)
	local := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	answers(t, local, "GET", "http://localhost/api/", "", `"APIVersions"`)
}

// proxy starts "kubectl proxy", which ends with the test, and returns where it serves.
func (c *cluster) proxy(flag string) string {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), c.kubectl, "proxy", flag)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.p.Kubeconfig(), "HOME="+c.root+"/home")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = c.start(cmd)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = cmd.Wait() }) // the context has ended it
	line, err := bufio.NewReader(out).ReadString('\n')
	_, address, ok := strings.Cut(strings.TrimSpace(line), "Starting to serve on ")
	if !ok {
		c.t.Fatalf("kubectl proxy said %q: %v", line, err)
	}
	return address
}

// TestOldKubectl plays it with one that is six releases older, and that says
// some things in other words.
func TestOldKubectl(t *testing.T) {
	c, program := newClients(t)
	editor(t)
	began := time.Now()
	c.steps(program("oldkubectl"), kubectlSteps)
	t.Log(time.Since(began))
}
