package volumes

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWriteAtomic(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(1e9, 0)
	put := func(files map[string]file, want bool) {
		t.Helper()
		changed, err := writeAtomic(dir, files, now, nil)
		if err != nil || changed != want {
			t.Fatalf("changed %v, %v; want %v", changed, err, want)
		}
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	put(map[string]file{"a": {data: []byte("1"), mode: 0o644}, "deep/down/b": {data: []byte("2"), mode: 0o400}}, true)
	if read("a") != "1" || read("deep/down/b") != "2" {
		t.Error(read("a"), read("deep/down/b"))
	}
	first, err := os.Readlink(filepath.Join(dir, "..data"))
	if err != nil {
		t.Fatal(err)
	}
	// A reader that holds the old folder keeps seeing it whole until it lets go.
	old, err := os.Open(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	put(map[string]file{"a": {data: []byte("1"), mode: 0o644}, "deep/down/b": {data: []byte("2"), mode: 0o400}}, false)
	put(map[string]file{"a": {data: []byte("new"), mode: 0o644}, "c": {data: []byte("3"), mode: 0o644}}, true)
	b := make([]byte, 4)
	if n, _ := old.Read(b); string(b[:n]) != "1" {
		t.Errorf("the open file shows %q", b[:n])
	}
	if read("a") != "new" || read("c") != "3" {
		t.Error(read("a"), read("c"))
	}
	if _, err := os.Lstat(filepath.Join(dir, "deep")); !os.IsNotExist(err) {
		t.Error("what is no part of it any more is still shown", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, first)); !os.IsNotExist(err) {
		t.Error("the old folder is still there", err)
	}
	st, err := os.Stat(filepath.Join(dir, "c"))
	if err != nil || st.Mode().Perm() != 0o644 {
		t.Error(st.Mode(), err)
	}
	if l, err := os.Readlink(filepath.Join(dir, "a")); err != nil || l != "..data/a" {
		t.Error(l, err)
	}
}
