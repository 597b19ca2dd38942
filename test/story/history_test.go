package story

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"proa/internal/pki"
)

const webDeployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: c, image: "web:1"}]
`

// TestHistory rolls out the wrong image, looks at who did that and at what was
// before, takes it back, and brings back what was deleted.
func TestHistory(t *testing.T) {
	h := newHost(t, false)
	c := newCluster(t, h, "--pretend", "--nodes", "1")
	c.up()
	c.apply(webDeployment)
	c.k("rollout", "status", "deploy/web", "--timeout=60s")
	then := time.Now()
	c.k("set", "image", "deploy/web", "c=web:bad")
	c.k("rollout", "status", "deploy/web", "--timeout=60s")

	says := func(out string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Fatalf("no %q in\n%s", w, out)
			}
		}
	}
	image := func() string {
		return c.k("get", "deploy/web", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
	}
	const raw = "/history/apis/apps/v1/namespaces/default/deployments/web"
	says(c.proaOK("history", "deploy/web"), "changed by proa-admin with kubectl-set: spec\n", "-       - image: web:1\n", "+       - image: web:bad\n",
		"created by proa-admin with kubectl-client-side-apply\n")
	says(c.proaOK("show", "deploy/web", "--at", then.Format(time.RFC3339Nano)), "image: web:1\n", "readyReplicas: 2\n")
	says(c.k("get", "--raw", raw+"?at="+then.UTC().Format(time.RFC3339Nano)), `"image":"web:1"`)
	says(c.k("get", "--raw", raw), `"kind":"History"`, `"name":"kubectl-set"`)

	says(c.proaOK("undo", "deploy/web", "--dry-run"), "+       - image: web:1\n", "dry run")
	if got := image(); got != "web:bad" {
		t.Fatalf("a dry run has changed the image to %s", got)
	}
	says(c.proaOK("undo", "deploy/web"), "deployments.apps/web is as it was at revision ", "-       - image: web:bad\n")
	c.k("rollout", "status", "deploy/web", "--timeout=60s")
	if got := image(); got != "web:1" {
		t.Fatalf("after the undo the image is %s", got)
	}
	c.apply(strings.Replace(webDeployment, "web:1", "web:2", 1)) // what was last applied has come back, too
	if got := image(); got != "web:2" {
		t.Fatalf("applied after the undo: %s", got)
	}

	reader := c.reader(t)
	says(c.proaOK("history", "deploy/web", "--kubeconfig", reader), "with proa-undo")
	for _, x := range []struct{ want, args string }{
		{`cannot update resource "deployments"`, "undo deploy/web"},
		{`cannot get resource "secrets"`, "history secret/s"},
	} {
		out, err := c.proaErr(append(strings.Fields(x.args), "--kubeconfig", reader)...)
		if err == nil {
			t.Fatalf("a reader may %s:\n%s", x.args, out)
		}
		says(out, x.want)
	}

	c.k("delete", "deploy/web")
	c.proaOK("down")
	c.up()
	says(c.proaOK("history", "deploy/web"), "deleted by proa-admin\n")
	says(c.proaOK("undo", "deploy/web"), "deployments.apps/web was deleted and is made again as it was at revision ")
	c.k("rollout", "status", "deploy/web", "--timeout=60s")
	if got := image(); got != "web:2" {
		t.Fatalf("made again with %s", got)
	}
}

// reader makes a service account that may read like everybody, and returns a
// kubeconfig of it.
func (c *cluster) reader(t *testing.T) string {
	t.Helper()
	c.k("create", "serviceaccount", "reader")
	c.k("create", "rolebinding", "reader", "--clusterrole=view", "--serviceaccount=default:reader")
	k, err := pki.ReadKubeconfig(c.p.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "reader")
	text := fmt.Sprintf(`{"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
"clusters": [{"name": "c", "cluster": {"server": %q, "certificate-authority-data": %q}}],
"users": [{"name": "u", "user": {"token": %q}}]}`, k.Server, base64.StdEncoding.EncodeToString(k.CA), c.k("create", "token", "reader"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
