package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestKubectlSaysKubernetesVersion(t *testing.T) {
	link := kubectlVersion("0.37.2")
	for _, want := range []string{".gitVersion=v1.37.2 ", ".gitMajor=1 ", ".gitMinor=37 "} {
		if !strings.Contains(link, want) {
			t.Errorf("%q lacks %q", link, want)
		}
	}
}

// Two builds of the same content are the same archive, whatever the times and
// the folder; and go:embed's copy is touched only when it changes.
func TestTheArchiveIsAFunctionOfItsContent(t *testing.T) {
	fill := func(content string) string {
		dir := filepath.Join(t.TempDir(), "bundle")
		if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "bin", "tool"), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	embed := t.TempDir()
	pack1 := func(dir string) string {
		if _, err := pack(dir, filepath.Join(t.TempDir(), "b.tar.zst"), embed, false); err != nil {
			t.Fatal(err)
		}
		sum, err := os.ReadFile(filepath.Join(embed, "bundle.tar.zst.sha256"))
		if err != nil {
			t.Fatal(err)
		}
		return string(sum)
	}
	first := pack1(fill("a"))
	before, err := os.Stat(filepath.Join(embed, "bundle.tar.zst"))
	if err != nil {
		t.Fatal(err)
	}
	if second := pack1(fill("a")); second != first {
		t.Errorf("%s and %s", first, second)
	}
	after, err := os.Stat(filepath.Join(embed, "bundle.tar.zst"))
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("an unchanged archive was written again (%v)", err)
	}
	if third := pack1(fill("b")); third == first {
		t.Error("another content has the same hash")
	}
}

func TestBestIsNotLargerThanFast(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bundle")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := copyFile(self, filepath.Join(dir, "program")); err != nil {
		t.Fatal(err)
	}
	_, fast, err := compress(dir, filepath.Join(t.TempDir(), "fast"), zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	_, best, err := compress(dir, filepath.Join(t.TempDir(), "best"), zstd.SpeedBestCompression)
	if err != nil || best > fast {
		t.Errorf("best %d, fast %d, %v", best, fast, err)
	}
}
