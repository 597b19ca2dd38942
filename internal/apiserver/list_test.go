package apiserver_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds/core"
	"proa/internal/store"
	"proa/internal/store/memory"
)

func names(l *api.ItemList) string {
	var out []string
	for _, i := range l.Items {
		out = append(out, i.Object().GetName())
	}
	return strings.Join(out, " ")
}

func listAt(t testing.TB, s *apiserver.Server, at api.Version) (*api.ItemList, error) {
	t.Helper()
	resp, err := s.Handle(t.Context(), &api.Request{Verb: api.List, Resource: core.ConfigMap.Def(), Namespace: "a", At: at})
	if err != nil {
		return nil, err
	}
	return resp.List, nil
}

func TestListInPages(t *testing.T) {
	for name, engine := range engines {
		t.Run(name, func(t *testing.T) {
			e := engine(t)
			s := start(t, e, nil)
			ctx := t.Context()
			for i := range 5 {
				must[*corev1.ConfigMap](t)(core.ConfigMap.Create(ctx, s, configMap("a", fmt.Sprint("m", i))))
			}
			must[*corev1.ConfigMap](t)(core.ConfigMap.Create(ctx, s, configMap("b", "other")))
			list := must[*api.ItemList](t)
			first := list(listAt(t, s, api.Version{Limit: 2}))
			if names(first) != "m0 m1" || first.Continue == "" || *first.Remaining != 3 {
				t.Fatalf("first page: %s, %v remain", names(first), first.Remaining)
			}
			// What happens afterwards does not show in the pages that follow.
			if err := core.ConfigMap.Delete(ctx, s, "a", "m3", api.Options{}); err != nil {
				t.Fatal(err)
			}
			must[*corev1.ConfigMap](t)(core.ConfigMap.Create(ctx, s, configMap("a", "m25")))
			for _, from := range []string{"memory", "engine"} {
				if from == "engine" {
					s.ForgetLists()
				}
				second := list(listAt(t, s, api.Version{Limit: 2, Continue: first.Continue}))
				if names(second) != "m2 m3" || *second.Remaining != 1 || second.Revision != first.Revision {
					t.Errorf("second page from %s: %s at %d", from, names(second), second.Revision)
				}
				third := list(listAt(t, s, api.Version{Limit: 2, Continue: second.Continue}))
				if names(third) != "m4" || third.Continue != "" || third.Remaining != nil {
					t.Errorf("third page from %s: %s", from, names(third))
				}
			}
			exact := api.Version{ResourceVersion: strconv.FormatInt(first.Revision, 10), Match: metav1.ResourceVersionMatchExact}
			if l := list(listAt(t, s, exact)); names(l) != "m0 m1 m2 m3 m4" || l.Revision != first.Revision {
				t.Errorf("exact: %s at %d", names(l), l.Revision)
			}
			if l := list(listAt(t, s, api.Version{ResourceVersion: exact.ResourceVersion})); names(l) != "m0 m1 m2 m25 m4" {
				t.Errorf("not older: %s", names(l))
			}

			if err := e.Compact(ctx, e.Revision()); err != nil {
				t.Fatal(err)
			}
			_, err := listAt(t, s, exact)
			wantError(t, err, 410, metav1.StatusReasonExpired, "too old")
			_, err = listAt(t, s, api.Version{Limit: 2, Continue: first.Continue})
			wantError(t, err, 410, metav1.StatusReasonExpired, "The provided continue parameter is too old")
			var status *apierrors.StatusError
			if !errors.As(err, &status) || status.ErrStatus.Continue == "" {
				t.Fatal("no token for the inconsistent rest")
			}
			if l := list(listAt(t, s, api.Version{Limit: 9, Continue: status.ErrStatus.Continue})); names(l) != "m2 m25 m4" {
				t.Errorf("inconsistent rest: %s", names(l))
			}
		})
	}
}

func TestListRefusals(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	for _, c := range []struct {
		at     api.Version
		code   int32
		reason metav1.StatusReason
		text   string
	}{
		{api.Version{ResourceVersion: "x"}, 400, metav1.StatusReasonBadRequest, `invalid resource version: resourceVersion: Invalid value: "x"`},
		{api.Version{Match: metav1.ResourceVersionMatchExact}, 422, metav1.StatusReasonInvalid, "resourceVersionMatch is forbidden unless resourceVersion is provided"},
		{api.Version{Match: metav1.ResourceVersionMatchExact, ResourceVersion: "0"}, 422, metav1.StatusReasonInvalid, `resourceVersionMatch "exact" is forbidden for resourceVersion "0"`},
		{api.Version{Continue: "!!"}, 400, metav1.StatusReasonBadRequest, "continue key is not valid"},
	} {
		_, err := listAt(t, s, c.at)
		wantError(t, err, c.code, c.reason, c.text)
	}
	_, err := core.Pod.List(t.Context(), s, "", api.WithField("spec.foo", "x"))
	wantError(t, err, 400, metav1.StatusReasonBadRequest, "field label not supported: spec.foo")
}

// Selecting by a declared field looks at the objects that have the value, and at no others.
func TestIndexIsUsed(t *testing.T) {
	asked := 0
	kind := &api.Kind[*corev1.ConfigMap]{API: "v1", Resource: "configmaps", Scope: api.Namespaced,
		Fields: map[string]func(*corev1.ConfigMap) string{"data.color": func(m *corev1.ConfigMap) string { asked++; return m.Data["color"] }}}
	s := start(t, memory.New(nil), func(c *apiserver.Config) { c.Kinds = []api.Definition{kind} })
	ctx := t.Context()
	for i := range 200 {
		must[*corev1.ConfigMap](t)(kind.Create(ctx, s, configMap("a", fmt.Sprint("m", i), "color", fmt.Sprint(i%20))))
	}
	sel := api.WithField("data.color", "7")
	if l := must[[]*corev1.ConfigMap](t)(kind.List(ctx, s, "", sel)); len(l) != 10 || asked < 200 {
		t.Fatalf("the first list: %d objects, %d asked", len(l), asked)
	}
	for _, ns := range []string{"", "a"} {
		asked = 0
		if l := must[[]*corev1.ConfigMap](t)(kind.List(ctx, s, ns, sel)); len(l) != 10 || asked > 10 {
			t.Errorf("in namespace %q: %d objects, %d asked", ns, len(l), asked)
		}
	}
	asked = 0
	if l := must[[]*corev1.ConfigMap](t)(kind.List(ctx, s, "", api.WithField("data.color", "none"))); len(l) != 0 || asked != 0 {
		t.Errorf("%d objects, %d asked", len(l), asked)
	}
	if err := kind.Delete(ctx, s, "a", "m7", api.Options{}); err != nil {
		t.Fatal(err)
	}
	asked = 0
	if l := must[[]*corev1.ConfigMap](t)(kind.List(ctx, s, "", sel)); len(l) != 9 || asked > 9 {
		t.Errorf("after a delete: %d objects, %d asked", len(l), asked)
	}
}

// A client that knows a revision which the server does not have yet waits a little and is told.
func TestFutureRevision(t *testing.T) {
	t.Parallel() // it waits for three seconds
	s := start(t, memory.New(nil), nil)
	rev := strconv.FormatInt(s.Revision()+1, 10)
	go func() {
		time.Sleep(10 * time.Millisecond)
		_, _ = core.ConfigMap.Create(t.Context(), s, configMap("a", "x"))
	}()
	if l, err := listAt(t, s, api.Version{ResourceVersion: rev}); err != nil || names(l) != "x" {
		t.Fatalf("%v", err)
	}
	_, err := listAt(t, s, api.Version{ResourceVersion: "1000"})
	wantError(t, err, 504, metav1.StatusReasonTimeout, "Too large resource version: 1000, current: 1")
	if !apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) {
		t.Error("the cause is missing")
	}
}

func TestListByIndex(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	ctx := t.Context()
	for i := range 20 {
		must[*corev1.Pod](t)(core.Pod.Create(ctx, s, pod(string(rune('a'+i%2)), fmt.Sprint("p", i), fmt.Sprint("n", i%3))))
	}
	list := func(ns, sel string) string {
		t.Helper()
		l, err := core.Pod.List(ctx, s, ns, api.Selectors{Fields: fields.ParseSelectorOrDie(sel)})
		if err != nil {
			t.Fatal(err)
		}
		out := []string{}
		for _, p := range l {
			out = append(out, p.Name)
		}
		return strings.Join(out, " ")
	}
	for range 2 { // the first makes the index, the second uses it
		if got := list("a", "spec.nodeName=n1"); got != "p10 p16 p4" {
			t.Errorf("n1 in a: %s", got)
		}
	}
	if got := list("", "spec.nodeName=n1,metadata.namespace=b"); got != "p1 p13 p19 p7" {
		t.Errorf("n1 in b: %s", got)
	}
	if got := list("a", "spec.nodeName=n1,metadata.name=p4"); got != "p4" {
		t.Errorf("one: %s", got)
	}
	if got := list("a", "metadata.namespace=b"); got != "" {
		t.Errorf("contradiction: %s", got)
	}
	resp := must[*api.Response](t)(s.Handle(ctx, &api.Request{Verb: api.List, Resource: core.Pod.Def(), Select: api.WithField("spec.nodeName", "n1"), At: api.Version{Limit: 3}}))
	rest := must[*api.Response](t)(s.Handle(ctx, &api.Request{Verb: api.List, Resource: core.Pod.Def(), Select: api.WithField("spec.nodeName", "n1"), At: api.Version{Limit: 30, Continue: resp.List.Continue}}))
	if got := names(resp.List) + " | " + names(rest.List); got != "p10 p16 p4 | p1 p13 p19 p7" || resp.List.Remaining != nil {
		t.Errorf("pages: %s", got)
	}
}

// A watch from before the horizon is told that it is too old, in its sequence.
func TestWatchTooOld(t *testing.T) {
	each := func(t *testing.T, e store.Engine) {
		s := start(t, e, nil)
		ctx := t.Context()
		for i := range 5 {
			must[*corev1.ConfigMap](t)(core.ConfigMap.Create(ctx, s, configMap("a", fmt.Sprint("m", i))))
		}
		watch := func(from int64) (events int, err error) {
			resp := must[*api.Response](t)(s.Handle(ctx, &api.Request{Verb: api.Watch, Resource: core.ConfigMap.Def(),
				At: api.Version{ResourceVersion: strconv.FormatInt(from, 10), Timeout: 30 * time.Millisecond}}))
			for _, err := range resp.Events {
				if err != nil {
					return events, err
				}
				events++
			}
			return events, nil
		}
		s.ForgetEvents()
		if n, err := watch(1); n != 4 || err != nil {
			t.Errorf("from the engine: %d events, %v", n, err)
		}
		if err := e.Compact(ctx, 3); err != nil {
			t.Fatal(err)
		}
		if n, err := watch(3); n != 2 || err != nil {
			t.Errorf("from the horizon: %d events, %v", n, err)
		}
		n, err := watch(2)
		wantError(t, err, 410, metav1.StatusReasonExpired, "too old resource version: 2 (3)")
		if n != 0 {
			t.Errorf("%d events before the error", n)
		}
	}
	for name, engine := range engines {
		t.Run(name, func(t *testing.T) { each(t, engine(t)) })
	}
}

// After the engine has dropped the server it reads everything anew and watchers list again.
func TestReload(t *testing.T) {
	e := memory.New(nil)
	s := start(t, e, nil)
	ctx := t.Context()
	must[*corev1.ConfigMap](t)(core.ConfigMap.Create(ctx, s, configMap("a", "x")))
	if err := e.Compact(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := core.ConfigMap.Get(ctx, s, "a", "x"); err != nil {
		t.Fatal(err)
	}
	must[*corev1.ConfigMap](t)(core.ConfigMap.Create(ctx, s, configMap("a", "y")))
}

// A selector of a label looks at the objects that have it, whatever becomes of them.
func TestLabelIndexIsUsed(t *testing.T) {
	looked := 0
	kind := &api.Kind[*corev1.ConfigMap]{API: "v1", Resource: "configmaps", Scope: api.Namespaced}
	s := start(t, memory.New(nil), func(c *apiserver.Config) { c.Kinds = []api.Definition{kind} })
	ctx := t.Context()
	for i := range 200 {
		m := configMap("a", fmt.Sprint("m", i))
		m.Labels = map[string]string{"color": fmt.Sprint(i % 20), "n": fmt.Sprint(i)}
		must[*corev1.ConfigMap](t)(kind.Create(ctx, s, m))
	}
	list := func(selector string) int {
		t.Helper()
		sel, err := labels.Parse(selector)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.Handle(ctx, &api.Request{Verb: api.List, Resource: kind.Def(), Select: api.Selectors{Labels: counted{sel, &looked}}})
		if err != nil {
			t.Fatal(err)
		}
		return len(resp.List.Items)
	}
	list("color=7") // makes the index
	for _, c := range []struct {
		selector     string
		want, atMost int
	}{
		{"color=7", 10, 10}, {"color==7,n!=7", 9, 10}, {"color in (7)", 10, 10}, {"color=none", 0, 0},
		{"color in (7,8)", 20, 200}, {"!color", 0, 200},
	} {
		looked = 0
		if got := list(c.selector); got != c.want || looked > c.atMost {
			t.Errorf("%s: %d objects, %d looked at; want %d, at most %d", c.selector, got, looked, c.want, c.atMost)
		}
	}
	m := must[*corev1.ConfigMap](t)(kind.Get(ctx, s, "a", "m7"))
	m = api.Clone(m)
	m.Labels = nil
	must[*corev1.ConfigMap](t)(kind.Update(ctx, s, m))
	if err := kind.Delete(ctx, s, "a", "m27", api.Options{}); err != nil {
		t.Fatal(err)
	}
	looked = 0
	if got := list("color=7"); got != 8 || looked > 8 {
		t.Errorf("after a change and a delete: %d objects, %d looked at", got, looked)
	}
}

// counted counts the objects that a selector is asked about.
type counted struct {
	labels.Selector
	n *int
}

func (c counted) Matches(l labels.Labels) bool {
	*c.n++
	return c.Selector.Matches(l)
}
