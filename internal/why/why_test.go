package why

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
	"proa/internal/kinds"
)

var update = flag.Bool("update", false, "write what is answered into the tables; read the difference")

// now is when everybody asks.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A cluster is some objects that do not change, and the resources that may not be read.
type cluster struct {
	items     []*api.Item
	forbidden []string
	reads     int
}

func (c *cluster) Handle(_ context.Context, r *api.Request) (*api.Response, error) {
	c.reads++
	if (r.Name == "") != (r.Verb == api.List) {
		panic("a " + string(r.Verb) + " of the name " + r.Name)
	}
	if slices.Contains(c.forbidden, r.Resource.Resource) || r.Namespace == "" && slices.Contains(c.forbidden, "all/"+r.Resource.Resource) {
		return nil, apierrors.NewForbidden(r.Resource.GroupResource(), r.Name, nil)
	}
	list := &api.ItemList{}
	for _, i := range c.items {
		if o := i.Object(); i.Resource == r.Resource && (r.Namespace == "" || o.GetNamespace() == r.Namespace) && r.Select.Matches(r.Resource, o) {
			if r.Verb == api.Get && o.GetName() == r.Name {
				return &api.Response{Item: i}, nil
			}
			list.Items = append(list.Items, i)
		}
	}
	switch r.Verb {
	case api.Get:
		return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
	case api.List:
		return &api.Response{List: list}, nil
	}
	panic("why writes: " + r.Verb)
}

// add reads objects: YAML documents. The uid of each is Kind/name, the label
// "owner" in its annotations is the uid of what controls it, and it was made an hour ago.
func (c *cluster) add(t *testing.T, text string) {
	t.Helper()
	for _, doc := range strings.Split(text, "\n---\n") {
		var m metav1.PartialObjectMetadata
		if err := yaml.Unmarshal([]byte(doc), &m); err != nil {
			t.Fatalf("%v in %s", err, doc)
		}
		if m.Kind == "" {
			continue
		}
		i := slices.IndexFunc(kinds.All, func(d api.Definition) bool {
			return d.Def().Kind == m.Kind && d.Def().GroupVersion().String() == m.APIVersion
		})
		if i < 0 {
			t.Fatalf("no kind %s %s", m.APIVersion, m.Kind)
		}
		r := kinds.All[i].Def()
		o := r.New()
		if err := yaml.UnmarshalStrict([]byte(doc), o); err != nil {
			t.Fatalf("%v in %s", err, doc)
		}
		o.SetUID(types.UID(m.Kind + "/" + m.Name))
		if r.Scope == api.Namespaced && m.Namespace == "" {
			o.SetNamespace("default")
		}
		if m.CreationTimestamp.IsZero() {
			o.SetCreationTimestamp(metav1.NewTime(now.Add(-time.Hour)))
		}
		if kind, name, ok := strings.Cut(m.Annotations["owner"], "/"); ok {
			yes := true
			o.SetOwnerReferences([]metav1.OwnerReference{{Kind: kind, Name: name, UID: types.UID(kind + "/" + name), Controller: &yes}})
		}
		r.Default(o)
		c.items = append(c.items, api.NewItem(r, int64(len(c.items)+1), nil, o))
	}
}

const readyNode = `{apiVersion: v1, kind: Node, metadata: {name: one}, status: {allocatable: {cpu: 4, memory: 8Gi, pods: 110}, conditions: [{type: Ready, status: "True"}]}}`

// TestAnswers asks what the tables in testdata ask: NAME.yaml holds the objects,
// and in its first line what is asked; NAME.want the answer.
func TestAnswers(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txtar")
	if len(files) == 0 {
		t.Fatal("no tables")
	}
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			defer func() {
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Error(err)
				}
			}()
		}
		for i := 0; i < len(a.Files); i++ {
			name, ok := strings.CutSuffix(a.Files[i].Name, ".yaml")
			if !ok {
				t.Fatalf("%s: %s has no objects before it", file, a.Files[i].Name)
			}
			in, want := string(a.Files[i].Data), ""
			if i+1 < len(a.Files) && a.Files[i+1].Name == name+".want" {
				want = string(a.Files[i+1].Data)
			} else {
				a.Files = slices.Insert(a.Files, i+1, txtar.File{Name: name + ".want"})
			}
			i++
			t.Run(name, func(t *testing.T) {
				got := answer(t, in)
				if *update {
					a.Files[i].Data = []byte(got)
				} else if got != want {
					t.Errorf("the answer is\n%s\nnot\n%s", got, want)
				}
			})
		}
	}
}

// answer asks "# why RESOURCE.GROUP/NAME [but not RESOURCE...]" of the objects that follow.
func answer(t *testing.T, in string) string {
	t.Helper()
	first, _, _ := strings.Cut(in, "\n")
	words := strings.Fields(strings.TrimPrefix(first, "# why "))
	what, name, ok := strings.Cut(words[0], "/")
	if !ok {
		t.Fatalf("%q asks nothing", first)
	}
	resource, group, _ := strings.Cut(what, ".")
	c := &cluster{forbidden: words[1:]}
	c.add(t, in)
	if !strings.Contains(in, "kind: Node") && !slices.Contains(words, "no-node") {
		c.add(t, readyNode)
	}
	ns := "default"
	if resource == "nodes" || resource == "namespaces" {
		ns = ""
	}
	w, err := Explain(t.Context(), c, group, resource, ns, name, now)
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	if c.reads > 20 {
		t.Errorf("%d reads", c.reads)
	}
	if w.Healthy != (len(w.Causes) == 0) {
		t.Errorf("healthy: %v, with %d causes", w.Healthy, len(w.Causes))
	}
	var out bytes.Buffer
	w.Print(&out, now)
	b, err := json.Marshal(w)
	if err != nil || !strings.Contains(string(b), `"healthy":`) {
		t.Errorf("as JSON: %s, %v", b, err)
	}
	return out.String()
}

func TestReasons(t *testing.T) {
	for in, want := range map[string][]reason{
		"0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s). preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.": {
			{2, 3, "node(s) had untolerated taint(s)"}, {1, 3, "Insufficient cpu"}},
		"0/1 nodes are available: 1 node(s) had untolerated taint {a: b, c}.":         {{1, 1, "node(s) had untolerated taint {a: b, c}"}},
		`0/2 nodes are available: persistentvolumeclaim "x" not found. preemption: y`: {{0, 2, `persistentvolumeclaim "x" not found`}},
		"no nodes available to schedule pods":                                         {{0, 0, "no nodes available to schedule pods"}},
		"0/0 nodes are available: .":                                                  nil,
		"":                                                                            nil,
	} {
		if got := parseReasons(in); !slices.Equal(got, want) {
			t.Errorf("%q: %v, not %v", in, got, want)
		}
	}
}

func TestLikeness(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want float64
	}{{"web", "web", 1}, {"", "", 1}, {"web", "", 0}, {"web", "wob", 2. / 3}, {"shop-web", "web", 3. / 8}, {"ab", "cd", 0}} {
		if got := likeness(c.a, c.b); math.Abs(got-c.want) > 1e-9 || likeness(c.b, c.a) != got {
			t.Errorf("%q and %q: %v, not %v", c.a, c.b, got, c.want)
		}
	}
}

// TestPrint has times of another day and zone.
func TestPrint(t *testing.T) {
	w := &Answer{Cause: *is("pod/a", "it waits").since(now.Add(-48 * time.Hour)).as(is("", "cause").since(now.Add(-time.Minute)))}
	var out bytes.Buffer
	w.Print(&out, now.In(time.FixedZone("here", 3600)))
	if want := "pod/a: it waits (since 2026-02-27 13:00:00, 2d)\n  cause (since 12:59:00, 60s)\n"; out.String() != want {
		t.Errorf("got %s", out.String())
	}
}

// TestUnknownKind names those that are known.
func TestUnknownKind(t *testing.T) {
	_, err := Explain(t.Context(), &cluster{}, "", "configmaps", "default", "x", now)
	if err == nil || !strings.Contains(err.Error(), "only of pods, deployments") {
		t.Errorf("%v", err)
	}
}
