package registry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// dockerArchive writes what an older `docker save a b` writes.
func dockerArchive(t *testing.T, images map[string]v1.Image) string {
	t.Helper()
	refs := map[name.Reference]v1.Image{}
	for n, img := range images {
		refs[ref(t, n)] = img
	}
	path := filepath.Join(t.TempDir(), "images.tar")
	if err := tarball.MultiRefWriteToFile(path, refs); err != nil {
		t.Fatal(err)
	}
	return path
}

// ociLayout writes an OCI image layout and gives its folder.
func ociLayout(t *testing.T, write func(layout.Path)) string {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	write(p)
	return dir
}

func tarFolder(t *testing.T, dir string) string {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file(t, "layout.tar", buf.Bytes())
}

func file(t *testing.T, name string, body []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, dir, path string, want ...string) {
	t.Helper()
	names, err := open(t, dir).Load(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(names, want) {
		t.Errorf("loaded %q, want %q", names, want)
	}
}

// pull pulls by a name as containerd's mirror requests would, and checks every
// digest.
func pull(t *testing.T, addr, name string) v1.Image {
	t.Helper()
	got, err := remote.Image(ref(t, addr+"/"+name))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(got); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return got
}

func TestLoadDockerArchive(t *testing.T) {
	dir, img := t.TempDir(), image(t)
	path := dockerArchive(t, map[string]v1.Image{"redis:7": img, "ghcr.io/org/app:v1": image(t), "localhost:5000/mine:v2": img})
	load(t, dir, path, "docker.io/library/redis:7", "ghcr.io/org/app:v1", "localhost/mine:v2")
	addr := serve(t, dir)
	got := pull(t, addr, "docker.io/library/redis:7")
	want, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if config, err := got.ConfigName(); err != nil || config != want {
		t.Errorf("another image: %v, %v; want %v", config, err, want)
	}
	pull(t, addr, "ghcr.io/org/app:v1")
	pull(t, addr, "mine:v2")
	load(t, dir, path, "docker.io/library/redis:7", "ghcr.io/org/app:v1", "localhost/mine:v2") // again
}

func TestLoadOCILayout(t *testing.T) {
	img := image(t)
	idx, err := random.Index(300, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	folder := ociLayout(t, func(p layout.Path) {
		if err := errors.Join(
			p.AppendImage(img, layout.WithAnnotations(map[string]string{"io.containerd.image.name": "docker.io/library/redis:7", "org.opencontainers.image.ref.name": "7"})),
			p.AppendIndex(idx, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "multi:v1"})),
		); err != nil {
			t.Fatal(err)
		}
	})
	plain := tarFolder(t, folder)
	body, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for kind, path := range map[string]string{"folder": folder, "tar": plain, "gzip": file(t, "layout.tar.gz", zipped.Bytes())} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			load(t, dir, path, "docker.io/library/multi:v1", "docker.io/library/redis:7")
			addr := serve(t, dir)
			if got := pull(t, addr, "docker.io/library/redis:7"); digestOf(t, got) != digestOf(t, img) {
				t.Error("another image came back")
			}
			got, err := remote.Index(ref(t, addr+"/docker.io/library/multi:v1"))
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Index(got); err != nil {
				t.Error(err)
			}
			if left, err := os.ReadDir(filepath.Join(dir, "uploads")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// A docker that keeps images in containerd saves an index of all platforms
// with the content of one.
func TestLoadIndexThatLacksOtherPlatforms(t *testing.T) {
	here, elsewhere := image(t), image(t)
	idx := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: here, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: elsewhere, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}})
	dir := ociLayout(t, func(p layout.Path) {
		if err := p.AppendIndex(idx, layout.WithAnnotations(map[string]string{"io.containerd.image.name": "app:v1"})); err != nil {
			t.Fatal(err)
		}
	})
	if err := os.Remove(filepath.Join(dir, "blobs/sha256", strings.TrimPrefix(digestOf(t, elsewhere), "sha256:"))); err != nil {
		t.Fatal(err)
	}
	store := t.TempDir()
	load(t, store, dir, "docker.io/library/app:v1")
	got := pull(t, serve(t, store), "docker.io/library/app:v1")
	if digestOf(t, got) != digestOf(t, here) {
		t.Error("another image came back")
	}
}

func TestLoadSavedLayoutTakesNamesFromManifestJSON(t *testing.T) {
	img := image(t)
	dir := ociLayout(t, func(p layout.Path) {
		if err := p.AppendImage(img); err != nil {
			t.Fatal(err)
		}
	})
	config, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	saved := `[{"Config":"blobs/sha256/` + config.Hex + `","RepoTags":["app:v1","app:v2"],"Layers":[]}]`
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(saved), 0o600); err != nil {
		t.Fatal(err)
	}
	load(t, t.TempDir(), tarFolder(t, dir), "docker.io/library/app:v1", "docker.io/library/app:v2")
}

func TestLoadRefusesDamagedArchives(t *testing.T) {
	large, err := random.Image(50000, 1) // so that the middle of the archive is in its layer
	if err != nil {
		t.Fatal(err)
	}
	docker, err := os.ReadFile(dockerArchive(t, map[string]v1.Image{"app:v1": large}))
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(docker)
	changed[len(changed)/2] ^= 0xff // in a layer
	named := layout.WithAnnotations(map[string]string{"io.containerd.image.name": "app:v1"})
	oci := func(t *testing.T, spoil func(blobs string, img v1.Image)) string {
		img := image(t)
		dir := ociLayout(t, func(p layout.Path) {
			if err := p.AppendImage(img, named); err != nil {
				t.Fatal(err)
			}
		})
		spoil(filepath.Join(dir, "blobs/sha256"), img)
		return dir
	}
	layer := func(img v1.Image) string {
		layers, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimPrefix(digestOf(t, layers[0]), "sha256:")
	}
	for _, c := range []struct{ what, path, want string }{
		{"cut short", file(t, "a.tar", docker[:len(docker)/2]), "cut short"},
		{"a layer changed", file(t, "a.tar", changed), ".tar.gz: "},
		{"no archive", file(t, "a.tar", []byte(strings.Repeat("hello ", 500))), "no tar archive"},
		{"an empty file", file(t, "a.tar", nil), "neither"},
		{"half a gzip", file(t, "a.tgz", []byte{0x1f, 0x8b, 8, 0}), "damaged"},
		{"another tar", tarFolder(t, filepath.Dir(file(t, "x", nil))), "neither"},
		{"an OCI blob gone", oci(t, func(blobs string, img v1.Image) {
			if err := os.Remove(filepath.Join(blobs, layer(img))); err != nil {
				t.Fatal(err)
			}
		}), "it has no blobs/"},
		{"an OCI blob changed", oci(t, func(blobs string, img v1.Image) {
			if err := os.WriteFile(filepath.Join(blobs, layer(img)), []byte("other"), 0o600); err != nil {
				t.Fatal(err)
			}
		}), "digest"},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := open(t, t.TempDir())
			names, err := r.Load(t.Context(), c.path)
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) {
				t.Errorf("%q, %v; want ErrDamaged with %q and the file's name", names, err, c.want)
			}
			if images, err := r.List(); err != nil || len(images) > 0 {
				t.Errorf("a name is there: %v, %v", images, err)
			}
		})
	}
}

func TestLoadOtherErrors(t *testing.T) {
	r := open(t, t.TempDir())
	if _, err := r.Load(t.Context(), filepath.Join(t.TempDir(), "no")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such file: %v", err)
	}
	unnamed := ociLayout(t, func(p layout.Path) {
		if err := p.AppendImage(image(t)); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := r.Load(t.Context(), unnamed); err == nil || !strings.Contains(err.Error(), "by name") {
		t.Errorf("without a name: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Load(ctx, unnamed); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
