package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// TestMain lets Unpack run this test program as the child that unpacks.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == Command {
		if err := UnpackHere(os.Args[2]); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// archive packs files (name to content; a name that ends in ! is executable).
func archive(t *testing.T, files map[string]string, more ...tar.Header) (body []byte, sum string) {
	t.Helper()
	var buf bytes.Buffer
	z, err := zstd.NewWriter(&buf)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for name, content := range files {
		mode := int64(0o644)
		if strings.HasSuffix(name, "!") {
			name, mode = strings.TrimSuffix(name, "!"), 0o755
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range more {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	s := sha256.Sum256(buf.Bytes())
	return buf.Bytes(), hex.EncodeToString(s[:])
}

func TestUnpackWritesFilesAndModes(t *testing.T) {
	body, sum := archive(t, map[string]string{"bin/tool!": "#!/bin/true", "images/pause.tar": "x"})
	home := filepath.Join(t.TempDir(), "bundle", "h")
	killed := filepath.Join(filepath.Dir(home), unpacking+"123", "bin") // of a process that was killed
	if err := os.MkdirAll(killed, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unpack(bytes.NewReader(body), sum, home); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(home, "bin/tool"))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("bin/tool: %v, %v; want mode 0755", info, err)
	}
	images, err := Images(filepath.Join(home, "bin"))
	if err != nil || len(images) != 1 || filepath.Base(images[0]) != "pause.tar" {
		t.Errorf("Images: %q, %v; want pause.tar", images, err)
	}
	onlyHome(t, home)
}

// onlyHome fails when something but home lies in its folder.
func onlyHome(t *testing.T, home string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(home))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(home) {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}

func TestUnpackRefusesWhatIsDamaged(t *testing.T) {
	good, sum := archive(t, map[string]string{"bin/tool!": strings.Repeat("code ", 1000)})
	escape, escapeSum := archive(t, map[string]string{"../../outside": "x"})
	link, linkSum := archive(t, nil, tar.Header{Name: "bin", Typeflag: tar.TypeSymlink, Linkname: "/etc"})
	for _, c := range []struct {
		name, sum, want string
		body            []byte
	}{
		{"another sum", strings.Repeat("0", 64), "damaged", good},
		{"cut short", sum, "", good[:len(good)/2]},
		{"more at its end", sum, "", append(bytes.Clone(good), 1)},
		{"no archive", sum, "", []byte("hello")},
		{"a name that leaves", escapeSum, "no plain file", escape},
		{"a link", linkSum, "no plain file", link},
	} {
		t.Run(c.name, func(t *testing.T) {
			home := filepath.Join(t.TempDir(), "bundle", "h")
			err := unpack(bytes.NewReader(c.body), c.sum, home)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if whole(home) {
				t.Error("a damaged bundle is there")
			}
			onlyHome(t, home)
		})
	}
}

func TestUnpackTwiceAtOnce(t *testing.T) {
	body, sum := archive(t, map[string]string{"bin/tool!": "x"})
	home := filepath.Join(t.TempDir(), "bundle", "h")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := unpack(bytes.NewReader(body), sum, home); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	onlyHome(t, home)
}

func TestFind(t *testing.T) {
	if _, err := Find(t.TempDir(), "runc"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in an empty folder: %v", err)
	}
	if _, err := Find("", "no-program-has-this-name"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in PATH: %v", err)
	}
}

// TestTheRealBundle runs with -tags bundle only: the absent one is what the
// other tests see.
func TestTheRealBundle(t *testing.T) {
	if !Present() {
		if _, err := Unpack(context.Background(), t.TempDir()); !errors.Is(err, ErrAbsent) {
			t.Errorf("Unpack without a bundle: %v, want ErrAbsent", err)
		}
		t.Skip("needs -tags bundle (make test): the real bundle is not in this build")
	}
	dir := t.TempDir()
	bin, err := Unpack(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, arg := range map[string]string{"containerd": "--version", "runc": "--version", "containerd-shim-runc-v2": "-v", "kubectl": "--help"} {
		if out, err := exec.Command(filepath.Join(bin, name), arg).CombinedOutput(); err != nil {
			t.Errorf("%s %s: %v\n%s", name, arg, err, out)
		}
	}
	out, err := exec.Command(filepath.Join(bin, "kubectl"), "version", "--client").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Client Version: v1.37.") {
		t.Errorf("kubectl version --client: %v\n%s", err, out)
	}
	again, err := Unpack(t.Context(), dir)
	if err != nil || again != bin {
		t.Errorf("the second time: %s, %v; want %s", again, err, bin)
	}
}
