package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A layer is a file tree being made. Its tar has fixed times, owners and
// order. It stays uncompressed: it travels over loopback only.
type layer struct {
	entries map[string]entry
}

type entry struct {
	mode int64
	kind byte
	to   string
	body []byte
	deb  string // the package file that it is from
}

func newLayer() *layer { return &layer{entries: map[string]entry{}} }

func (l *layer) file(name string, mode int64, body []byte) {
	l.entries[name] = entry{mode: mode, kind: tar.TypeReg, body: body}
}

func (l *layer) link(name, to string) {
	l.entries[name] = entry{mode: 0o777, kind: tar.TypeSymlink, to: to}
}

func (l *layer) folder(name string, mode int64) {
	l.entries[name] = entry{mode: mode, kind: tar.TypeDir}
}

// tar writes the layer, with the folders that nothing declared.
func (l *layer) tar() ([]byte, error) {
	for name := range l.entries {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := l.entries[dir]; !ok {
				l.folder(dir, 0o755)
			}
		}
	}
	names := make([]string, 0, len(l.entries))
	for name := range l.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range names {
		e := l.entries[name]
		h := &tar.Header{Name: name, Mode: e.mode, Typeflag: e.kind, Linkname: e.to, Size: int64(len(e.body)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if e.kind == tar.TypeDir {
			h.Name += "/"
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if _, err := w.Write(e.body); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}

// write puts the image into an OCI archive, unless that archive is there.
func write(spec imageSpec, layers []*layer, to string) (string, error) {
	config := &v1.ConfigFile{Architecture: runtime.GOARCH, OS: "linux", RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{Entrypoint: spec.Command, Env: spec.Env, User: spec.User}}
	image, err := mutate.ConfigFile(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), config)
	if err != nil {
		return "", err
	}
	size := 0
	for _, l := range layers {
		body, err := l.tar()
		if err != nil {
			return "", err
		}
		size += len(body)
		if image, err = mutate.AppendLayers(image, static.NewLayer(body, types.OCIUncompressedLayer)); err != nil {
			return "", err
		}
	}
	digest, err := image.Digest()
	if err != nil {
		return "", err
	}
	note := fmt.Sprintf("%s, %.1f MB", digest.Hex[:12], float64(size)/1e6)
	old, err := os.ReadFile(to + ".digest")
	if err == nil && string(old) == digest.String() {
		if _, err := os.Stat(to); err == nil {
			return note + ", unchanged", nil
		}
	}
	if err := archive(image, spec.Name, to); err != nil {
		return "", err
	}
	return note, os.WriteFile(to+".digest", []byte(digest.String()), 0o644)
}

// archive writes an OCI image layout as one tar.
func archive(image v1.Image, name, to string) error {
	dir, err := os.MkdirTemp(filepath.Dir(to), ".layout-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	full := "docker.io/library/" + name
	_, tag, _ := strings.Cut(name, ":")
	if err := p.AppendImage(image, layout.WithAnnotations(map[string]string{"io.containerd.image.name": full, "org.opencontainers.image.ref.name": tag})); err != nil {
		return err
	}
	out := newLayer() // the same fixed times and order
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		body, err := os.ReadFile(path)
		out.file(filepath.ToSlash(rel), 0o644, body)
		return err
	})
	if err != nil {
		return err
	}
	body, err := out.tar()
	if err != nil {
		return err
	}
	if err := os.WriteFile(to+".new", body, 0o644); err != nil {
		return err
	}
	return os.Rename(to+".new", to)
}

// readTar gives the plain files and links of a tar by name.
func readTar(body []byte) (map[string]entry, error) {
	files := map[string]entry{}
	for r := tar.NewReader(bytes.NewReader(body)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		switch h.Typeflag {
		case tar.TypeReg:
			content, err := io.ReadAll(r)
			if err != nil {
				return nil, err
			}
			files[name] = entry{mode: h.Mode, kind: tar.TypeReg, body: content}
		case tar.TypeSymlink:
			files[name] = entry{mode: 0o777, kind: tar.TypeSymlink, to: h.Linkname}
		}
	}
}
