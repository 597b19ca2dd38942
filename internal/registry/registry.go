// Package registry is a small OCI registry for one node: images that a user
// loads or pushes are kept in a folder, and containerd asks here first.
//
// It speaks the OCI distribution specification 1.1 (pull, push, content
// discovery, content management) over plain HTTP, for loopback only: every
// user of the machine may pull, root may push. Everything acknowledged is on
// disk, under:
//
//	blobs/sha256/HEX                  content: layers, configurations, manifests
//	names/HOST/REPO/_manifests/HEX    the media type of a manifest of REPO
//	names/HOST/REPO/_tags/TAG         the digest that TAG stands for
//	uploads/ID                        content on its way
//
// Files appear whole, under their final names, so there is nothing to recover
// and several processes may use one folder.
//
// Names carry the host that an image is from, as `docker pull` reads them. A
// mirror request says the host in its ns parameter (containerd does); without
// one the host is the first part of the path if that looks like a host, as in
// 127.0.0.1:5000/ghcr.io/org/app, and else this registry itself.
package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrNotFound says that a name, manifest or blob is not here.
var ErrNotFound = errors.New("not found in the registry")

// ErrFull says that the disk under the registry is full.
var ErrFull = errors.New("no space left for images")

// ErrDamaged says that content is not what its digest or its format promises.
var ErrDamaged = errors.New("damaged image")

// A Registry keeps images in a folder and serves them over HTTP.
type Registry struct {
	dir string
	log *slog.Logger
	mux *http.ServeMux

	mu   sync.Mutex
	busy map[string]bool // uploads that a request is writing to
}

// New opens the registry in dir, and makes it if need be.
func New(dir string, log *slog.Logger) (*Registry, error) {
	r := &Registry{dir: dir, log: log, busy: map[string]bool{}}
	for _, sub := range []string{"blobs/sha256", "names", "uploads"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("open the registry: %w", err)
		}
	}
	if err := r.sweepUploads(24 * time.Hour); err != nil {
		return nil, fmt.Errorf("open the registry: %w", err)
	}
	r.routes()
	return r, nil
}

// An Image is one name in the registry.
type Image struct {
	Name   string // in full: docker.io/library/redis:latest
	Digest string // of its manifest or index
	Size   int64  // bytes of everything it consists of, as stored
}

// List gives the tagged images in order of name.
func (r *Registry) List() ([]Image, error) {
	var images []Image
	root := filepath.Join(r.dir, "names")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() || filepath.Base(filepath.Dir(path)) != "_tags" {
			return nil
		}
		host, repo, _ := strings.Cut(strings.TrimPrefix(filepath.Dir(filepath.Dir(path)), root+"/"), "/")
		name := Name{Host: host, Repo: repo, Tag: d.Name()}
		m, err := r.manifest(name)
		if errors.Is(err, ErrNotFound) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		images = append(images, Image{name.String(), m.digest, r.size(m)})
		return nil
	})
	sort.Slice(images, func(i, j int) bool { return images[i].Name < images[j].Name })
	return images, err
}

// size adds up what a manifest and everything it refers to occupies here.
func (r *Registry) size(m manifest) int64 {
	total := int64(len(m.body))
	refs, err := references(m.mediaType, m.body)
	if err != nil {
		return total
	}
	for _, ref := range refs {
		if ref.isManifest() {
			if child, err := r.readManifest(ref.Digest, ref.MediaType); err == nil {
				total += r.size(child)
			}
		} else if info, err := os.Stat(r.blobPath(ref.Digest)); err == nil {
			total += info.Size()
		}
	}
	return total
}

// Remove takes a tag away; ErrNotFound if it is not there.
func (r *Registry) Remove(name Name) error {
	path, err := r.tagPath(name)
	if err != nil {
		return err
	}
	err = os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("image %s: %w", name, ErrNotFound)
	}
	return err
}

// explain gives a full disk its own error.
func explain(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
