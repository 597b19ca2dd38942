package openapi

import (
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
)

// A way is a verb as OpenAPI tells of it.
type way struct {
	verb    api.Verb
	method  string
	action  string // x-kubernetes-action
	id      string // how the operation's id begins
	options []param
	body    bool
}

type param struct{ name, typ, doc string }

var (
	creating = way{api.Create, "post", "post", "create", writeParams, true}
	reading  = way{api.Get, "get", "get", "read", nil, false}
	listing  = way{api.List, "get", "list", "list", listParams, false}
	updating = way{api.Update, "put", "put", "replace", writeParams, true}
	patching = way{api.Patch, "patch", "patch", "patch", append(slices.Clone(writeParams), param{"force", "boolean", first(patchDocs["force"])}), true}
	deleting = way{api.Delete, "delete", "delete", "delete", deleteParams, true}
	clearing = way{api.DeleteCollection, "delete", "deletecollection", "delete", append(slices.Clone(deleteParams), listParams[1:]...), true}
)

var (
	listDocs   = metav1.ListOptions{}.SwaggerDoc()
	patchDocs  = metav1.PatchOptions{}.SwaggerDoc()
	deleteDocs = metav1.DeleteOptions{}.SwaggerDoc()

	listParams = documented(listDocs, "allowWatchBookmarks boolean", "continue string", "fieldSelector string", "labelSelector string",
		"limit integer", "resourceVersion string", "resourceVersionMatch string", "sendInitialEvents boolean",
		"timeoutSeconds integer", "watch boolean")
	writeParams  = documented(patchDocs, "dryRun string", "fieldManager string", "fieldValidation string")
	deleteParams = documented(deleteDocs, "dryRun string", "gracePeriodSeconds integer", "orphanDependents boolean", "propagationPolicy string")
)

func documented(docs map[string]string, names ...string) (out []param) {
	for _, n := range names {
		name, typ, _ := strings.Cut(n, " ")
		out = append(out, param{name, typ, first(docs[name])})
	}
	return out
}

// first is the first sentence of a text: what a parameter is for, without the
// treatise that follows.
func first(doc string) string {
	if i := strings.Index(doc, ". "); i >= 0 {
		return doc[:i+1]
	}
	return doc
}

// resource describes the paths of one resource.
func (b *builder) resource(r *api.Resource) {
	name, list := b.define(r)
	root, scope := r.Path(""), ""
	if r.Scope == api.Namespaced {
		root, scope = r.Path("{namespace}"), "Namespaced"
	}
	o := operations{b: b, r: r, kind: r.GVK(), subject: scope + r.Kind}
	o.add(root, listing, list, "")
	o.add(root, creating, name, name)
	o.subject = "Collection" + scope + r.Kind
	o.add(root, clearing, metaName+"Status", metaName+"DeleteOptions")
	o.subject = scope + r.Kind
	if r.Scope == api.Namespaced && r.Can(api.List) {
		all := o
		all.subject = r.Kind + "ForAllNamespaces"
		all.add(r.Path(""), listing, list, "")
	}
	one := root + "/{name}"
	o.add(one, reading, name, "")
	o.add(one, updating, name, name)
	o.add(one, patching, name, metaName+"Patch")
	o.add(one, deleting, metaName+"Status", metaName+"DeleteOptions")
	for sub, s := range b.subs(r, name) {
		b.subresource(r, one+"/"+sub, scope+r.Kind+title(sub), s)
	}
}

// A part is a subresource as OpenAPI tells of it.
type part struct {
	verbs   []api.Verb
	kind    schema.GroupVersionKind
	name    string // of the definition; empty for a stream
	connect bool
}

func (b *builder) subs(r *api.Resource, name string) map[string]part {
	out := map[string]part{}
	plain := []api.Verb{api.Get, api.Patch, api.Update}
	if r.ServesStatus() {
		out["status"] = part{plain, r.GVK(), name, false}
	}
	if r.Scale != nil {
		out["scale"] = part{plain, schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}, "io.k8s.api.autoscaling.v1.Scale", false}
	}
	for sub, s := range r.Subs {
		p := part{verbs: s.Verbs, kind: r.GVK(), name: name, connect: s.Connect}
		if s.Kind != "" {
			p.kind.Kind = s.Kind
			if gv, err := schema.ParseGroupVersion(s.API); s.API != "" && err == nil {
				p.kind.Group, p.kind.Version = gv.Group, gv.Version
			}
		}
		if s.In != nil {
			if n, ok := s.In().(interface{ OpenAPIModelName() string }); ok {
				p.name = n.OpenAPIModelName()
			}
		}
		out[sub] = p
	}
	return out
}

func (b *builder) subresource(r *api.Resource, path, subject string, p part) {
	o := operations{b: b, r: r, kind: p.kind, subject: subject, verbs: p.verbs}
	if p.connect {
		for _, v := range p.verbs {
			for _, w := range []way{reading, creating, updating, patching, deleting} {
				if w.verb == v {
					w.action, w.id, w.options, w.body = "connect", "connect"+title(w.method), nil, false
					o.add(path, w, "", "")
				}
			}
		}
		return
	}
	o.add(path, reading, p.name, "")
	o.add(path, creating, p.name, p.name)
	o.add(path, updating, p.name, p.name)
	o.add(path, patching, p.name, metaName+"Patch")
	o.add(path, deleting, metaName+"Status", metaName+"DeleteOptions")
}

// operations adds operations on one kind to a document's paths.
type operations struct {
	b       *builder
	r       *api.Resource
	kind    schema.GroupVersionKind
	subject string
	verbs   []api.Verb // what is served; the resource's if nil
}

func (o *operations) add(path string, w way, answer, body string) {
	verbs := o.verbs
	if verbs == nil {
		verbs = o.r.Verbs
	}
	if !slices.Contains(verbs, w.verb) {
		return
	}
	b := o.b
	item := b.paths[path]
	if item == nil {
		item = map[string]any{"parameters": b.params(pathParams(path))}
		b.paths[path] = item
	}
	op := map[string]any{
		"operationId": w.id + groupID(o.r.GroupVersion()) + o.subject,
		"description": w.id + " " + o.kind.Kind,
		"tags":        []string{tag(o.r.GroupVersion())},
		"responses":   b.responses(w, answer),

		"x-kubernetes-action":             w.action,
		"x-kubernetes-group-version-kind": gvk{o.kind.Group, o.kind.Version, o.kind.Kind},
	}
	params := b.params(w.options)
	custom := o.r.Family != nil
	if w.body && body != "" {
		types := []string{api.MediaJSON, api.MediaYAML, api.MediaProtobuf}
		if w.verb == api.Patch {
			types = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"}
		}
		if custom {
			types = slices.DeleteFunc(types, func(t string) bool { return t == api.MediaProtobuf || strings.Contains(t, "strategic") })
		}
		if b.old {
			op["consumes"] = types
			params = append(params, map[string]any{"name": "body", "in": "body", "required": w.verb != api.Delete && w.verb != api.DeleteCollection, "schema": b.ref(body)})
		} else {
			content := map[string]any{}
			for _, t := range types {
				content[t] = map[string]any{"schema": b.ref(body)}
			}
			op["requestBody"] = map[string]any{"content": content}
		}
	}
	if b.old {
		op["schemes"], op["produces"] = []string{"https"}, []string{api.MediaJSON, api.MediaYAML, api.MediaProtobuf}
	}
	if len(params) > 0 {
		op["parameters"] = params
	}
	item[w.method] = op
}

func (b *builder) responses(w way, answer string) map[string]any {
	one := func(text string) map[string]any {
		out := map[string]any{"description": text}
		switch {
		case b.old && answer == "":
			out["schema"] = map[string]any{"type": "string"}
		case b.old:
			out["schema"] = b.ref(answer)
		default:
			s := map[string]any{"type": "string"}
			content := map[string]any{"*/*": map[string]any{"schema": s}}
			if answer != "" {
				content = map[string]any{}
				for _, t := range []string{api.MediaJSON, api.MediaYAML, api.MediaProtobuf} {
					content[t] = map[string]any{"schema": b.ref(answer)}
				}
			}
			out["content"] = content
		}
		return out
	}
	out := map[string]any{"401": map[string]any{"description": "Unauthorized"}, "200": one("OK")}
	switch w.verb {
	case api.Create:
		out["201"], out["202"] = one("Created"), one("Accepted")
	case api.Update, api.Patch:
		out["201"] = one("Created")
	case api.Delete:
		out["202"] = one("Accepted")
	}
	return out
}

func pathParams(path string) []param {
	out := []param{}
	if strings.Contains(path, "{name}") {
		out = append(out, param{"name", "string", "name of the object"})
	}
	if strings.Contains(path, "{namespace}") {
		out = append(out, param{"namespace", "string", "object name and auth scope, such as for teams and projects"})
	}
	return append(out, param{"pretty", "string", "If 'true', then the output is pretty printed."})
}

func (b *builder) params(list []param) []map[string]any {
	out := []map[string]any{}
	for _, p := range list {
		m := map[string]any{"name": p.name, "in": "query", "description": p.doc}
		if p.name == "name" || p.name == "namespace" {
			m["in"], m["required"] = "path", true
		}
		typ := map[string]any{"type": p.typ, "uniqueItems": true}
		if b.old {
			maps.Copy(m, typ)
		} else {
			m["schema"] = typ
		}
		out = append(out, m)
	}
	return out
}

// groupID is a group and version in operation ids: CoreV1, RbacAuthorizationV1.
func groupID(gv schema.GroupVersion) string {
	out := "Core"
	if gv.Group != "" {
		out = ""
		for _, p := range strings.Split(strings.TrimSuffix(gv.Group, ".k8s.io"), ".") {
			out += title(p)
		}
	}
	return out + title(gv.Version)
}

func tag(gv schema.GroupVersion) string {
	g := strings.TrimSuffix(gv.Group, ".k8s.io")
	if g == "" {
		g = "core"
	}
	return strings.ReplaceAll(g, ".", "") + "_" + gv.Version
}

func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
