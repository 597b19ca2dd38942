package kubeletapi

import (
	"net/http"
	"strings"
)

// An Ask is what a request to a node's server is judged by: a verb on a
// subresource of its Node.
type Ask struct {
	Verb string
	Subs []string // each of them will do; the narrowest comes first
}

// verbs are what HTTP's methods come to. Another one is no verb that a role names,
// so that only those may use it who may do anything.
var verbs = map[string]string{http.MethodPost: "create", http.MethodGet: "get", http.MethodHead: "get",
	http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}

// subs are the subresources that the paths at and below some places stand for
// (kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz, with fine-grained
// authorization). All other places are nodes/proxy.
var subs = []struct {
	at   string
	subs []string
}{
	{"/stats", []string{"stats"}},
	{"/metrics", []string{"metrics"}},
	{"/logs", []string{"log"}},
	{"/spec", []string{"spec"}},
	{"/checkpoint", []string{"checkpoint"}},
	{"/pods", []string{"pods", "proxy"}},
	{"/runningpods", []string{"pods", "proxy"}},
	{"/healthz", []string{"healthz", "proxy"}},
	{"/configz", []string{"configz", "proxy"}},
}

// AskOf says what a request to a node's server is judged by. What gets into a pod
// is a create, also where it begins with a GET, as a WebSocket does: the right to
// read is none to run commands.
func AskOf(r *http.Request) Ask {
	a := Ask{Verb: verbs[r.Method], Subs: []string{"proxy"}}
	path := r.URL.Path
	for _, s := range subs {
		if below(path, s.at) {
			a.Subs = s.subs
		}
	}
	for _, into := range []string{"/exec", "/attach", "/run", "/portForward"} {
		if below(path, into) {
			a.Verb = "create"
		}
	}
	return a
}

func below(path, at string) bool { return path == at || strings.HasPrefix(path, at+"/") }
