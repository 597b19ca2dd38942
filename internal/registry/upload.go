package registry

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var uploadRE = regexp.MustCompile(`^up-[a-zA-Z0-9]{10,64}$`)

// uploads serves /v2/NAME/blobs/uploads/[ID]: begin, go on, finish, ask,
// cancel.
func (r *Registry) uploads(w http.ResponseWriter, req *http.Request, _ Name, id string) {
	if id == "" {
		if req.Method != http.MethodPost {
			refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "POST begins an upload")
			return
		}
		r.begin(w, req)
		return
	}
	if !uploadRE.MatchString(id) || !r.claim(id) {
		refuse(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "no such upload, or another request is writing to it")
		return
	}
	defer r.unclaim(id)
	f, err := os.OpenFile(filepath.Join(r.dir, "uploads", id), os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		r.fail(w, "BLOB_UPLOAD_UNKNOWN", err)
		return
	}
	defer f.Close()
	switch req.Method {
	case http.MethodPatch:
		if r.append(w, req, f) {
			progress(w, req, f, id, http.StatusAccepted)
		}
	case http.MethodPut:
		if r.append(w, req, f) {
			r.finish(w, req, f)
		}
	case http.MethodGet:
		progress(w, req, f, id, http.StatusNoContent)
	case http.MethodDelete:
		if err := os.Remove(f.Name()); err != nil {
			r.fail(w, "BLOB_UPLOAD_UNKNOWN", err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "uploads: PATCH, PUT, GET or DELETE")
	}
}

func (r *Registry) claim(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy[id] {
		return false
	}
	r.busy[id] = true
	return true
}

func (r *Registry) unclaim(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.busy, id)
}

// begin starts an upload; with ?mount= of content that is here, or with
// ?digest= and the content as body, that is all there is to do.
func (r *Registry) begin(w http.ResponseWriter, req *http.Request) {
	q := req.URL.Query()
	if from := q.Get("mount"); digestRE.MatchString(from) {
		if err := touch(r.blobPath(from)); err == nil {
			created(w, req, from)
			return
		}
	}
	if digest := q.Get("digest"); digest != "" {
		if !digestRE.MatchString(digest) {
			refuse(w, http.StatusBadRequest, "DIGEST_INVALID", fmt.Sprintf("invalid digest %q", digest))
			return
		}
		if _, err := r.putBlob(req.Body, digest); err != nil {
			r.fail(w, "DIGEST_INVALID", err)
			return
		}
		created(w, req, digest)
		return
	}
	id := "up-" + rand.Text()
	f, err := os.OpenFile(filepath.Join(r.dir, "uploads", id), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		r.fail(w, "BLOB_UPLOAD_INVALID", explain(err))
		return
	}
	defer f.Close()
	progress(w, req, f, id, http.StatusAccepted)
}

// append adds the request's body to an upload; it answers what goes wrong
// itself and returns false then.
func (r *Registry) append(w http.ResponseWriter, req *http.Request, f *os.File) bool {
	at, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		r.fail(w, "BLOB_UPLOAD_INVALID", err)
		return false
	}
	if from, _, ok := strings.Cut(strings.TrimPrefix(req.Header.Get("Content-Range"), "bytes "), "-"); ok && from != fmt.Sprint(at) {
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(at-1, 0)))
		refuse(w, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", fmt.Sprintf("the next byte of this upload is %d", at))
		return false
	}
	if _, err := io.Copy(f, req.Body); err != nil {
		// Half a chunk is taken back: the client sends it again.
		if err := f.Truncate(at); err != nil {
			r.log.Error("registry: cannot take back half a chunk", "upload", f.Name(), "err", err)
		}
		r.fail(w, "BLOB_UPLOAD_INVALID", explain(err))
		return false
	}
	return true
}

func (r *Registry) finish(w http.ResponseWriter, req *http.Request, f *os.File) {
	want := req.URL.Query().Get("digest")
	if !digestRE.MatchString(want) {
		refuse(w, http.StatusBadRequest, "DIGEST_INVALID", fmt.Sprintf("invalid digest %q", want))
		return
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		r.fail(w, "BLOB_UPLOAD_INVALID", err)
		return
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		r.fail(w, "BLOB_UPLOAD_INVALID", err)
		return
	}
	defer os.Remove(f.Name()) // a wrong upload is gone; a right one has its name
	if got := "sha256:" + hex.EncodeToString(hash.Sum(nil)); got != want {
		r.fail(w, "DIGEST_INVALID", fmt.Errorf("blob %s: %w: its content's digest is %s", want, ErrDamaged, got))
		return
	}
	if err := r.keep(f, want); err != nil {
		r.fail(w, "BLOB_UPLOAD_INVALID", err)
		return
	}
	created(w, req, want)
}

func created(w http.ResponseWriter, req *http.Request, digest string) {
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Location", location(req, "blobs/"+digest))
	w.WriteHeader(http.StatusCreated)
}

// progress says how much of an upload is here.
func progress(w http.ResponseWriter, req *http.Request, f *os.File, id string, status int) {
	at, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	w.Header().Set("Location", location(req, "blobs/uploads/"+id))
	w.Header().Set("Docker-Upload-UUID", id)
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(at-1, 0)))
	w.WriteHeader(status)
}
