package httpapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"proa/internal/api"
	"proa/internal/httpapi/openapi"
)

// openapiDocs are OpenAPI documents, each made on first use
// and kept compressed.
type openapiDocs struct {
	mu   sync.Mutex
	docs map[string]*openapiDoc
}

type openapiDoc struct {
	once sync.Once
	body []byte // gzip
	err  error
}

func (d *openapiDocs) get(name string, make func() ([]byte, error)) ([]byte, error) {
	d.mu.Lock()
	if d.docs == nil {
		d.docs = map[string]*openapiDoc{}
	}
	doc := d.docs[name]
	if doc == nil {
		doc = &openapiDoc{}
		d.docs[name] = doc
	}
	d.mu.Unlock()
	doc.once.Do(func() {
		body, err := make()
		if err != nil {
			doc.err = err
			return
		}
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		z.Write(body)
		z.Close()
		doc.body = out.Bytes()
	})
	return doc.body, doc.err
}

// openapiPath is what a group and version is called under /openapi/v3.
func (v *versionOf) openapiPath() string {
	if v.Group == "" {
		return "api/" + v.Version
	}
	return "apis/" + v.Group + "/" + v.Version
}

// openapiBase is what all documents depend on.
func (x *exchange) openapiBase() string { return openapi.Digest() + x.s.Version.GitVersion }

// openapiHash names the state of the documents about everything.
func (x *exchange) openapiHash(vs ...*versionOf) string {
	sum := sha256.New()
	for _, v := range vs {
		io.WriteString(sum, v.openapiHash(x.openapiBase()))
	}
	return strings.ToUpper(hex.EncodeToString(sum.Sum(nil)))
}

func (v *versionOf) kinds() []*api.Resource {
	out := make([]*api.Resource, len(v.resources))
	for i, r := range v.resources {
		out[i] = r.Resource
	}
	return out
}

// serveOpenAPI3 lists the documents there are.
func (x *exchange) serveOpenAPI3() {
	type where struct {
		URL string `json:"serverRelativeURL"`
	}
	paths := map[string]where{}
	for _, g := range x.cat.discover().sorted {
		for _, v := range g.versions {
			p := v.openapiPath()
			if v.far != nil {
				if h := v.far.OpenAPI; h != "" {
					paths[p] = where{"/openapi/v3/" + p + "?" + url.Values{"hash": {h}}.Encode()}
				}
				continue
			}
			paths[p] = where{"/openapi/v3/" + p + "?hash=" + v.openapiHash(x.openapiBase())}
		}
	}
	x.plainJSON(http.StatusOK, paths, "paths")
}

// serveOpenAPI3Group answers with the document of one group and version.
func (x *exchange) serveOpenAPI3Group() {
	name := strings.TrimPrefix(x.req.URL.Path, "/openapi/v3/")
	for _, g := range x.cat.discover().sorted {
		for _, v := range g.versions {
			if v.openapiPath() == name && v.far == nil {
				x.openapi3(v, name)
				return
			}
		}
	}
	x.media, _ = negotiate(x.req, anyMedia)
	http.NotFound(x, x.req)
}

func (x *exchange) openapi3(v *versionOf, name string) {
	if !acceptsJSON(x.req) {
		http.Error(x, "only application/json is served", http.StatusNotAcceptable)
		return
	}
	hash := v.openapiHash(x.openapiBase())
	if asked := x.req.URL.Query().Get("hash"); asked != "" {
		if asked != hash {
			http.Redirect(x, x.req, "/openapi/v3/"+name+"?hash="+hash, http.StatusMovedPermanently)
			return
		}
		x.Header().Set("Cache-Control", "public, immutable")
		x.Header().Set("Expires", "Fri, 31 Dec 2100 00:00:00 GMT")
	}
	x.openapi(&v.docs, name, api.MediaJSON, hash, func() ([]byte, error) {
		return openapi.V3(openapi.Info{Title: "Kubernetes", Version: x.s.Version.GitVersion}, v.kinds())
	})
}

// openapi2Proto is the OpenAPI v2 document in protobuf, which is what kubectl asks
// for when it has to check an object itself. Its older name has an @, which is
// not allowed there: it is asked for, but never answered with.
const openapi2Proto = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"

// acceptsProto says whether the protobuf form is asked for.
func acceptsProto(req *http.Request) bool {
	for _, line := range req.Header.Values("Accept") {
		for clause := range strings.SplitSeq(line, ",") {
			typ, _, _ := strings.Cut(clause, ";")
			if strings.Replace(strings.TrimSpace(typ), "@", ".", 1) == openapi2Proto {
				return true
			}
		}
	}
	return false
}

func (x *exchange) serveOpenAPI2() {
	proto := acceptsProto(x.req)
	if !proto && !acceptsJSON(x.req) {
		http.Error(x, "only application/json and "+openapi2Proto+" are served", http.StatusNotAcceptable)
		return
	}
	var all, far []*versionOf
	var kinds []*api.Resource
	for _, g := range x.cat.discover().sorted {
		for _, v := range g.versions {
			if v.far != nil {
				far = append(far, v)
				continue
			}
			all = append(all, v)
			kinds = append(kinds, v.kinds()...)
		}
	}
	others, tag := x.others(far)
	docs, hash := &x.cat.v2, x.openapiHash(all...)
	if len(others) > 0 {
		sum := sha256.Sum256([]byte(hash + tag))
		docs, hash = x.cat.joined.of(tag), strings.ToUpper(hex.EncodeToString(sum[:]))
	}
	info := openapi.Info{Title: "Kubernetes", Version: x.s.Version.GitVersion}
	if proto {
		x.openapi(docs, "protobuf", openapi2Proto, hash, func() ([]byte, error) { return openapi.V2Proto(info, kinds, others...) })
		return
	}
	x.openapi(docs, "", api.MediaJSON, hash, func() ([]byte, error) { return openapi.V2(info, kinds, others...) })
}

// others asks the other servers for their documents, all at once. Those that
// cannot be had are left out. The tag changes with what comes in.
func (x *exchange) others(far []*versionOf) (out []openapi.Other, tag string) {
	found := make([]openapi.Other, len(far))
	tags := make([]string, len(far))
	var asked sync.WaitGroup
	for i, v := range far {
		if v.far.V2 != nil {
			asked.Go(func() {
				found[i].Under = "/" + v.openapiPath()
				found[i].Document, tags[i] = v.far.V2(x.ctx)
			})
		}
	}
	asked.Wait()
	for i, o := range found {
		if len(o.Document) > 0 {
			out, tag = append(out, o), tag+o.Under+" "+tags[i]+"\n"
		}
	}
	return out, tag
}

// joinedDocs are the documents about everything with those of other servers,
// for the last state of these that was seen.
type joinedDocs struct {
	mu   sync.Mutex
	tag  string
	docs *openapiDocs
}

func (j *joinedDocs) of(tag string) *openapiDocs {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.docs == nil || j.tag != tag {
		j.docs, j.tag = &openapiDocs{}, tag
	}
	return j.docs
}

// openapi writes a document, as it is kept to a client that takes that.
func (x *exchange) openapi(docs *openapiDocs, name, media, hash string, make func() ([]byte, error)) {
	h := x.Header()
	if media != api.MediaJSON {
		hash += "-protobuf" // another form is another entity
	}
	h.Set("ETag", `"`+hash+`"`)
	h.Set("Vary", "Accept, Accept-Encoding")
	if x.req.Header.Get("If-None-Match") == `"`+hash+`"` {
		x.WriteHeader(http.StatusNotModified)
		return
	}
	body, err := docs.get(name, make)
	if err != nil {
		x.fail(err)
		return
	}
	h.Set("Content-Type", media)
	if x.gzips() {
		h.Set("Content-Encoding", "gzip")
		x.Write(body)
		return
	}
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		x.fail(err)
		return
	}
	io.Copy(x, z)
}

// acceptsJSON says whether plain JSON will do.
func acceptsJSON(req *http.Request) bool {
	_, ok := negotiate(req, func(m media) bool { return m.typ == api.MediaJSON && m.as == asItself })
	return ok
}
