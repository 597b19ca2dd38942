package httpapi

import (
	"context"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds"
	"proa/internal/store"
	"proa/internal/store/memory"
)

// realServer is the API server over the memory engine.
func realServer(t *testing.T) *apiserver.Server {
	t.Helper()
	e := memory.New(store.SystemClock{})
	s, err := apiserver.New(t.Context(), apiserver.Config{Engine: e, Kinds: kinds.All, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); e.Close() })
	return s
}

// kubectl runs the real one, against a server that takes it for an administrator.
type kubectl struct {
	t            *testing.T
	program, dir string
}

func newKubectl(t *testing.T) *kubectl {
	t.Helper()
	program := os.Getenv("KUBECTL")
	if program == "" {
		var err error
		if program, err = exec.LookPath("kubectl"); err != nil {
			t.Skip("needs kubectl: there is none in PATH, and KUBECTL names none")
		}
	}
	rig := serve(t, realServer(t), Config{Authenticate: func(*http.Request) (api.User, bool, error) {
		return api.User{Name: "admin", Groups: []string{api.GroupMasters}}, true, nil
	}})
	k := &kubectl{t: t, program: program, dir: t.TempDir()}
	k.file("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rig.Certificate().Raw})))
	k.file("config", fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: x, cluster: {server: %q, certificate-authority: ca.pem}}]
users: [{name: x, user: {token: t}}]
contexts: [{name: x, context: {cluster: x, user: x}}]
current-context: x
`, rig.URL))
	return k
}

func (k *kubectl) file(name, text string) {
	k.t.Helper()
	if err := os.WriteFile(filepath.Join(k.dir, name), []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
}

func (k *kubectl) command(ctx context.Context, line string) *exec.Cmd {
	args := append([]string{"--kubeconfig", "config", "--cache-dir", "cache"}, strings.Split(line, " ")...)
	c := exec.CommandContext(ctx, k.program, args...)
	c.Dir = k.dir
	return c
}

// run returns what a command prints.
func (k *kubectl) run(line string) string {
	ctx, cancel := context.WithTimeout(k.t.Context(), 30*time.Second)
	defer cancel()
	out, err := k.command(ctx, line).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s[%v]", out, err)
	}
	return string(out)
}

const webYAML = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: c
        image: nginx
        ports: [{containerPort: 80}]
        env: [{name: A, value: "1"}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
`

func TestKubectl(t *testing.T) {
	k := newKubectl(t)
	k.file("web.yaml", webYAML)
	k.file("web2.yaml", strings.Replace(webYAML, "image: nginx", "image: nginx:2", 1))
	k.file("wrong.yaml", strings.Replace(webYAML, "replicas: 2", "replicsa: 2", 1))
	for _, step := range []struct{ line, want string }{
		{"create namespace default", `namespace/default created`},
		{"version", `Server Version: v1\.37\.`},
		{"api-resources", `(?s)configmaps +cm +v1 +true +ConfigMap.*deployments +deploy +apps/v1 +true +Deployment`},
		{"api-versions", `(?s)apps/v1\n.*\nv1\n`},
		{"apply -f web.yaml", `(?s)deployment.apps/web created.*service/web created`},
		{"diff -f web2.yaml", `(?m)^-        image: nginx$\n^\+        image: nginx:2$`},
		{"apply -f web2.yaml", `(?s)deployment.apps/web configured.*service/web unchanged`},
		{"apply -f web2.yaml", `(?s)deployment.apps/web unchanged.*service/web unchanged`},
		{"apply -f wrong.yaml", `unknown field "spec.replicsa"`},
		{"apply --validate=ignore --dry-run=server -f wrong.yaml", `configured \(server dry run\)`},
		{"get deploy", `NAME +READY +UP-TO-DATE +AVAILABLE +AGE\nweb +0/2 +0 +0 +`},
		{"get deploy -o wide", `CONTAINERS +IMAGES +SELECTOR\n.*c +nginx:2 +app=web`},
		{"get deploy web -o yaml", `(?s)apiVersion: apps/v1\nkind: Deployment`},
		{"get deploy -o name", `deployment.apps/web`},
		{"get deploy,svc -A", `(?s)default +deployment.apps/web.*default +service/web`},
		{"get deploy -o custom-columns=N:.metadata.name,R:.spec.replicas", `web +2`},
		{"get deploy -l app=other", `No resources found`},
		{"get deploy -l a===b", `(?s)BadRequest`},
		{"get deploy --field-selector spec.x=y", `"spec.x" is not a known field selector: only "metadata.name", "metadata.namespace"`},
		{"get deploy nobody", `deployments.apps "nobody" not found`},
		{"scale deploy web --replicas 3", `scaled`},
		{"patch deploy web -p {\"spec\":{\"replicas\":4}}", `patched`},
		{"patch deploy web --type json -p [{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":5}]", `patched`},
		{"patch deploy web --type merge -p {\"metadata\":{\"labels\":{\"x\":\"y\"}}}", `patched`},
		{"get deploy web -o jsonpath={.spec.replicas}{.metadata.labels.x}", `^5y$`},
		{"label deploy web z=1", `labeled`},
		{"set image deploy/web c=nginx:3", `image updated`},
		{"create configmap cm --from-literal=a=b", `configmap/cm created`},
		{"create configmap cm --from-literal=a=b", `AlreadyExists|already exists`},
		{"create secret generic s --from-literal=a=b --dry-run=server -o yaml", `a: Yg==`},
		{"explain deployment.spec.strategy", `(?s)KIND: +Deployment.*rollingUpdate\t<RollingUpdateDeployment>`},
		{"explain pods --recursive", `(?s)containers\t<\[\]Container> -required-.*livenessProbe\t<Probe>`},
		{"explain service.spec.ports.targetPort", `IntOrString`},
		{"describe svc web", `Selector: +app=web`},
		{"delete -f web.yaml", `(?s)deployment.apps "web" deleted.*service "web" deleted`},
		{"get all", `No resources found`},
		{"get --raw /readyz?verbose", `readyz check passed`},
		{"get --raw /nothing", `the server could not find the requested resource`},
	} {
		if got := k.run(step.line); !regexp.MustCompile(step.want).MatchString(got) {
			t.Errorf("kubectl %s printed\n%s\nwhich does not match %s", step.line, got, step.want)
		}
	}
}

// TestKubectlExplainsEverything asks for the documentation of every kind.
func TestKubectlExplainsEverything(t *testing.T) {
	if testing.Short() {
		t.Skip("one run of kubectl for each kind")
	}
	k := newKubectl(t)
	for _, r := range builtin() {
		name := r.Resource
		if r.Group != "" {
			name += "." + r.Group
		}
		if r.Hub != nil || r.Group == "metrics.k8s.io" { // the name alone may mean the hub, or pods and nodes themselves
			name = "--api-version=" + r.GroupVersion().String() + " " + r.Resource
		}
		got := k.run("explain --recursive " + name)
		if !strings.Contains(got, "KIND:       "+r.Kind+"\n") || !strings.Contains(got, "  apiVersion\t<string>\n") || !strings.Contains(got, "metadata\t<ObjectMeta>") {
			t.Errorf("kubectl explain %s printed\n%.600s", name, got)
		}
	}
}

func TestKubectlWatches(t *testing.T) {
	k := newKubectl(t)
	k.run("create namespace default")
	k.run("create configmap a --from-literal=a=b")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c := k.command(ctx, "get configmaps -w")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = c.Wait() // it was ended
	}()
	var seen strings.Builder
	until := func(want string) {
		t.Helper()
		buf := make([]byte, 1024)
		for !regexp.MustCompile(want).MatchString(seen.String()) {
			n, err := out.Read(buf)
			seen.Write(buf[:n])
			if err != nil {
				t.Fatalf("%v; kubectl get -w printed\n%s\nwhich does not match %s", err, seen.String(), want)
			}
		}
	}
	until(`NAME +DATA +AGE\na +1 +`)
	k.run("create configmap b --from-literal=a=b --from-literal=c=d")
	until(`\nb +2 +`)
	k.run("delete configmap a")
	until(`\nb +2 .*\na +1 +`)
	if strings.Count(seen.String(), "NAME") != 1 {
		t.Errorf("kubectl get -w printed\n%s", seen.String())
	}
}
