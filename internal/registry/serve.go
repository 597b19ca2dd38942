package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// routes declares the endpoints. A repository has slashes in its name, so the
// paths are cut from behind, in repository.
func (r *Registry) routes() {
	r.mux = http.NewServeMux()
	r.mux.HandleFunc("/v2/{$}", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, struct{}{}) })
	r.mux.HandleFunc("GET /v2/_catalog", r.catalog)
	r.mux.HandleFunc("/v2/", r.repository)
	r.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, "UNSUPPORTED", "this is an OCI registry: its API is below /v2/")
	})
}

// ServeHTTP answers the OCI distribution API. A Host that is a name other than
// localhost is refused, which keeps web pages out (DNS rebinding); changes are
// for root alone.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	host := req.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host != "localhost" && net.ParseIP(strings.Trim(host, "[]")) == nil {
		refuse(w, http.StatusForbidden, "DENIED", "this registry is asked by address, not by name")
		return
	}
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		if err := mayPush(req); err != nil {
			refuse(w, http.StatusForbidden, "DENIED", err.Error())
			return
		}
	}
	r.mux.ServeHTTP(w, req)
}

// repository serves /v2/NAME/{manifests,blobs,tags}/…
func (r *Registry) repository(w http.ResponseWriter, req *http.Request) {
	path := strings.TrimPrefix(req.URL.Path, "/v2/")
	for _, e := range []struct {
		infix string
		serve func(http.ResponseWriter, *http.Request, Name, string)
	}{
		{"/blobs/uploads/", r.uploads},
		{"/blobs/uploads", r.uploads},
		{"/blobs/", r.blobs},
		{"/manifests/", r.manifests},
		{"/tags/list", r.tags},
		{"/referrers/", r.referrers},
	} {
		i := strings.LastIndex(path, e.infix)
		if i < 0 || strings.Contains(path[i+len(e.infix):], "/") {
			continue
		}
		name := named(req.URL.Query().Get("ns"), path[:i])
		if err := (Name{Host: name.Host, Repo: name.Repo, Tag: "any"}).check(); err != nil {
			refuse(w, http.StatusBadRequest, "NAME_INVALID", err.Error())
			return
		}
		e.serve(w, req, name, path[i+len(e.infix):])
		return
	}
	refuse(w, http.StatusNotFound, "UNSUPPORTED", "no such endpoint")
}

// named finds the host that a repository in a path belongs to.
func named(ns, repo string) Name {
	if ns == "" {
		first, rest, ok := strings.Cut(repo, "/")
		if ok && looksLikeHost(first) {
			ns, repo = first, rest
		} else {
			ns = self
		}
	}
	host, repo := canonical(ns, repo)
	return Name{Host: host, Repo: repo}
}

func (r *Registry) manifests(w http.ResponseWriter, req *http.Request, name Name, ref string) {
	if digestRE.MatchString(ref) {
		name.Digest = ref
	} else {
		name.Tag = ref
	}
	if err := name.check(); err != nil {
		refuse(w, http.StatusBadRequest, "MANIFEST_INVALID", err.Error())
		return
	}
	switch req.Method {
	case http.MethodGet, http.MethodHead:
		m, err := r.manifest(name)
		if err != nil {
			r.fail(w, "MANIFEST_UNKNOWN", err)
			return
		}
		h := w.Header()
		h.Set("Content-Type", m.mediaType)
		h.Set("Docker-Content-Digest", m.digest)
		h.Set("Content-Length", strconv.Itoa(len(m.body)))
		w.WriteHeader(http.StatusOK)
		if req.Method == http.MethodGet {
			_, _ = w.Write(m.body) // a client that went away needs no answer
		}
	case http.MethodPut:
		r.takeManifest(w, req, name)
	case http.MethodDelete:
		if err := r.removeManifest(name); err != nil {
			r.fail(w, "MANIFEST_UNKNOWN", err)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	default:
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "manifests: GET, HEAD, PUT or DELETE")
	}
}

func (r *Registry) takeManifest(w http.ResponseWriter, req *http.Request, name Name) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxManifest))
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		refuse(w, http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", fmt.Sprintf("manifest above %d bytes", maxManifest))
		return
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "MANIFEST_INVALID", err.Error())
		return
	}
	digest, err := r.putManifest(name, mediaTypeOf(req.Header.Get("Content-Type"), body), body)
	if err != nil {
		r.fail(w, "MANIFEST_INVALID", err)
		return
	}
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Location", location(req, "manifests/"+digest))
	w.WriteHeader(http.StatusCreated)
}

// mediaTypeOf prefers what the client says over what the manifest says.
func mediaTypeOf(header string, body []byte) string {
	header, _, _ = strings.Cut(header, ";")
	if header = strings.TrimSpace(header); header != "" && header != "application/json" {
		return header
	}
	var m struct {
		MediaType string `json:"mediaType"`
	}
	_ = json.Unmarshal(body, &m) // putManifest says what is wrong with it
	return m.MediaType
}

// removeManifest removes a tag, or a manifest with all tags that stand for it.
func (r *Registry) removeManifest(name Name) error {
	if name.Digest == "" {
		return r.Remove(name)
	}
	if _, err := r.manifest(name); err != nil {
		return err
	}
	tags, err := r.repoTags(name)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		n := Name{Host: name.Host, Repo: name.Repo, Tag: tag}
		if m, err := r.manifest(n); err == nil && m.digest == name.Digest {
			if err := r.Remove(n); err != nil {
				return err
			}
		}
	}
	path, err := r.manifestPath(name, name.Digest)
	if err != nil {
		return err
	}
	return os.Remove(path)
}

func (r *Registry) blobs(w http.ResponseWriter, req *http.Request, _ Name, digest string) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "blobs: GET or HEAD")
		return
	}
	if !digestRE.MatchString(digest) {
		refuse(w, http.StatusBadRequest, "DIGEST_INVALID", fmt.Sprintf("invalid digest %q", digest))
		return
	}
	f, err := os.Open(r.blobPath(digest))
	if err != nil {
		r.fail(w, "BLOB_UNKNOWN", err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		r.fail(w, "BLOB_UNKNOWN", err)
		return
	}
	if req.Method == http.MethodHead {
		// A client that learns that it is here will not push it again.
		if err := touch(f.Name()); err != nil {
			r.fail(w, "BLOB_UNKNOWN", err)
			return
		}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("ETag", `"`+digest+`"`)
	http.ServeContent(w, req, "", info.ModTime(), f) // with ranges
}

func (r *Registry) tags(w http.ResponseWriter, req *http.Request, name Name, _ string) {
	tags, err := r.repoTags(name)
	if err != nil {
		r.fail(w, "NAME_UNKNOWN", err)
		return
	}
	tags = page(w, req, tags)
	reply(w, http.StatusOK, struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{name.Repo, tags})
}

func (r *Registry) repoTags(name Name) ([]string, error) {
	repo, err := r.repoPath(Name{Host: name.Host, Repo: name.Repo, Tag: "any"})
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(repo, "_manifests")); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(repo, "_tags"))
	if err != nil && !absent(err) {
		return nil, err
	}
	tags := make([]string, 0, len(entries))
	for _, e := range entries {
		tags = append(tags, e.Name())
	}
	return tags, nil
}

// referrers has nothing to tell: no signature or attestation is indexed.
func (r *Registry) referrers(w http.ResponseWriter, _ *http.Request, _ Name, _ string) {
	w.Header().Set("Content-Type", ociIndex)
	w.WriteHeader(http.StatusOK)
	_, _ = io.WriteString(w, `{"schemaVersion":2,"mediaType":"`+ociIndex+`","manifests":[]}`)
}

// catalog lists repositories, each with its host unless that is this registry.
func (r *Registry) catalog(w http.ResponseWriter, req *http.Request) {
	folders, err := r.repos()
	if err != nil {
		r.fail(w, "NAME_UNKNOWN", err)
		return
	}
	repos := make([]string, 0, len(folders))
	for _, folder := range folders {
		repos = append(repos, strings.TrimPrefix(r.inRepo(folder), self+"/"))
	}
	sort.Strings(repos)
	repos = page(w, req, repos)
	reply(w, http.StatusOK, struct {
		Repositories []string `json:"repositories"`
	}{repos})
}

// page takes the part of a sorted list that ?n= and ?last= ask for, and links
// to the next.
func page(w http.ResponseWriter, req *http.Request, all []string) []string {
	q := req.URL.Query()
	if last := q.Get("last"); last != "" {
		all = all[sort.Search(len(all), func(i int) bool { return all[i] > last }):]
	}
	n, err := strconv.Atoi(q.Get("n"))
	if err != nil || n < 0 || n >= len(all) {
		return all
	}
	if n > 0 {
		next := url.Values{"n": {q.Get("n")}, "last": {all[n-1]}}
		if ns := q.Get("ns"); ns != "" {
			next.Set("ns", ns)
		}
		w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, req.URL.Path, next.Encode()))
	}
	return all[:n]
}

// location is the path of something else in the repository of this request.
func location(req *http.Request, rest string) string {
	path := req.URL.Path
	for _, infix := range []string{"/blobs/uploads", "/manifests/"} {
		if i := strings.LastIndex(path, infix); i >= 0 {
			path = path[:i]
			break
		}
	}
	to := path + "/" + rest
	if ns := req.URL.Query().Get("ns"); ns != "" {
		to += "?ns=" + url.QueryEscape(ns)
	}
	return to
}

// fail answers with the status that an error stands for; unknown is the code
// of the specification for "not here".
func (r *Registry) fail(w http.ResponseWriter, unknown string, err error) {
	switch {
	case errors.Is(err, errBlobUnknown):
		refuse(w, http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN", err.Error())
	case errors.Is(err, ErrNotFound) || absent(err):
		refuse(w, http.StatusNotFound, unknown, err.Error())
	case errors.Is(err, ErrFull):
		r.log.Error("registry: no space left", "dir", r.dir, "err", err)
		refuse(w, http.StatusInsufficientStorage, "TOOMANYREQUESTS", err.Error())
	case errors.Is(err, ErrDamaged) && unknown != "MANIFEST_UNKNOWN":
		refuse(w, http.StatusBadRequest, unknown, err.Error())
	default:
		r.log.Error("registry: request failed", "err", err)
		refuse(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
	}
}

type apiError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	reply(w, status, struct {
		Errors []apiError `json:"errors"`
	}{[]apiError{{code, message}}})
}

func reply[T any](w http.ResponseWriter, status int, body T) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that went away needs no answer
}
