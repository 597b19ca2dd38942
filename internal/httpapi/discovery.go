package httpapi

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
)

// aggregated is one document of aggregated discovery (KEP-3352).
type aggregated struct {
	body []byte
	etag string
}

// subs are the names of a resource's subresources, sorted.
func (r *resource) subs() []string {
	names := slices.Collect(maps.Keys(r.Subs))
	if r.ServesStatus() && r.Subs["status"] == nil {
		names = append(names, "status")
	}
	if r.Scale != nil && r.Subs["scale"] == nil {
		names = append(names, "scale")
	}
	slices.Sort(names)
	return names
}

// subKind is the kind that a subresource deals in.
func (r *resource) subKind(sub string) schema.GroupVersionKind {
	t := target{res: r, sub: sub}
	return t.kindOf(&metav1.Status{})
}

func verbNames(verbs []api.Verb) []string {
	out := make([]string, len(verbs))
	for i, v := range verbs {
		out[i] = string(v)
	}
	slices.Sort(out)
	return out
}

// apiResources is the old discovery document of one group and version.
func (v *versionOf) apiResources() *metav1.APIResourceList {
	l := &metav1.APIResourceList{GroupVersion: v.String(), APIResources: []metav1.APIResource{}}
	for _, r := range v.resources {
		l.APIResources = append(l.APIResources, metav1.APIResource{
			Name: r.Resource.Resource, SingularName: r.Singular, Namespaced: bool(r.Scope), Kind: r.Kind,
			Verbs: verbNames(r.Verbs), ShortNames: r.Short, Categories: r.Categories, StorageVersionHash: r.storageHash(),
		})
		for _, sub := range r.subs() {
			a := metav1.APIResource{Name: r.Resource.Resource + "/" + sub, Namespaced: bool(r.Scope), Verbs: verbNames(r.verbs(sub))}
			k := r.subKind(sub)
			a.Kind = k.Kind
			if k.GroupVersion() != v.GroupVersion {
				a.Group, a.Version = k.Group, k.Version
			}
			l.APIResources = append(l.APIResources, a)
		}
	}
	return l
}

// storageHash names the version in which objects of the resource are stored, for
// clients that migrate them; empty if they are not.
func (r *resource) storageHash() string {
	if r.Virtual {
		return ""
	}
	s := r.Stored()
	sum := sha256.Sum256([]byte(s.Group + "/" + s.Version + "/" + s.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}

func (g *group) apiGroup() metav1.APIGroup {
	out := metav1.APIGroup{Name: g.Name}
	for _, v := range g.versions {
		out.Versions = append(out.Versions, metav1.GroupVersionForDiscovery{GroupVersion: v.String(), Version: v.Version})
	}
	out.PreferredVersion = out.Versions[0]
	return out
}

// aggregate joins the groups' parts.
func aggregate(groups []*group) aggregated {
	size := 0
	for _, g := range groups {
		size += len(g.discovered) + 1
	}
	body := append(make([]byte, 0, size+128), `{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","metadata":{},"items":[`...)
	for i, g := range groups {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, g.discovered...)
	}
	body = append(body, "]}"...)
	return aggregated{body, etag(body)}
}

func (r *resource) discovered() discoveryv2.APIResourceDiscovery {
	kind := metav1.GroupVersionKind(r.GVK())
	d := discoveryv2.APIResourceDiscovery{
		Resource: r.Resource.Resource, ResponseKind: &kind, SingularResource: r.Singular, Scope: discoveryv2.ScopeCluster,
		Verbs: verbNames(r.Verbs), ShortNames: r.Short, Categories: r.Categories,
	}
	if r.Scope == api.Namespaced {
		d.Scope = discoveryv2.ScopeNamespace
	}
	for _, sub := range r.subs() {
		k := metav1.GroupVersionKind(r.subKind(sub))
		d.Subresources = append(d.Subresources, discoveryv2.APISubresourceDiscovery{
			Subresource: sub, ResponseKind: &k, Verbs: verbNames(r.verbs(sub))})
	}
	return d
}

func etag(body []byte) string {
	sum := sha512.Sum512(body)
	return `"` + strings.ToUpper(hex.EncodeToString(sum[:])) + `"`
}

// discovers negotiates the form of a document of discovery, and answers what is
// no read. False: it has been answered.
func (x *exchange) discovers() bool {
	if m := x.req.Method; m != http.MethodGet && m != http.MethodHead {
		x.Header().Set("Allow", http.MethodGet)
		http.Error(x, "405: Method Not Allowed", http.StatusMethodNotAllowed)
		return false
	}
	x.media, _ = negotiate(x.req, func(m media) bool {
		return !m.stream && m.typ != api.MediaCBOR && (m.as == asItself || m.as == asGroups)
	})
	x.Header().Set("Vary", "Accept")
	return true
}

// aggregated answers with all groups in one document, in the version asked for:
// v2, or v2beta1, which is the same under another name.
func (x *exchange) aggregated(a aggregated) {
	m := x.media
	body, tag := a.body, a.etag
	if m.version != "v2" {
		body = bytes.Replace(body, []byte(`"apiVersion":"apidiscovery.k8s.io/v2"`), []byte(`"apiVersion":"apidiscovery.k8s.io/`+m.version+`"`), 1)
		tag = etag(body)
	}
	h := x.Header()
	h.Set("Cache-Control", "public")
	h.Set("ETag", tag)
	if x.req.Header.Get("If-None-Match") == tag {
		x.WriteHeader(http.StatusNotModified)
		return
	}
	if m.typ == api.MediaProtobuf {
		var l discoveryv2.APIGroupDiscoveryList
		err := json.Unmarshal(body, &l)
		if err == nil {
			body, err = encode(&l, schema.FromAPIVersionAndKind(l.APIVersion, l.Kind), m.typ)
		}
		if err != nil {
			x.fail(err)
			return
		}
	}
	x.writeTyped(http.StatusOK, body, []string{m.typ + ";g=apidiscovery.k8s.io;v=" + m.version + ";as=APIGroupDiscoveryList"})
}

func (x *exchange) serveCore() {
	if !x.discovers() {
		return
	}
	d := x.cat.discover()
	if x.media.as == asGroups {
		x.aggregated(d.core)
		return
	}
	doc := &metav1.APIVersions{Versions: []string{}, ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{
		{ClientCIDR: "0.0.0.0/0", ServerAddress: x.req.Host}}}
	for _, g := range d.sorted {
		if g.Name == "" {
			for _, v := range g.versions {
				doc.Versions = append(doc.Versions, v.Version)
			}
		}
	}
	x.document(doc, "", "APIVersions")
}

func (x *exchange) serveGroups() {
	if !x.discovers() {
		return
	}
	d := x.cat.discover()
	if x.media.as == asGroups {
		x.aggregated(d.named)
		return
	}
	doc := &metav1.APIGroupList{Groups: []metav1.APIGroup{}}
	for _, g := range d.sorted {
		if g.Name != "" {
			doc.Groups = append(doc.Groups, g.apiGroup())
		}
	}
	x.document(doc, "v1", "APIGroupList")
}

// serveDiscovery answers /api/v1, /apis/group and /apis/group/version. False if
// there is no such thing.
func (x *exchange) serveDiscovery(path string) bool {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	group, parts := parts[0], parts[1:]
	switch {
	case group == "api" && len(parts) == 1:
		group = ""
	case group == "apis" && (len(parts) == 1 || len(parts) == 2) && parts[0] != "":
		group, parts = parts[0], parts[1:]
	default:
		return false
	}
	g := x.cat.group(group)
	if g == nil {
		return false
	}
	g.discover()
	if len(parts) == 0 {
		if x.discovers() {
			doc := g.apiGroup()
			x.document(&doc, "v1", "APIGroup")
		}
		return true
	}
	for _, v := range g.versions {
		if v.Version != parts[0] || v.far != nil {
			continue
		}
		if !x.discovers() {
			return true
		}
		version := "v1"
		if v.Group == "" {
			version = "" // as ever
		}
		x.document(v.apiResources(), version, "APIResourceList")
		return true
	}
	return false
}

func (x *exchange) document(o runtime.Object, version, kind string) {
	x.media.as = asItself
	x.writeObject(http.StatusOK, o, schema.GroupVersionKind{Version: version, Kind: kind})
}
