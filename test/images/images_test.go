package main

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestALayerIsAFunctionOfItsFiles(t *testing.T) {
	build := func(names ...string) []byte {
		l := newLayer()
		for _, name := range names {
			l.file(name, 0o755, []byte(name))
		}
		l.link("bin/sh", "/bin/busybox")
		body, err := l.tar()
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	a, b := build("usr/bin/a", "b"), build("b", "usr/bin/a")
	if !bytes.Equal(a, b) {
		t.Error("the order in which files are added shows")
	}
	files, err := readTar(a)
	if err != nil || string(files["usr/bin/a"].body) != "usr/bin/a" || files["bin/sh"].to != "/bin/busybox" {
		t.Errorf("read back: %v, %v", files, err)
	}
	r := tar.NewReader(bytes.NewReader(a))
	seen := map[string]bool{}
	for h, err := r.Next(); err == nil; h, err = r.Next() {
		for dir := filepath.Dir(strings.TrimSuffix(h.Name, "/")); dir != "."; dir = filepath.Dir(dir) {
			if !seen[dir+"/"] {
				t.Errorf("%s comes before its folder %s", h.Name, dir)
			}
		}
		seen[h.Name] = true
	}
}

func TestFindFollowsLinks(t *testing.T) {
	file := entry{kind: tar.TypeReg}
	files := tree{
		"usr/lib/x86_64-linux-gnu/libz.so.1.2": file,
		"usr/lib/x86_64-linux-gnu/libz.so.1":   {kind: tar.TypeSymlink, to: "libz.so.1.2"},
		"usr/bin/redis-server":                 {kind: tar.TypeSymlink, to: "redis-check-rdb"},
		"usr/bin/redis-check-rdb":              file,
		"bin/tool":                             file,
		"etc/alternatives/x":                   {kind: tar.TypeSymlink, to: "/bin/tool"},
		"loop":                                 {kind: tar.TypeSymlink, to: "loop"},
	}
	for name, want := range map[string]string{
		"lib/x86_64-linux-gnu/libz.so.1": "usr/lib/x86_64-linux-gnu/libz.so.1.2", // lib is merged into usr
		"usr/bin/redis-server":           "usr/bin/redis-check-rdb",
		"usr/bin/tool":                   "bin/tool",
		"etc/alternatives/x":             "bin/tool",
		"loop":                           "",
		"nowhere":                        "",
	} {
		if got, ok := files.find(name); got != want || ok != (want != "") {
			t.Errorf("%s: %q %v, want %q", name, got, ok, want)
		}
	}
}

// An archive is written once per content.
func TestAnUnchangedImageIsLeftAlone(t *testing.T) {
	to := filepath.Join(t.TempDir(), "x.tar")
	l := newLayer()
	l.file("hello", 0o644, []byte("world"))
	if _, err := write(imageSpec{Name: "x:1"}, []*layer{l}, to); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	if note, err := write(imageSpec{Name: "x:1"}, []*layer{l}, to); err != nil || !strings.Contains(note, "unchanged") {
		t.Errorf("again: %q, %v", note, err)
	}
	if err := os.Remove(to); err != nil {
		t.Fatal(err)
	}
	if _, err := write(imageSpec{Name: "x:1"}, []*layer{l}, to); err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(to)
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("two builds of one image differ (%v)", err)
	}
	l.file("hello", 0o644, []byte("again"))
	if note, err := write(imageSpec{Name: "x:1"}, []*layer{l}, to); err != nil || strings.Contains(note, "unchanged") {
		t.Errorf("changed: %q, %v", note, err)
	}
}
