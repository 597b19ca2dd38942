package story

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"proa/internal/api"
	"proa/internal/kinds"
)

// TestEveryKind takes an object of every kind through its life with kubectl, and
// has every resource explained.
func TestEveryKind(t *testing.T) {
	h := newHost(t, true)
	c := newCluster(t, h, "--pretend", "--nodes", "1")
	c.up()
	c.k("create", "namespace", "every")
	c.until(20*time.Second, "default", "get", "serviceaccount", "-n", "every", "-o", "name")
	names := strings.Fields(c.k("api-resources", "-o", "name", "--no-headers"))
	listed := map[string]bool{}
	for _, n := range names {
		listed[n] = true
	}
	dir := t.TempDir()
	t.Run("kinds", func(t *testing.T) { // returns when all have ended
		for _, d := range kinds.All {
			r := d.Def()
			name := r.GroupResource().String()
			if !listed[name] {
				t.Errorf("kubectl api-resources does not list %s", name)
			}
			t.Run(name+"/"+r.Version, func(t *testing.T) {
				t.Parallel()
				c.in(t).life(r, dir)
			})
		}
	})
}

// life has a resource explained, and its object made, shown, changed, applied
// and removed (which kubectl follows by a watch).
func (c *cluster) life(r *api.Resource, dir string) {
	c.t.Helper()
	if out := c.k("explain", r.Resource, "--api-version="+r.GroupVersion().String(), "--recursive"); !strings.Contains(out, "KIND:") || !strings.Contains(out, "FIELDS:") {
		c.t.Errorf("explained as\n%s", out)
	}
	can := map[api.Verb]bool{}
	for _, v := range r.Verbs {
		can[v] = true
	}
	if r.Virtual || !can[api.Create] || !can[api.Delete] {
		return
	}
	file := filepath.Join(dir, r.GroupResource().String()+"."+r.Version+".json")
	if err := os.WriteFile(file, c.object(r), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.k("create", "-f", file)
	if out := c.k("get", "-f", file, "-o", "wide"); !strings.Contains(out, "NAME") && !strings.Contains(out, "LAST SEEN") {
		c.t.Errorf("shown as\n%s", out)
	}
	if out := c.k("patch", "-f", file, "--type=merge", "-p", `{"metadata":{"labels":{"patched":"yes"}}}`); !strings.Contains(out, "patched") {
		c.t.Errorf("the patch said %s", out)
	}
	if out := c.k("apply", "--server-side", "--force-conflicts", "-f", file); !strings.Contains(out, "serverside-applied") {
		c.t.Errorf("the apply said %s", out)
	}
	if out := c.k("get", "-f", file, "-o", "jsonpath={.metadata.labels.patched}"); !strings.HasSuffix(out, "yes") { // after a warning, perhaps
		c.t.Errorf("after an apply the label of the patch is %q", out)
	}
	if out := c.k("delete", "-f", file, "--timeout=60s"); !strings.Contains(out, "deleted") {
		c.t.Errorf("the delete said %s", out)
	}
}

// object is the one that the kind's own table has, in the namespace of this story.
func (c *cluster) object(r *api.Resource) []byte {
	c.t.Helper()
	tables := filepath.Join("..", "..", "internal", "kinds", "testdata")
	raw, err := os.ReadFile(filepath.Join(tables, r.Resource+"."+r.Group+"."+r.Version+".yaml"))
	if err != nil {
		raw, err = os.ReadFile(filepath.Join(tables, r.Resource+".yaml"))
	}
	if err != nil {
		c.t.Fatal(err)
	}
	var table struct {
		Object map[string]any `json:"object"`
	}
	if err := yaml.Unmarshal(raw, &table); err != nil {
		c.t.Fatal(err)
	}
	meta := table.Object["metadata"].(map[string]any)
	if r.Scope == api.Namespaced {
		meta["namespace"] = "every"
	}
	delete(meta, "ownerReferences") // to what is not there: it would be collected
	switch r.Resource {
	case "apiservices": // the table's is there: proa serves metrics itself
		meta["name"] = "v1beta1.metrics.example.com"
		table.Object["spec"].(map[string]any)["group"] = "metrics.example.com"
	case "persistentvolumes": // while a claim has it, it is kept; other kinds' claims have another class
		table.Object["spec"].(map[string]any)["storageClassName"] = "of-its-own"
	case "ipaddresses":
		meta["name"] = "10.43.200.7" // the table's belongs to the Service kubernetes
	case "events": // of both versions, in one store
		meta["name"] = meta["name"].(string) + "." + r.Version + r.Group
		if o, ok := table.Object["involvedObject"].(map[string]any); ok {
			o["namespace"] = "every"
		}
		if o, ok := table.Object["regarding"].(map[string]any); ok {
			o["namespace"] = "every"
		}
	case "horizontalpodautoscalers":
		meta["name"] = meta["name"].(string) + "-" + r.Version
	}
	b, err := json.Marshal(table.Object)
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}
