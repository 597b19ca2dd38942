package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// maxManifest is the largest manifest taken, in bytes; the specification asks
// for 4 MiB at least.
const maxManifest = 8 << 20

// A descriptor points from one piece of content to another.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	URLs        []string          `json:"urls,omitempty"` // of foreign layers, which no registry need hold
	Annotations map[string]string `json:"annotations,omitempty"`
}

func (d descriptor) isManifest() bool { return isIndex(d.MediaType) || isImage(d.MediaType) }

const (
	ociManifest    = "application/vnd.oci.image.manifest.v1+json"
	ociIndex       = "application/vnd.oci.image.index.v1+json"
	ociConfig      = "application/vnd.oci.image.config.v1+json"
	ociLayer       = "application/vnd.oci.image.layer.v1.tar"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
)

func isIndex(mediaType string) bool { return mediaType == ociIndex || mediaType == dockerIndex }
func isImage(mediaType string) bool { return mediaType == ociManifest || mediaType == dockerManifest }

// references lists what a manifest or index needs to be complete.
func references(mediaType string, body []byte) ([]descriptor, error) {
	var m struct {
		SchemaVersion int          `json:"schemaVersion"`
		Config        *descriptor  `json:"config"`
		Layers        []descriptor `json:"layers"`
		Manifests     []descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("%w: manifest: %w", ErrDamaged, err)
	}
	var refs []descriptor
	switch {
	case m.SchemaVersion != 2:
		return nil, fmt.Errorf("%w: manifest of schema version %d, want 2", ErrDamaged, m.SchemaVersion)
	case isIndex(mediaType):
		refs = m.Manifests
	case isImage(mediaType):
		if m.Config == nil {
			return nil, fmt.Errorf("%w: manifest without config", ErrDamaged)
		}
		refs = append([]descriptor{*m.Config}, m.Layers...)
	default:
		return nil, fmt.Errorf("%w: unknown manifest type %q", ErrDamaged, mediaType)
	}
	for _, ref := range refs {
		if !digestRE.MatchString(ref.Digest) {
			return nil, fmt.Errorf("%w: manifest refers to %q, which is no sha256 digest", ErrDamaged, ref.Digest)
		}
	}
	return refs, nil
}

type manifest struct {
	digest, mediaType string
	body              []byte
}

func sum(body []byte) string {
	s := sha256.Sum256(body)
	return "sha256:" + hex.EncodeToString(s[:])
}

// blobPath is where content lies; digest must have been checked.
func (r *Registry) blobPath(digest string) string {
	return filepath.Join(r.dir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:"))
}

func (r *Registry) repoPath(n Name) (string, error) {
	if err := n.check(); err != nil {
		return "", err
	}
	return filepath.Join(r.dir, "names", n.Host, filepath.FromSlash(n.Repo)), nil
}

func (r *Registry) tagPath(n Name) (string, error) {
	repo, err := r.repoPath(n)
	return filepath.Join(repo, "_tags", n.Tag), err
}

func (r *Registry) manifestPath(n Name, digest string) (string, error) {
	repo, err := r.repoPath(n)
	return filepath.Join(repo, "_manifests", strings.TrimPrefix(digest, "sha256:")), err
}

// manifest finds what a name stands for.
func (r *Registry) manifest(n Name) (manifest, error) {
	digest := n.Digest
	if digest == "" {
		path, err := r.tagPath(n)
		if err != nil {
			return manifest{}, err
		}
		body, err := os.ReadFile(path)
		if absent(err) {
			return manifest{}, fmt.Errorf("image %s: %w", n, ErrNotFound)
		}
		if err != nil {
			return manifest{}, err
		}
		digest = string(body)
	}
	path, err := r.manifestPath(n, digest)
	if err != nil {
		return manifest{}, err
	}
	mediaType, err := os.ReadFile(path)
	if absent(err) {
		return manifest{}, fmt.Errorf("image %s: %w", n, ErrNotFound)
	}
	if err != nil {
		return manifest{}, err
	}
	return r.readManifest(digest, string(mediaType))
}

func (r *Registry) readManifest(digest, mediaType string) (manifest, error) {
	body, err := os.ReadFile(r.blobPath(digest))
	if absent(err) {
		return manifest{}, fmt.Errorf("manifest %s: %w", digest, ErrNotFound)
	}
	if err != nil {
		return manifest{}, err
	}
	if sum(body) != digest {
		return manifest{}, fmt.Errorf("manifest %s: %w: its content has changed on disk", digest, ErrDamaged)
	}
	return manifest{digest, mediaType, body}, nil
}

// absent also means a name that goes on below something that is a file.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// putManifest stores a manifest of n's repository, and n's tag if it has one.
// What an image manifest refers to must be here already: a name never stands
// for half an image. An index may lack images of other platforms.
func (r *Registry) putManifest(n Name, mediaType string, body []byte) (digest string, err error) {
	digest = sum(body)
	if n.Digest != "" && n.Digest != digest {
		return "", fmt.Errorf("manifest %s: %w: its digest is %s", n, ErrDamaged, digest)
	}
	refs, err := references(mediaType, body)
	if err != nil {
		return "", err
	}
	here := 0
	for _, ref := range refs {
		_, err := os.Stat(r.blobPath(ref.Digest))
		switch {
		case err == nil:
			here++
		case !isIndex(mediaType) && len(ref.URLs) == 0:
			return "", fmt.Errorf("manifest %s refers to blob %s: %w", n, ref.Digest, errBlobUnknown)
		}
	}
	if isIndex(mediaType) && here == 0 && len(refs) > 0 {
		return "", fmt.Errorf("index %s: none of its images is here: %w", n, errBlobUnknown)
	}
	if _, err := r.putBlob(bytes.NewReader(body), digest); err != nil {
		return "", err
	}
	path, err := r.manifestPath(n, digest)
	if err != nil {
		return "", err
	}
	if err := r.replace(path, mediaType); err != nil || n.Tag == "" {
		return digest, err
	}
	path, err = r.tagPath(n)
	if err != nil {
		return "", err
	}
	return digest, r.replace(path, digest)
}

var errBlobUnknown = errors.New("content that was never pushed")

// putBlob stores content. With a digest, content that is not what the digest
// says is refused; without one any is taken. It returns the digest.
func (r *Registry) putBlob(content io.Reader, want string) (digest string, err error) {
	f, err := os.CreateTemp(filepath.Join(r.dir, "uploads"), "blob-")
	if err != nil {
		return "", explain(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, hash), content); err != nil {
		return "", explain(err)
	}
	digest = "sha256:" + hex.EncodeToString(hash.Sum(nil))
	if want != "" && digest != want {
		return "", fmt.Errorf("blob %s: %w: its content's digest is %s", want, ErrDamaged, digest)
	}
	return digest, r.keep(f, digest)
}

// keep gives a temporary file of checked content its name, once it is on disk.
func (r *Registry) keep(f *os.File, digest string) error {
	to := r.blobPath(digest)
	if err := touch(to); err == nil {
		return nil // the same content is here
	}
	if err := f.Chmod(0o600); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return explain(err)
	}
	if err := os.Rename(f.Name(), to); err != nil {
		return explain(err)
	}
	return syncDir(filepath.Dir(to))
}

// replace writes a small file whole.
func (r *Registry) replace(path, content string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return explain(err)
	}
	f, err := os.CreateTemp(filepath.Join(r.dir, "uploads"), "name-")
	if err != nil {
		return explain(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.WriteString(content); err != nil {
		return explain(err)
	}
	if err := f.Sync(); err != nil {
		return explain(err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return explain(err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return explain(f.Sync())
}

// sweepUploads removes uploads that nothing was written to for a while.
func (r *Registry) sweepUploads(age time.Duration) error {
	dir := filepath.Join(r.dir, "uploads")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < age {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !absent(err) {
			return err
		}
	}
	return nil
}
