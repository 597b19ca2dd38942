package httpapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"proa/internal/api"
)

// What does not belong into a body is refused, warned of, or let be, in every form.
func TestFieldValidation(t *testing.T) {
	rig := live(t)
	const maps = "/api/v1/namespaces/default/configmaps"
	rig.want(201, "POST", maps, `{"metadata":{"name":"old"}}`)
	const js, ya = "application/json", "application/yaml"
	for i, c := range []struct {
		method, path, typ, body string
		strict                  int
		says                    string
		warns                   []string
	}{
		{"POST", maps, js, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"NAME","foo":1},"dada":1}`, 400,
			`ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"metadata.foo\", unknown field \"dada\"`,
			[]string{`299 - "unknown field \"metadata.foo\""`, `299 - "unknown field \"dada\""`}},
		{"POST", maps, js, `{"metadata":{"name":"NAME"},"data":{"a":"1","a":"2"}}`, 400, `duplicate field \"data.a\"`,
			[]string{`299 - "duplicate field \"data.a\""`}},
		{"POST", maps, ya, "metadata: {name: NAME}\ndata:\n  a: '1'\n  a: '2'\n", 400, `key \"a\" already set in map`,
			[]string{`299 - "yaml: unmarshal errors:   line 4: key \"a\" already set in map"`}},
		{"POST", maps, ya, "metadata: {name: NAME}\nspec: {}\n", 400, `unknown field \"spec\"`, []string{`299 - "unknown field \"spec\""`}},
		{"PUT", maps + "/old", js, `{"metadata":{"name":"old"},"Data":{}}`, 400, `unknown field \"Data\"`, []string{`299 - "unknown field \"Data\""`}},
		{"PATCH", maps + "/old", "application/merge-patch+json", `{"foo":1}`, 422, `unknown field \"foo\"`, []string{`299 - "unknown field \"foo\""`}},
		{"PATCH", maps + "/old", "application/strategic-merge-patch+json", `{"foo":1}`, 422, `unknown field \"foo\"`, []string{`299 - "unknown field \"foo\""`}},
		{"PATCH", maps + "/old", "application/json-patch+json", `[{"op":"add","path":"/foo","value":1}]`, 422, `unknown field \"foo\"`, []string{`299 - "unknown field \"foo\""`}},
	} {
		for _, mode := range []string{"Strict", "Warn", "Ignore", ""} {
			sep := "?fieldValidation="
			body := strings.ReplaceAll(c.body, "NAME", fmt.Sprintf("x%d%s", i, strings.ToLower(mode)))
			resp, got := rig.call(c.method, c.path+sep+mode, "", body, "Content-Type", c.typ)
			if mode == "Strict" {
				if resp.StatusCode != c.strict || !strings.Contains(got, "strict decoding error: ") || !strings.Contains(got, c.says) {
					t.Errorf("%d strict: %d %s", i, resp.StatusCode, got)
				}
				continue
			}
			want := c.warns
			if mode == "Ignore" {
				want = nil
			}
			if w := resp.Header.Values("Warning"); resp.StatusCode >= 300 || fmt.Sprint(w) != fmt.Sprint(want) {
				t.Errorf("%d %q: %d, warnings %q, want %q; %s", i, mode, resp.StatusCode, w, want, got)
			}
		}
	}
}

func TestWriteOptions(t *testing.T) {
	rig := live(t)
	const maps = "/api/v1/namespaces/default/configmaps"
	one := maps + "/m"
	rig.want(201, "POST", maps, `{"metadata":{"name":"m"}}`)
	long := strings.Repeat("x", 129)
	for _, c := range []struct {
		method, path, body string
		code               int
		says               string
		headers            []string
	}{
		{"POST", maps + "?dryRun=", `{}`, 422, `CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"\"]: supported values: \"All\"`, nil},
		{"POST", maps + "?dryRun=all", `{}`, 422, `dryRun: Unsupported value: [\"all\"]`, nil},
		{"PUT", one + "?dryRun=x", `{}`, 422, `UpdateOptions.meta.k8s.io \"\" is invalid: dryRun`, nil},
		{"PATCH", one + "?dryRun=x", `{}`, 422, `PatchOptions.meta.k8s.io \"\" is invalid: dryRun`, []string{"Content-Type", "application/merge-patch+json"}},
		{"POST", maps + "?fieldManager=" + long, `{}`, 422, `fieldManager: Too long: may not be more than 128 bytes`, nil},
		{"POST", maps + "?fieldManager=a%09b", `{}`, 422, `fieldManager: Invalid value: \"a\\tb\": invalid character U+0009 (at position 1)`, nil},
		{"POST", maps + "?fieldValidation=strict", `{}`, 422, `fieldValidation: Unsupported value: \"strict\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"`, nil},
		{"PATCH", one + "?force=true", `{}`, 422, `force: Forbidden: may not be specified for non-apply patch`, []string{"Content-Type", "application/merge-patch+json"}},
		{"PATCH", one, `{}`, 422, `fieldManager: Required value: is required for apply patch`, []string{"Content-Type", "application/apply-patch+yaml"}},
		{"DELETE", one + "?propagationPolicy=odd", ``, 422, `DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"odd\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"`, nil},
		{"DELETE", one + "?propagationPolicy=Orphan&orphanDependents=true", ``, 422, `propagationPolicy: Invalid value: \"Orphan\": orphanDependents and deletionPropagation cannot be both set`, nil},
		{"DELETE", one, `{"propagationPolicy":"Orphan","orphanDependents":false}`, 422, `orphanDependents and deletionPropagation cannot be both set`, nil},
		{"DELETE", one + "?dryRun=some", ``, 422, `dryRun: Unsupported value: [\"some\"]`, nil},
		{"DELETE", one, `{"dryRun":["All","x"]}`, 422, `dryRun: Unsupported value: [\"All\",\"x\"]`, nil},
		{"DELETE", one, `{"gracePeriodSeconds":"x"}`, 400, `BadRequest`, nil},
		{"DELETE", one, `{"kind":"Pod","apiVersion":"v1"}`, 400, `cannot be converted to DeleteOptions`, nil},
		{"DELETE", one, `{} {}`, 400, `BadRequest`, nil},
		{"DELETE", one, `x`, 415, `accepted media types include`, []string{"Content-Type", "text/plain"}},
		{"DELETE", one, `{"preconditions":{"uid":"x"}}`, 409, `the UID in the precondition (x) does not match the UID in record`, nil},
		{"DELETE", one, `{"preconditions":{"resourceVersion":"999"}}`, 409, `the ResourceVersion in the precondition (999) does not match`, nil},
		{"DELETE", one + "?dryRun=All", ``, 200, `"status":"Success"`, nil},
		{"DELETE", one, `{"apiVersion":"apps/v1","kind":"DeleteOptions","dryRun":["All"]}`, 200, `"status":"Success"`, nil},
		{"DELETE", one, "dryRun: [All]\n", 200, `"status":"Success"`, []string{"Content-Type", "application/yaml"}},
		{"DELETE", maps + "?resourceVersionMatch=Exact", ``, 422, `ListOptions.meta.k8s.io`, nil},
		{"POST", maps + "?nosuch=1&pretty=0", `{"metadata":{"name":"n"}}`, 201, `{"kind":"ConfigMap",`, nil},
		{"POST", maps, `{"metadata":{"name":"n"}}{}`, 400, `after top-level value`, nil},
		{"POST", maps, ``, 400, `BadRequest`, nil},
		{"POST", maps, "\x1f\x8b\x08\x00\x00", 400, `BadRequest`, []string{"Content-Encoding", "gzip"}},
		{"POST", maps, strings.Repeat(`{"a":`, 20000), 400, `exceeded max depth`, nil},
		{"POST", maps, strings.Repeat(`[`, 20000), 400, `BadRequest`, []string{"Content-Type", "application/yaml"}},
		{"POST", maps, strings.Repeat(" ", 3<<20+1), 413, `Request entity too large: limit is 3145728","reason":"RequestEntityTooLarge"`, nil},
		{"PATCH", one, "[" + strings.Repeat(`{"op":"test","path":"/kind","value":"ConfigMap"},`, 10001) + `{"op":"test","path":"/kind","value":"x"}]`, 413,
			`The allowed maximum operations in a JSON patch is 10000, got 10002`, []string{"Content-Type", "application/json-patch+json"}},
	} {
		resp, body := rig.call(c.method, c.path, "", c.body, c.headers...)
		if resp.StatusCode != c.code || !strings.Contains(body, c.says) {
			t.Errorf("%s %s %.80s: %d %.300s, want %d and %s", c.method, c.path, c.body, resp.StatusCode, body, c.code, c.says)
		}
	}
	rig.want(200, "GET", one, "")
}

// A delete that cascades and has not ended yet is accepted, not done: what old clients rely on.
func TestDeleteAccepted(t *testing.T) {
	rig := live(t)
	const maps = "/api/v1/namespaces/default/configmaps"
	rig.want(201, "POST", maps, `{"metadata":{"name":"m","finalizers":["a.b/c"]}}`)
	rig.want(202, "DELETE", maps+"/m", `{"orphanDependents":false}`)
	rig.want(200, "DELETE", maps+"/m", "")
}

func TestMethods(t *testing.T) {
	rig := live(t)
	const maps = "/api/v1/namespaces/default/configmaps"
	for _, c := range []struct{ method, path, allow string }{
		{"POST", "/api/v1/configmaps", "DELETE, GET, HEAD"},
		{"PUT", maps, "DELETE, GET, HEAD, POST"},
		{"POST", maps + "/x", "DELETE, GET, HEAD, PATCH, PUT"},
		{"OPTIONS", maps, "DELETE, GET, HEAD, POST"},
		{"TRACE", maps + "/x", "DELETE, GET, HEAD, PATCH, PUT"},
		{"DELETE", "/api/v1/namespaces/default/pods/x/status", "GET, HEAD, PATCH, PUT"},
		{"GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "POST"},
	} {
		resp, body := rig.call(c.method, c.path, "", "")
		if a := resp.Header.Get("Allow"); resp.StatusCode != 405 || a != c.allow ||
			!strings.Contains(body, `"message":"the server does not allow this method on the requested resource","reason":"MethodNotAllowed","details":{},"code":405}`) {
			t.Errorf("%s %s: %d, Allow %q, %s", c.method, c.path, resp.StatusCode, a, body)
		}
	}
	for path, says := range map[string]string{
		"/apis/no.such/v1/things":  "404 page not found\n",
		"/apis/apps/v9/things":     "404 page not found\n",
		"/api/v9":                  "404 page not found\n",
		"/nosuch":                  `"/apis/apps/v1",`,
		"/api/v1/nosuch":           `"message":"the server could not find the requested resource","reason":"NotFound","details":{},"code":404}`,
		"/apis/apps/v1/nosuch/a/b": `"reason":"NotFound"`,
	} {
		if body := rig.want(404, "GET", path, ""); !strings.Contains(body, says) {
			t.Errorf("%s: %s", path, body)
		}
	}
}

func TestWarnings(t *testing.T) {
	long := strings.Repeat("é", 300)
	var many []string
	for i := range 40 {
		many = append(many, fmt.Sprint(i, long))
	}
	for _, c := range []struct {
		in   []string
		want []string
	}{
		{[]string{"a", "b", "a", ""}, []string{`299 - "a"`, `299 - "b"`}},
		{[]string{"x \"y\" \\ z\nnext\x00"}, []string{`299 - "x \"y\" \\ z next "`}},
		{[]string{"\xff"}, []string{"299 - \"\uFFFD\""}},
		{[]string{long}, []string{`299 - "` + long + `"`}},
	} {
		x := &exchange{ResponseWriter: &discard{}, req: &http.Request{}}
		x.warn(c.in)
		if got := x.Header().Values("Warning"); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%q: %q", c.in, got)
		}
	}
	x := &exchange{ResponseWriter: &discard{}, req: &http.Request{}}
	x.warn(many)
	if got := x.Header().Values("Warning"); len(got) != 16 || len([]rune(got[0])) != 256+len(`299 - ""`) {
		t.Errorf("%d warnings, the first of %d", len(got), len([]rune(got[0])))
	}
}

func TestGzipAccepted(t *testing.T) {
	for in, want := range map[string]bool{"gzip": true, "deflate, gzip": true, "gzip;q=0": false, "gzip; q=0.5": true, "": false, "xgzip": false, "identity": false, "gzip;q=x": false} {
		if got := acceptsGzip([]string{in}); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func TestNegotiate(t *testing.T) {
	for in, want := range map[string]string{
		"":                    api.MediaJSON,
		"*/*":                 api.MediaJSON,
		"application/*;q=0.5": api.MediaJSON,
		"application/yaml":    api.MediaYAML,
		"application/json;q=0.5, application/yaml":                     api.MediaYAML,
		"application/json, application/yaml":                           api.MediaJSON,
		"text/html, application/vnd.kubernetes.protobuf;q=0.1":         api.MediaProtobuf,
		"application/cbor;q=0.9,application/json;q=1":                  api.MediaJSON,
		"application/json;q=0, application/cbor":                       api.MediaCBOR,
		"application/json; charset=utf-8":                              api.MediaJSON,
		"application/json;as=Odd;g=meta.k8s.io;v=v1, application/yaml": api.MediaYAML,
		"text/html":            "none",
		"application/json;q=0": "none",
	} {
		req, _ := http.NewRequest("GET", "/", nil)
		if in != "" {
			req.Header.Set("Accept", in)
		}
		m, ok := negotiate(req, anyMedia)
		if !ok {
			m.typ = "none"
		}
		if m.typ != want {
			t.Errorf("%q: %s, want %s", in, m.typ, want)
		}
	}
	for query, want := range map[string]bool{"": false, "pretty=true": true, "pretty=1": true, "pretty=yes": false, "pretty": false, "pretty=0": false} {
		req, _ := http.NewRequest("GET", "/?"+query, nil)
		if got := pretty(req); got != want {
			t.Errorf("?%s: %v", query, got)
		}
		req.Header.Set("User-Agent", "curl/8")
		if got := pretty(req); got != (want || query == "" || query == "pretty") {
			t.Errorf("?%s by curl: %v", query, got)
		}
	}
}

// discard is a ResponseWriter for what has only headers.
type discard struct{ h http.Header }

func (d *discard) Header() http.Header {
	if d.h == nil {
		d.h = http.Header{}
	}
	return d.h
}
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}
