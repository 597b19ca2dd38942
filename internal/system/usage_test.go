package system

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
	"proa/internal/api/record"
	"proa/internal/apiserver"
	"proa/internal/apiserver/access"
	"proa/internal/apiserver/usage"
	"proa/internal/control"
	"proa/internal/controllers"
	"proa/internal/httpapi"
	"proa/internal/kinds"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
	"proa/internal/kinds/metrics"
	"proa/internal/kinds/rbac"
	"proa/internal/kubeletapi"
	"proa/internal/node"
	"proa/internal/node/cri/pretend"
	"proa/internal/sched"
	"proa/internal/sched/plugins"
	"proa/internal/store/memory"
)

// parse reads an object from YAML.
func parse[T any](t *testing.T, text string) *T {
	t.Helper()
	o := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return o
}

func made[T api.Object](t *testing.T, k *api.Kind[T], h api.Handler, o T) T {
	t.Helper()
	out, err := k.Create(t.Context(), h, o)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// serving starts a server whose nodes are measured by a meter.
func serving(t *testing.T, find *kubeletapi.Nodes) (*apiserver.Server, *usage.Meter) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	m := usage.New(usage.Config{Agent: find.Agent, Log: log})
	engine := memory.New(nil)
	s, err := apiserver.New(t.Context(), apiserver.Config{Engine: engine, Kinds: kinds.All, Log: log, Subs: m.Subs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); _ = engine.Close() })
	for _, ns := range []string{"default", "kube-node-lease", "kube-system", "other"} {
		made(t, core.Namespace, s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
	}
	return s, m
}

// TestAutoscaling does what docs/howto/autoscaling.md says: it lets a Deployment
// be scaled by what its pods use on a pretend node, through all that is real: runtime, agent, meter, metrics.k8s.io, the
// autoscaler, the Deployment's controllers and the scheduler. Time is made up.
func TestAutoscaling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all agents
		s, m := serving(t, &kubeletapi.Nodes{LocalAgent: all.agent})
		ctx, cancel := context.WithCancel(t.Context())
		var parts sync.WaitGroup
		defer parts.Wait()
		defer cancel()
		log := slog.New(slog.DiscardHandler)

		rt := pretend.New(pretend.Options{CIDR: netip.MustParsePrefix("10.42.0.0/24")})
		a, err := node.New(node.Config{Name: "n", Handler: s, Runtime: rt, RootDir: t.TempDir(), Bare: true, Machine: pretendMachine, Log: log,
			Used: func() (kubeletapi.Use, error) {
				cpu, memory := rt.Used()
				return kubeletapi.Use{Time: time.Now(), CPU: cpu, Memory: memory}, nil
			}, Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
			Events: record.New(core.Event, s, "kubelet", "n", time.Now, log)})
		if err != nil {
			t.Fatal(err)
		}
		all.add("n", a)
		parts.Go(func() { _ = a.Run(ctx) })
		parts.Go(func() { m.Run(ctx, s) })
		events := record.New(core.Event, s, "", "", time.Now, log)
		parts.Go(func() { events.Run(ctx) })
		cfg := controllers.Config{Kinds: s.Kinds, RootCA: "CA", PodCIDR: "10.42.0.0/16", Metrics: metricsFrom(s)}
		parts.Go(func() {
			_ = control.Run(ctx, s, controllers.All(cfg), control.Config{Log: log, Now: time.Now, Events: events})
		})
		parts.Go(func() {
			_ = sched.Run(ctx, s, sched.Config{Plugins: plugins.All, Log: log, Now: time.Now, Events: events})
		})
		time.Sleep(time.Second)

		p := &page{t: t, h: s}
		p.read("../../docs/howto/autoscaling.md")
		p.until("yaml")
		time.Sleep(5 * time.Second) // of the first passes that a meter makes, one has seen the pod
		if got := p.shown(); got != "web: 1 of 1 pods are ready; they use" {
			t.Errorf("of one reading: %s", got)
		}
		time.Sleep(24 * time.Second)
		if got := p.shown(); !strings.Contains(got, "they use 400m/64Mi") {
			t.Errorf("after half a minute: %s", got)
		}
		p.until("want")
		n, err := metrics.Nodes.Get(t.Context(), s, "", "n")
		if err != nil || n.Usage.Cpu().String() != "1620m" || n.Usage.Memory().String() != "384Mi" || n.Window.Duration != 15*time.Second {
			t.Errorf("the node: %v, %v", n, err)
		}
		p.until("want")
		if len(p.lines) > 20 {
			t.Errorf("most of the page is left: %q", p.lines)
		}
	})
}

// A page is documentation that is carried out.
type page struct {
	t     *testing.T
	h     api.Handler
	lines []string // that are left
}

func (p *page) read(file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		p.t.Fatal(err)
	}
	p.lines = strings.Split(string(b), "\n")
}

// until does what the page says, up to the end of the next block of a sort.
func (p *page) until(sort string) {
	p.t.Helper()
	for len(p.lines) > 0 {
		line := p.lines[0]
		p.lines = p.lines[1:]
		if kind, ok := strings.CutPrefix(line, "```"); ok {
			end := slices.Index(p.lines, "```")
			block := strings.Join(p.lines[:end], "\n")
			p.lines = p.lines[end+1:]
			if kind == "yaml" {
				for doc := range strings.SplitSeq(block, "\n---\n") {
					p.create(doc)
				}
			} else if got := p.shown(); got != block {
				p.t.Errorf("got %s\nwant %s", got, block)
			}
			if kind == sort {
				return
			}
		} else if n := 0; strings.HasSuffix(line, " minutes later:") {
			fmt.Sscan(line, &n)
			time.Sleep(time.Duration(n) * time.Minute)
		} else if patch, ok := strings.CutPrefix(line, "    kubectl patch deployment web -p "); ok {
			_, err := apps.Deployment.Patch(p.t.Context(), p.h, "default", "web", "", types.StrategicMergePatchType, []byte(strings.Trim(patch, "'")))
			if err != nil {
				p.t.Fatal(err)
			}
		}
	}
	p.t.Fatalf("the page has no more %s", sort)
}

func (p *page) create(doc string) {
	p.t.Helper()
	var typ metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(doc), &typ); err != nil {
		p.t.Fatal(err)
	}
	for _, d := range kinds.All {
		if r := d.Def(); r.GVK() == typ.GroupVersionKind() {
			_, err := p.h.Handle(p.t.Context(), &api.Request{Verb: api.Create, Resource: r, Namespace: "default", Body: []byte(doc), ContentType: api.MediaYAML})
			if err != nil {
				p.t.Fatal(err)
			}
			return
		}
	}
	p.t.Fatalf("nothing is known of %s", doc)
}

// shown is the deployment of the page, and what its pods use.
func (p *page) shown() string {
	p.t.Helper()
	d, err := apps.Deployment.Get(p.t.Context(), p.h, "default", "web")
	if err != nil {
		p.t.Fatal(err)
	}
	pods, err := metrics.Pods.List(p.t.Context(), p.h, "default", api.WithLabels(map[string]string{"app": "web"}))
	if err != nil {
		p.t.Fatal(err)
	}
	out := fmt.Sprintf("web: %d of %d pods are ready; they use", d.Status.ReadyReplicas, *d.Spec.Replicas)
	for _, pod := range pods {
		used := pod.Total()
		out += fmt.Sprintf(" %s/%s", used.Cpu(), used.Memory())
	}
	return out
}

// A constant node says that it, and two containers of default/p, use a half and a
// quarter of a processor.
type constantNode struct {
	kubeletapi.Agent
	at time.Time
}

func (c *constantNode) Resources(context.Context) (*kubeletapi.Resources, error) {
	c.at = c.at.Add(15 * time.Second)
	use := func(milli int64, memory uint64) kubeletapi.Use {
		return kubeletapi.Use{Time: c.at, CPU: uint64(c.at.Unix() * milli * 1e6), Memory: memory}
	}
	r := &kubeletapi.Resources{Node: use(500, 3<<20)}
	for _, name := range []string{"b", "a"} {
		r.Containers = append(r.Containers, kubeletapi.ContainerUse{Namespace: "default", Pod: "p", Container: name, Began: time.Unix(7, 0), Use: use(250, 1<<20)})
	}
	return r, nil
}

// TestMetricsAPI reads metrics.k8s.io over HTTP as those who may and those who may not.
func TestMetricsAPI(t *testing.T) {
	c := &constantNode{at: time.Unix(1_900_000_000, 0)}
	s, m := serving(t, &kubeletapi.Nodes{LocalAgent: func(string) kubeletapi.Agent { return c }})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	roles := access.NewRBAC()
	for _, o := range access.Defaults() {
		switch o := o.(type) {
		case *rbacv1.ClusterRole:
			made(t, rbac.ClusterRole, s, o)
		case *rbacv1.ClusterRoleBinding:
			made(t, rbac.ClusterRoleBinding, s, o)
		}
	}
	made(t, rbac.ClusterRoleBinding, s, parse[rbacv1.ClusterRoleBinding](t, `{metadata: {name: reader}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:aggregated-metrics-reader"},
		subjects: [{kind: User, apiGroup: rbac.authorization.k8s.io, name: reader}]}`))
	made(t, rbac.RoleBinding, s, parse[rbacv1.RoleBinding](t, `{metadata: {name: here, namespace: default}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:aggregated-metrics-reader"},
		subjects: [{kind: User, apiGroup: rbac.authorization.k8s.io, name: here}]}`))
	roles.Follow(ctx, s, func(err error) { t.Error(err) })
	<-roles.Ready()

	made(t, core.Node, s, parse[corev1.Node](t, "metadata: {name: n1, labels: {zone: z}}"))
	for _, text := range []string{"{name: p, namespace: default, labels: {app: web}}", "{name: silent, namespace: default}", "{name: q, namespace: other}"} {
		p := made(t, core.Pod, s, parse[corev1.Pod](t, "metadata: "+text+"\nspec: {nodeName: n1, containers: [{name: a, image: i}, {name: b, image: i}]}"))
		p = p.DeepCopy()
		p.Status.Phase = corev1.PodRunning
		if _, err := core.Pod.UpdateStatus(t.Context(), s, p); err != nil {
			t.Fatal(err)
		}
	}
	front := httptest.NewServer(httpapi.Serve(access.Authorize(s, roles), httpapi.Config{
		Groups: s.Groups, Log: slog.New(slog.DiscardHandler),
		Authenticate: func(r *http.Request) (api.User, bool, error) {
			u := api.User{Name: r.Header.Get("Test-User"), Groups: []string{api.GroupAuthenticated}}
			if u.Name == "admin" {
				u.Groups = append(u.Groups, api.GroupMasters)
			}
			return u, true, nil
		},
	}))
	defer front.Close()
	ask := func(method, user, path, accept string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, front.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Test-User", user)
		req.Header.Set("Accept", accept)
		resp, err := front.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, strings.TrimSpace(string(b))
	}
	const root = "/apis/metrics.k8s.io/v1beta1"
	m.Pass(t.Context(), s)
	if code, body := ask("GET", "admin", root+"/nodes", api.MediaJSON); code != 200 || !strings.HasSuffix(body, `"items":[]}`) {
		t.Errorf("of one reading: %d %s", code, body)
	}
	m.Pass(t.Context(), s)
	const (
		node  = `{"kind":"NodeMetrics","apiVersion":"metrics.k8s.io/v1beta1","metadata":{"name":"n1","creationTimestamp":"2030-03-17T17:47:10Z","labels":{"zone":"z"}},"timestamp":"2030-03-17T17:47:10Z","window":"15s","usage":{"cpu":"500m","memory":"3Mi"}}`
		pod   = `{"kind":"PodMetrics","apiVersion":"metrics.k8s.io/v1beta1","metadata":{"name":"p","namespace":"default","creationTimestamp":"2030-03-17T17:47:10Z","labels":{"app":"web"}},"timestamp":"2030-03-17T17:47:10Z","window":"15s","containers":[{"name":"a","usage":{"cpu":"250m","memory":"1Mi"}},{"name":"b","usage":{"cpu":"250m","memory":"1Mi"}}]}`
		table = "application/json;as=Table;v=v1;g=meta.k8s.io"
	)
	bare := func(one string) string {
		return strings.NewReplacer(`"kind":"NodeMetrics","apiVersion":"metrics.k8s.io/v1beta1",`, "", `"kind":"PodMetrics","apiVersion":"metrics.k8s.io/v1beta1",`, "").Replace(one)
	}
	nodes := `{"kind":"NodeMetricsList","apiVersion":"metrics.k8s.io/v1beta1","metadata":{},"items":[%s]}`
	pods := `{"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1","metadata":{},"items":[%s]}`
	for _, tt := range []struct {
		user, path string
		code       int
		want       string // the body, or the message of a Status
	}{
		{"admin", "/nodes", 200, fmt.Sprintf(nodes, bare(node))},
		{"admin", "/nodes/n1", 200, node},
		{"admin", "/nodes/none", 404, `nodemetrics.metrics.k8s.io "none" not found`},
		{"admin", "/nodes?labelSelector=zone%3Dz", 200, fmt.Sprintf(nodes, bare(node))},
		{"admin", "/nodes?labelSelector=zone%3Dy", 200, fmt.Sprintf(nodes, "")},
		{"admin", "/nodes?fieldSelector=metadata.name%3Dn1", 200, fmt.Sprintf(nodes, bare(node))},
		{"admin", "/nodes?fieldSelector=metadata.name%3Dx", 200, fmt.Sprintf(nodes, "")},
		{"admin", "/nodes?labelSelector=%3D%3D", 400, "found '==', expected: !, identifier, or 'end of string'"},
		{"admin", "/pods", 200, fmt.Sprintf(pods, bare(pod))},
		{"admin", "/namespaces/default/pods", 200, fmt.Sprintf(pods, bare(pod))},
		{"admin", "/namespaces/other/pods", 200, fmt.Sprintf(pods, "")},
		{"admin", "/namespaces/none/pods", 200, fmt.Sprintf(pods, "")},
		{"admin", "/namespaces/default/pods/p", 200, pod},
		{"admin", "/namespaces/default/pods/silent", 404, `podmetrics.metrics.k8s.io "default/silent" not found`},
		{"admin", "/namespaces/default/pods/none", 404, `podmetrics.metrics.k8s.io "default/none" not found`},
		{"admin", "/namespaces/default/pods?labelSelector=app+in+(web)", 200, fmt.Sprintf(pods, bare(pod))},
		{"admin", "/namespaces/default/pods?labelSelector=app!%3Dweb", 200, fmt.Sprintf(pods, "")},
		{"admin", "/pods?fieldSelector=metadata.namespace%3Dother", 200, fmt.Sprintf(pods, "")},
		{"admin", "/pods?fieldSelector=spec.nodeName%3Dn", 400, `"spec.nodeName" is not a known field selector: only "metadata.name", "metadata.namespace"`},
		{"reader", "/nodes/n1", 200, node},
		{"reader", "/namespaces/default/pods/p", 200, pod},
		{"here", "/namespaces/default/pods/p", 200, pod},
		{"here", "/nodes/n1", 403, `nodes.metrics.k8s.io "n1" is forbidden: User "here" cannot get resource "nodes" in API group "metrics.k8s.io" at the cluster scope`},
		{"here", "/pods", 403, `pods.metrics.k8s.io is forbidden: User "here" cannot list resource "pods" in API group "metrics.k8s.io" at the cluster scope`},
		{"nobody", "/namespaces/default/pods", 403, `pods.metrics.k8s.io is forbidden: User "nobody" cannot list resource "pods" in API group "metrics.k8s.io" in the namespace "default"`},
	} {
		code, body := ask("GET", tt.user, root+tt.path, api.MediaJSON)
		var status metav1.Status
		if code != 200 && json.Unmarshal([]byte(body), &status) == nil {
			body = status.Message
		}
		if code != tt.code || body != tt.want {
			t.Errorf("%s %s: %d %s\nwant %d %s", tt.user, tt.path, code, body, tt.code, tt.want)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
		if code, body := ask(method, "admin", root+"/nodes/n1", api.MediaJSON); code != 405 {
			t.Errorf("%s: %d %s", method, code, body)
		}
	}
	if code, body := ask("GET", "admin", root+"/pods?watch=true", api.MediaJSON); code != 405 {
		t.Errorf("watch: %d %s", code, body)
	}
	var tab metav1.Table
	_, body := ask("GET", "admin", root+"/pods", table)
	if err := json.Unmarshal([]byte(body), &tab); err != nil || len(tab.Rows) != 1 {
		t.Fatalf("%v: %s", err, body)
	}
	var names []string
	for _, c := range tab.ColumnDefinitions {
		names = append(names, c.Name)
	}
	if got := fmt.Sprint(names, tab.Rows[0].Cells); got != "[Name cpu memory Window] [p 500m 2Mi 15s]" {
		t.Errorf("table: %s", got)
	}
	for _, version := range []string{"/openapi/v3" + root, root} {
		if code, body := ask("GET", "admin", version, api.MediaJSON); code != 200 || !strings.Contains(body, "PodMetrics") {
			t.Errorf("%s: %d %.200s", version, code, body)
		}
	}
	over := httpapi.Dial(front.URL, &http.Client{Transport: as("reader")})
	list, err := metrics.Pods.List(t.Context(), over, "default", api.Selectors{})
	if err != nil || len(list) != 1 || len(list[0].Containers) != 2 || list[0].Containers[1].Usage.Memory().Value() != 1<<20 {
		t.Errorf("over the wire, as this project's own client asks: %v, %v", list, err)
	}
	found, err := metricsFrom(s).Pods(t.Context(), "default", labels.SelectorFromSet(labels.Set{"app": "web"}))
	if err != nil || len(found) != 1 || !equality.Semantic.DeepEqual(found[0].Containers, list[0].Containers) || found[0].Window != list[0].Window {
		t.Errorf("to the autoscaler: %+v, %v", found, err)
	}
}

// as is a transport that asks in somebody's name.
type as string

func (a as) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Test-User", string(a))
	return http.DefaultTransport.RoundTrip(r)
}
