package httpapi

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/apiserver"
	"proa/internal/kinds"
	"proa/internal/store"
	"proa/internal/store/memory"
)

// history is a server with five config maps, made at revisions 1 to 5, of which
// m1 was changed at 6 and m2 removed at 7.
type history struct {
	*rig
	engine store.Engine
}

const histMaps = "/api/v1/namespaces/a/configmaps"

func newHistory(t *testing.T) *history {
	t.Helper()
	h := served(t, memory.New(store.SystemClock{}))
	for i := range 5 {
		h.want(201, "POST", histMaps, fmt.Sprintf(`{"metadata":{"name":"m%d","labels":{"n":"%d"}}}`, i, i))
	}
	h.want(200, "PUT", histMaps+"/m1", `{"metadata":{"name":"m1","labels":{"n":"new"}}}`)
	h.want(200, "DELETE", histMaps+"/m2", "")
	return h
}

// served is a server on an engine.
func served(t *testing.T, e store.Engine) *history {
	t.Helper()
	s, err := apiserver.New(t.Context(), apiserver.Config{Engine: e, Kinds: kinds.All, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return &history{serve(t, s, Config{}), e}
}

// list is the names that a list answers, its revision, and the list.
func (h *history) list(query string) (string, *corev1.ConfigMapList) {
	h.t.Helper()
	var l corev1.ConfigMapList
	if err := json.Unmarshal([]byte(h.want(200, "GET", histMaps+"?"+query, "")), &l); err != nil {
		h.t.Fatal(err)
	}
	var names []string
	for _, m := range l.Items {
		names = append(names, m.Name)
	}
	return strings.Join(names, " ") + " @" + l.ResourceVersion, &l
}

// Every combination of the table in the API concepts, "semantics for get and list".
func TestListSemantics(t *testing.T) {
	h := newHistory(t)
	const now, at4 = "m0 m1 m3 m4 @7", "m0 m1 m2 m3 @4"
	for query, want := range map[string]string{
		"":                  now,
		"resourceVersion=0": now,
		"resourceVersion=4": now,
		"resourceVersion=7": now,
		"resourceVersion=0&resourceVersionMatch=NotOlderThan": now,
		"resourceVersion=4&resourceVersionMatch=NotOlderThan": now,
		"resourceVersion=4&resourceVersionMatch=Exact":        at4,
		"limit=2":                   "m0 m1 @7",
		"limit=2&resourceVersion=0": "m0 m1 @7",
		"limit=2&resourceVersion=4": "m0 m1 @4",
		"limit=2&resourceVersion=4&resourceVersionMatch=Exact":             "m0 m1 @4",
		"limit=2&resourceVersion=4&resourceVersionMatch=NotOlderThan":      "m0 m1 @7",
		"limit=0&resourceVersion=4":                                        now,
		"limit=-1":                                                         now,
		"labelSelector=n%3D1&resourceVersion=4&resourceVersionMatch=Exact": "m1 @4",
		"labelSelector=n%3D1":                                              " @7",
		"labelSelector=n+in+(0,new)":                                       "m0 m1 @7",
		"labelSelector=n+notin+(0,new)":                                    "m3 m4 @7",
		"labelSelector=n,n!%3D0":                                           "m1 m3 m4 @7",
		"labelSelector=!n":                                                 " @7",
		"labelSelector=n>3":                                                "m4 @7",
		"fieldSelector=metadata.name%3Dm3":                                 "m3 @7",
		"fieldSelector=metadata.name!%3Dm3,metadata.namespace%3Da":         "m0 m1 m4 @7",
		"nosuch=1&pretty=false":                                            now,
	} {
		if got, _ := h.list(query); got != want {
			t.Errorf("?%s: %s, want %s", query, got, want)
		}
	}
	h.want(200, "GET", histMaps+"/m1?resourceVersion=0", "")
	h.want(200, "GET", histMaps+"/m1?resourceVersion=3", "")
	h.want(404, "GET", histMaps+"/m2?resourceVersion=3", "")
}

func TestListOptionErrors(t *testing.T) {
	h := newHistory(t)
	token := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	for _, c := range []struct {
		query string
		code  int
		says  string
	}{
		{"resourceVersion=x", 400, `invalid resource version: resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax`},
		{"resourceVersion=-1", 400, "invalid resource version: "},
		{"watch=1&resourceVersion=x", 400, "invalid resource version: "},
		{"resourceVersionMatch=Exact", 422, `ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided`},
		{"resourceVersion=0&resourceVersionMatch=Exact", 422, `resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"`},
		{"resourceVersion=1&resourceVersionMatch=odd", 422, `resourceVersionMatch: Unsupported value: \"odd\": supported values: \"Exact\", \"NotOlderThan\", \"\"`},
		{"resourceVersion=1&resourceVersionMatch=Exact&continue=x", 422, "resourceVersionMatch is forbidden when continue is provided"},
		{"sendInitialEvents=true", 422, "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"},
		{"watch=1&sendInitialEvents=true", 422, "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"},
		{"watch=1&sendInitialEvents=true&resourceVersionMatch=Exact", 422, `resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\"`},
		{"watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=1", 422, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"},
		{"watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&continue=x", 422, "resourceVersionMatch is forbidden when continue is provided"},
		{"continue=!", 400, "invalid continue token: continue key is not valid: illegal base64 data"},
		{"continue=" + token(`x`), 400, "invalid continue token: continue key is not valid: invalid character"},
		{"continue=" + token(`{"v":"v9","rv":1,"start":"a"}`), 400, "server does not recognize this encoded version v9"},
		{"continue=" + token(`{"v":"meta.k8s.io/v1","rv":0,"start":"a"}`), 400, "incorrect encoded start resourceVersion (version meta.k8s.io/v1)"},
		{"continue=" + token(`{"v":"meta.k8s.io/v1","rv":1,"start":""}`), 400, "encoded start key empty (version meta.k8s.io/v1)"},
		{"continue=" + token(`{"v":"meta.k8s.io/v1","rv":1,"start":"../x"}`), 400, "continue key is not valid: ../x"},
		{"resourceVersion=4&continue=" + token(`{"v":"meta.k8s.io/v1","rv":4,"start":"a/m1"}`), 400, "specifying resource version is not allowed when using continue"},
		{"labelSelector=a%3D%3D%3Db", 400, "unable to parse requirement: "},
		{"labelSelector=a+in+b", 400, "found 'b' expected: '('"},
		{"labelSelector=a%3Dx/y", 400, "a valid label must be an empty string or consist of alphanumeric characters"},
		{"labelSelector=-a", 400, "name part must consist of alphanumeric characters"},
		{"labelSelector=a>b", 400, "for 'Gt', 'Lt' operators, the value must be an integer"},
		{"fieldSelector=spec.x%3D1", 400, `\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"`},
		{"fieldSelector=x", 400, "invalid selector: 'x'; can't understand 'x'"},
		{"limit=x", 400, "strconv.ParseInt"},
		{"timeoutSeconds=x", 400, "strconv.ParseInt"},
	} {
		if got := h.want(c.code, "GET", histMaps+"?"+c.query, ""); !strings.Contains(got, c.says) {
			t.Errorf("?%s: %s, want %q", c.query, got, c.says)
		}
	}
	for path, says := range map[string]string{
		"/api/v1/pods?fieldSelector=spec.x%3D1":                                     "field label not supported: spec.x",
		"/apis/batch/v1/jobs?fieldSelector=spec.x%3D1":                              `field label \"spec.x\" not supported for Job`,
		"/api/v1/watch/namespaces/a/configmaps/m1?fieldSelector=metadata.name%3Dm2": "fieldSelector metadata.name doesn't match requested name",
	} {
		if got := h.want(400, "GET", path, ""); !strings.Contains(got, says) {
			t.Errorf("%s: %s", path, got)
		}
	}
}

// A revision that is not there yet is waited for, and then the client is told to try again.
func TestListTooLarge(t *testing.T) {
	t.Parallel() // it waits for three seconds
	h := newHistory(t)
	resp, body := h.call("GET", histMaps+"?resourceVersion=1000", "", "")
	if resp.StatusCode != 504 || resp.Header.Get("Retry-After") != "1" ||
		!strings.Contains(body, `Too large resource version: 1000, current: 7","reason":"Timeout"`) ||
		!strings.Contains(body, `"causes":[{"reason":"ResourceVersionTooLarge","message":"Too large resource version"}],"retryAfterSeconds":1}`) {
		t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
	}
}

func TestListExpired(t *testing.T) {
	h := newHistory(t)
	_, first := h.list("limit=2")
	if first.RemainingItemCount == nil || *first.RemainingItemCount != 2 || first.Continue == "" {
		t.Fatalf("%+v", first.ListMeta)
	}
	if got, l := h.list("limit=1&labelSelector=n"); got != "m0 @7" || l.RemainingItemCount != nil || l.Continue == "" {
		t.Errorf("with a selector: %s, %+v", got, l.ListMeta)
	}
	h.want(200, "DELETE", histMaps+"/m4", "")
	h.want(201, "POST", histMaps, `{"metadata":{"name":"m15"}}`)
	if got, _ := h.list("limit=2&continue=" + first.Continue); got != "m3 m4 @7" {
		t.Errorf("the second page: %s", got)
	}
	if err := h.engine.Compact(t.Context(), h.engine.Revision()); err != nil {
		t.Fatal(err)
	}
	body := h.want(410, "GET", histMaps+"?resourceVersion=4&resourceVersionMatch=Exact", "")
	if !strings.Contains(body, `"message":"The resourceVersion for the provided list is too old.","reason":"Expired"`) {
		t.Error(body)
	}
	var st metav1.Status
	if err := json.Unmarshal([]byte(h.want(410, "GET", histMaps+"?limit=2&continue="+first.Continue, "")), &st); err != nil || st.Continue == "" || !strings.Contains(st.Message, "inconsistent list") {
		t.Fatalf("%v %+v", err, st)
	}
	if got, _ := h.list("limit=5&continue=" + st.Continue); got != "m15 m3 @9" {
		t.Errorf("the inconsistent rest: %s", got)
	}
}

// watched reads n events, or all of a watch that ends, as "TYPE name@rv".
func (h *history) watched(n int, query, accept string) string {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), "GET", h.URL+histMaps+"?watch=1&timeoutSeconds=20&"+query, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := h.client().Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		h.t.Fatalf("?%s: %s", query, resp.Status)
	}
	var out []string
	for in := bufio.NewScanner(resp.Body); len(out) < n && in.Scan(); {
		var e struct {
			Type   string
			Object struct {
				metav1.ObjectMeta `json:"metadata"`
				Kind              string
				Message           string
				Rows              []struct{ Cells []any }
			}
		}
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			h.t.Fatal(err)
		}
		s := e.Type + " " + e.Object.Name + "@" + e.Object.ResourceVersion
		switch {
		case e.Object.Kind == "Status":
			s = e.Type + " " + e.Object.Message
		case e.Object.Annotations[metav1.InitialEventsAnnotationKey] == "true":
			s += " END"
		case e.Object.Kind != "ConfigMap":
			s += fmt.Sprint(" ", e.Object.Kind, " ", e.Object.Rows)
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

func TestWatchSemantics(t *testing.T) {
	h := newHistory(t)
	const all = "ADDED m0@1, ADDED m1@6, ADDED m3@4, ADDED m4@5"
	const not = "&resourceVersionMatch=NotOlderThan&sendInitialEvents="
	for _, c := range []struct {
		n           int
		query, want string
	}{
		{4, "", all},
		{4, "resourceVersion=0", all},
		{5, "allowWatchBookmarks=true", all + ", BOOKMARK @7 END"},
		{5, "resourceVersion=0&allowWatchBookmarks=true", all + ", BOOKMARK @7 END"},
		{5, not + "true&allowWatchBookmarks=true", all + ", BOOKMARK @7 END"},
		{5, "resourceVersion=3" + not + "true&allowWatchBookmarks=1", all + ", BOOKMARK @7 END"},
		{4, not + "true", all},
		{2, "resourceVersion=5", "MODIFIED m1@6, DELETED m2@7"},
		{2, "resourceVersion=5" + not + "false", "MODIFIED m1@6, DELETED m2@7"},
		{3, "resourceVersion=4", "ADDED m4@5, MODIFIED m1@6, DELETED m2@7"},
		{1, "resourceVersion=5&fieldSelector=metadata.name%3Dm2", "DELETED m2@7"},
		{1, "resourceVersion=5&labelSelector=n%3D1", "DELETED m1@6"},
		{1, "resourceVersion=5&labelSelector=n%3Dnew", "ADDED m1@6"},
		{2, "resourceVersion=1&labelSelector=n%3D1", "ADDED m1@2, DELETED m1@6"},
		{2, "labelSelector=n%3Dnew&allowWatchBookmarks=true", "ADDED m1@6, BOOKMARK @7 END"},
	} {
		if got := h.watched(c.n, c.query, "application/json"); got != c.want {
			t.Errorf("?%s: %s, want %s", c.query, got, c.want)
		}
	}
	const table = "application/json;as=Table;g=meta.k8s.io;v=v1"
	if got, want := h.watched(2, "labelSelector=n%3Dnew&allowWatchBookmarks=true", table), "ADDED @6 Table [{[m1 0 "; !strings.HasPrefix(got, want) || !strings.Contains(got, ", BOOKMARK @7 Table ") {
		t.Errorf("as a table: %s", got)
	}
	const partial = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	if got, want := h.watched(2, "resourceVersion=5", partial), "MODIFIED m1@6 PartialObjectMetadata [], DELETED m2@7 PartialObjectMetadata []"; got != want {
		t.Errorf("as metadata: %s, want %s", got, want)
	}
	if err := h.engine.Compact(t.Context(), 6); err != nil {
		t.Fatal(err)
	}
	if got, want := h.watched(1, "resourceVersion=6", "application/json"), "DELETED m2@7"; got != want {
		t.Errorf("from the horizon: %s", got)
	}
}

// What the log and the engine no longer have is an ERROR event: the headers are out by then.
func TestWatchExpired(t *testing.T) {
	h := newHistory(t)
	h = served(t, h.engine) // its log is empty
	if err := h.engine.Compact(t.Context(), 6); err != nil {
		t.Fatal(err)
	}
	if got, want := h.watched(1, "resourceVersion=5", "application/json"), "ERROR too old resource version: 5 (6)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	c := h.socket(histMaps+"?watch=1&resourceVersion=5", "")
	if _, b, err := c.ReadMessage(); err != nil || !strings.Contains(string(b), `"type":"ERROR"`) || !strings.Contains(string(b), `"reason":"Expired","code":410`) {
		t.Errorf("%s %v", b, err)
	}
}

// A watch ends after the time that its client gave it.
func TestWatchTimeout(t *testing.T) {
	h := newHistory(t)
	for _, how := range []string{"?watch=true&timeoutSeconds=1", "?watch&timeoutSeconds=1"} {
		start := time.Now()
		h.want(200, "GET", histMaps+how+"&resourceVersion=7", "")
		if d := time.Since(start); d < 900*time.Millisecond || d > 5*time.Second {
			t.Errorf("%s took %v", how, d)
		}
	}
}
