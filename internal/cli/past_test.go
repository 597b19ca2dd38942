package cli

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"proa/internal/api"
)

func TestMoment(t *testing.T) {
	zone := time.FixedZone("here", 2*60*60)
	now := time.Date(2026, 3, 1, 12, 30, 0, 0, zone)
	for s, want := range map[string]string{
		"12:30":                 "2026-03-01T12:30:00+02:00",
		"12:31":                 "2026-02-28T12:31:00+02:00",
		"0:05":                  "2026-03-01T00:05:00+02:00",
		"09:00:07":              "2026-03-01T09:00:07+02:00",
		"2h":                    "2026-03-01T10:30:00+02:00",
		"90m ago":               "2026-03-01T11:00:00+02:00",
		"3d":                    "2026-02-26T12:30:00+02:00",
		"2026-01-31 14:05":      "2026-01-31T14:05:00+02:00",
		"2026-01-31":            "2026-01-31T00:00:00+02:00",
		"2026-01-31T14:05:00Z":  "2026-01-31T14:05:00Z",
		"2026-01-31T14:05:00.5": "2026-01-31T14:05:00+02:00",
		"noon":                  "",
		"-2h":                   "",
		"-3d":                   "",
		"25:00":                 "",
	} {
		got, err := moment(s, now)
		if want == "" {
			if err == nil {
				t.Errorf("%q is taken for %v", s, got)
			}
			continue
		}
		if err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("%q: %v, %v, not %s", s, got.Format(time.RFC3339), err, want)
		}
	}
}

func TestDiff(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"equal", "a: 1\n", "a: 1\n", ""},
		{"one line", "a: 1\n", "a: 2\n", "- a: 1\n+ a: 2\n"},
		{"from nothing", "", "a: 2\n", "+ a: 2\n"},
		{"under its field",
			"spec:\n  x: 1\n  template:\n    containers:\n    - args:\n      - a\n      - b\n      - c\n      image: web:1\n      name: c\n      z: 1\n      zz: 1\n",
			"spec:\n  x: 1\n  template:\n    containers:\n    - args:\n      - a\n      - b\n      - c\n      image: web:2\n      name: c\n      z: 1\n      zz: 1\n",
			"@@ spec.template.containers @@\n        - b\n        - c\n-       image: web:1\n+       image: web:2\n        name: c\n        z: 1\n"},
		{"two places", "a: 1\nb: 1\nc: 1\nd: 1\ne: 1\nf: 1\ng: 1\n", "a: 2\nb: 1\nc: 1\nd: 1\ne: 1\nf: 1\ng: 2\n",
			"- a: 1\n+ a: 2\n  b: 1\n  c: 1\n@@\n  e: 1\n  f: 1\n- g: 1\n+ g: 2\n"},
	} {
		var b strings.Builder
		changed := writeDiff(&b, "", c.old, c.new)
		if b.String() != c.want || changed != (c.want != "") {
			t.Errorf("%s: %v\n%s\nnot\n%s", c.name, changed, b.String(), c.want)
		}
	}
	long := strings.Repeat("x: 1\n", 5000)
	all := edits(lines("a\n"+long+"b\n"), lines("c\n"+strings.Repeat("y: 1\n", 5000)+"d\n"))
	if len(all) != 10_004 {
		t.Errorf("%d lines of what is too long to compare", len(all))
	}
}

const config = `
apiVersion: v1
kind: Config
clusters:
- {name: one, cluster: {server: "https://one:6443/", insecure-skip-tls-verify: true}}
- {name: two, cluster: {server: "https://two:6443"}}
users:
- {name: ann, user: {token: secret-token, as: bob, as-groups: [g]}}
- {name: eve, user: {exec: {command: helper}}}
contexts:
- {name: first, context: {cluster: one, user: ann, namespace: shop}}
- {name: second, context: {cluster: two, user: eve}}
current-context: first
`

func TestKubeconfig(t *testing.T) {
	r, err := parseKubeconfig([]byte(config), "", "")
	if err != nil {
		t.Fatal(err)
	}
	if r.base != "https://one:6443" || r.namespace != "shop" || r.header.Get("Authorization") != "Bearer secret-token" ||
		r.header.Get("Impersonate-User") != "bob" || r.header.Get("Impersonate-Group") != "g" {
		t.Errorf("%+v", r)
	}
	for name, want := range map[string]string{"second": "only kubectl can run", "third": `no context "third"`} {
		if _, err := parseKubeconfig([]byte(config), name, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("context %s: %v", name, err)
		}
	}
}

// TestWhoIsTold has a server that leads to another one.
func TestWhoIsTold(t *testing.T) {
	told := func(by *[]string, r *http.Request) {
		*by = append(*by, r.Header.Get("Authorization")+r.Header.Get("Impersonate-User"))
	}
	var one, two []string
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { told(&two, r) }))
	defer other.Close()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		told(&one, r)
		http.Redirect(w, r, map[string]string{"/a": "/b", "/b": other.URL}[r.URL.Path], http.StatusFound)
	}))
	defer s.Close()
	r, err := parseKubeconfig([]byte(strings.ReplaceAll(config, "https://one:6443", s.URL)), "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.do(t.Context(), http.MethodGet, "/a", nil, "application/json", nil); err != nil {
		t.Fatal(err)
	}
	if who := "Bearer secret-tokenbob"; !slices.Equal(one, []string{who, who}) || !slices.Equal(two, []string{""}) {
		t.Errorf("the server is told %q, the other %q", one, two)
	}
}

func parsed(t *testing.T, s string) object {
	t.Helper()
	o, err := parseObject([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestUndoGoesTo says which state an undo without a revision goes to.
func TestUndoGoesTo(t *testing.T) {
	const gone = ""
	for _, c := range []struct {
		name   string
		states []string // newest first: user, star if of the status alone, and what the object says, or nothing if deleted
		want   string   // the revision
	}{
		{"the state before", []string{"ann b", "ann a"}, "1"},
		{"nothing before", []string{"ann a"}, ""},
		{"over the status", []string{"kubelet* b", "ann b", "kubelet* a", "ann a"}, "1"},
		{"over the controllers", []string{"system:kube-controller-manager b2", "ann b", "ann a"}, "1"},
		{"back and forth", []string{"ann a", "ann b", "ann a"}, "2"},
		{"not over a deletion", []string{"ann b", gone, "ann a"}, ""},
		{"of what is deleted", []string{gone, "ann b", "ann a"}, "2"},
		{"of what is deleted, before it was being deleted", []string{gone, "ann dying", "ann b", "ann a"}, "2"},
		{"nothing but controllers", []string{"system:kube-scheduler b", "ann a"}, ""},
	} {
		h := &past{}
		var now object
		for i, s := range c.states {
			user, says, _ := strings.Cut(s, " ")
			rev := string(rune('0' + len(c.states) - i))
			st := api.State{Revision: rev, User: strings.TrimSuffix(user, "*"), Minor: strings.HasSuffix(user, "*"), Verb: "update"}
			var o object
			switch {
			case s == gone:
				st.Verb = "delete"
			case says == "dying":
				o = parsed(t, `{"metadata":{"resourceVersion":"`+rev+`","deletionTimestamp":"x"},"spec":"b"}`)
			default:
				o = parsed(t, `{"metadata":{"resourceVersion":"`+rev+`"},"spec":"`+says+`"}`)
			}
			if i == 0 {
				now = o
			}
			h.Items, h.objects = append(h.Items, st), append(h.objects, o)
		}
		got := ""
		if o := h.before(now); o != nil {
			got = revisionOf(o)
		}
		if got != c.want {
			t.Errorf("%s: revision %q, not %q", c.name, got, c.want)
		}
	}
}

func TestCombine(t *testing.T) {
	now := parsed(t, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a","resourceVersion":"9","uid":"u","labels":{"new":"1"},
		"annotations":{"deployment.kubernetes.io/revision":"3","note":"new"},"finalizers":["f"]},"spec":{"replicas":3,"big":12345678901234567890},"status":{"ready":3},"extra":1}`)
	was := parsed(t, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a","resourceVersion":"4","uid":"u","labels":{"old":"1"},
		"annotations":{"deployment.kubernetes.io/revision":"1"}},"spec":{"replicas":1},"status":{"ready":1}}`)
	want := parsed(t, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a","resourceVersion":"9","uid":"u","labels":{"old":"1"},
		"annotations":{"deployment.kubernetes.io/revision":"3"},"finalizers":["f"]},"spec":{"replicas":1},"status":{"ready":3}}`)
	if got := combine(now, was); !same(got, want) {
		t.Errorf("got %v", got)
	}
	if !same(combine(was, now), combine(was, now)) || !strings.Contains(now.text(false), "12345678901234567890") {
		t.Errorf("a number has changed: %s", now.text(false))
	}
}

func TestFresh(t *testing.T) {
	pod := fresh(parsed(t, `{"kind":"Pod","metadata":{"name":"a","uid":"u","resourceVersion":"4","finalizers":["orphan","mine"],"ownerReferences":[{}]},"spec":{"nodeName":"n","x":1},"status":{}}`))
	if want := parsed(t, `{"kind":"Pod","metadata":{"name":"a","finalizers":["mine"]},"spec":{"x":1}}`); !same(pod, want) {
		t.Errorf("a pod: %v", pod)
	}
	job := fresh(parsed(t, `{"kind":"Job","metadata":{"name":"a"},"spec":{"selector":{},"template":{"metadata":{"labels":{"job-name":"a","batch.kubernetes.io/controller-uid":"u","app":"x"}}}}}`))
	if want := parsed(t, `{"kind":"Job","metadata":{"name":"a"},"spec":{"template":{"metadata":{"labels":{"app":"x"}}}}}`); !same(job, want) {
		t.Errorf("a job: %v", job)
	}
}
