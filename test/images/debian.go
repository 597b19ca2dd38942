package main

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// debian is what an image takes from Debian packages: some programs, the
// libraries that they need and the loader, nothing else.
type debian struct {
	Packages []string          // that hold the programs
	Programs map[string]string // place in the image: place in a package
	Applets  bool              // the programs are busybox: give it its other names
}

var redis = debian{
	Packages: []string{"redis-server", "redis-tools"},
	Programs: map[string]string{"usr/bin/redis-server": "usr/bin/redis-server", "usr/bin/redis-cli": "usr/bin/redis-cli"},
}

var busybox = debian{
	Packages: []string{"busybox-static"},
	Programs: map[string]string{"bin/busybox": "bin/busybox"},
	Applets:  true,
}

// notApplets crash, or are better served by the programs of ours.
var notApplets = []string{"wget", "busybox"}

// layer fetches the packages into the folder cache, if they are not there, and
// takes the programs and their libraries out of them.
func (d *debian) layer(ctx context.Context, cache string) (*layer, error) {
	files, err := d.files(ctx, filepath.Join(cache, d.Packages[0]))
	if err != nil {
		return nil, err
	}
	l := newLayer()
	used := map[string]bool{}
	for _, place := range sorted(d.Programs) {
		e, err := files.read(d.Programs[place])
		if err != nil {
			return nil, err
		}
		l.file(place, 0o755, e.body)
		used[e.deb] = true
		if err := files.libraries(e.body, l, used); err != nil {
			return nil, fmt.Errorf("%s: %w", place, err)
		}
	}
	for name, e := range files {
		if used[e.deb] && strings.HasPrefix(name, "usr/share/doc/") && strings.HasSuffix(name, "/copyright") && e.to == "" {
			l.file(name, 0o644, e.body)
		}
	}
	if err := files.forget(used); err != nil {
		return nil, err
	}
	if d.Applets {
		return l, applets(ctx, l)
	}
	return l, nil
}

func sorted(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// applets links every name that busybox goes by.
func applets(ctx context.Context, l *layer) error {
	f, err := os.CreateTemp("", "busybox-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(l.entries["bin/busybox"].body); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o755), f.Close()); err != nil {
		return err
	}
	out, err := run(ctx, "", f.Name(), "--list")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(out)) {
		if !slices.Contains(notApplets, name) {
			l.link("bin/"+name, "/bin/busybox")
		}
	}
	return nil
}

// forget removes the packages that turned out to hold nothing of use, but not
// those that were asked for.
func (t tree) forget(used map[string]bool) error {
	gone := map[string]bool{}
	for _, e := range t {
		if used[e.deb] || gone[e.deb] || !strings.HasPrefix(filepath.Base(e.deb), "lib") {
			continue
		}
		gone[e.deb] = true
		if err := os.Remove(e.deb); err != nil {
			return err
		}
	}
	return nil
}

// tree is the files of some packages by name.
type tree map[string]entry

// files unpacks the packages; the first time it fetches them, with every
// library package that they depend on.
func (d *debian) files(ctx context.Context, cache string) (tree, error) {
	const done = "complete"
	if _, err := os.Stat(filepath.Join(cache, done)); errors.Is(err, fs.ErrNotExist) {
		if err := d.fetch(ctx, cache); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(cache, done), nil, 0o644); err != nil {
			return nil, err
		}
	}
	debs, err := filepath.Glob(filepath.Join(cache, "*.deb"))
	if err != nil {
		return nil, err
	}
	all := tree{}
	for _, deb := range debs {
		body, err := run(ctx, "", "dpkg-deb", "--fsys-tarfile", deb)
		if err != nil {
			return nil, err
		}
		files, err := readTar(body)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", deb, err)
		}
		for name, e := range files {
			e.deb = deb
			all[name] = e
		}
	}
	return all, nil
}

func (d *debian) fetch(ctx context.Context, cache string) error {
	for _, tool := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("this image is made of Debian packages and needs %s: build it on Debian or Ubuntu", tool)
		}
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	names := slices.Clone(d.Packages)
	out, err := d.depends(ctx)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(out)) {
		name := strings.TrimSpace(line)
		plain := line[0] != ' ' && line[0] != '<' && !strings.Contains(name, ":")
		library := strings.HasPrefix(name, "lib") || strings.HasPrefix(name, "lua-")
		// libelogind0 is another libsystemd0: one is enough.
		if plain && library && name != "libelogind0" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	_, err = run(ctx, cache, "apt-get", append([]string{"-o", "APT::Sandbox::User=root", "download"}, names...)...)
	return err
}

// depends prints everything that the packages depend on. A fresh machine does
// not know any package yet: then apt is asked to find out.
func (d *debian) depends(ctx context.Context) ([]byte, error) {
	args := []string{"depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances"}
	args = append(args, d.Packages...)
	out, err := run(ctx, "", "apt-cache", args...)
	if err == nil && len(out) > 0 {
		return out, nil
	}
	if _, err := run(ctx, "", "apt-get", "-qq", "update"); err != nil {
		return nil, fmt.Errorf("packages of Debian are not known here: %w", err)
	}
	return run(ctx, "", "apt-cache", args...)
}

// find follows links, also those of folders that Debian has merged into usr.
func (t tree) find(name string) (string, bool) {
	for range 8 {
		e, ok := t[name]
		if !ok {
			switch {
			case t[path.Join("usr", name)].kind != 0:
				name = path.Join("usr", name)
			case t[strings.TrimPrefix(name, "usr/")].kind != 0:
				name = strings.TrimPrefix(name, "usr/")
			default:
				return "", false
			}
			continue
		}
		if e.to == "" {
			return name, true
		}
		if path.IsAbs(e.to) {
			name = strings.TrimPrefix(path.Clean(e.to), "/")
		} else {
			name = path.Join(path.Dir(name), e.to)
		}
	}
	return "", false
}

func (t tree) read(name string) (entry, error) {
	at, ok := t.find(name)
	if !ok {
		return entry{}, fmt.Errorf("no package has %s", name)
	}
	return t[at], nil
}

// libraries adds what an ELF file needs to run, and what that needs.
func (t tree) libraries(body []byte, l *layer, used map[string]bool) error {
	f, err := elf.NewFile(bytes.NewReader(body))
	if err != nil {
		return err
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		loader := make([]byte, p.Filesz)
		if _, err := p.ReadAt(loader, 0); err != nil {
			return err
		}
		if err := t.library(strings.Trim(string(loader), "/\x00"), "", l, used); err != nil {
			return err
		}
	}
	needed, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	triplet := map[elf.Machine]string{elf.EM_X86_64: "x86_64-linux-gnu", elf.EM_AARCH64: "aarch64-linux-gnu"}[f.Machine]
	for _, so := range needed {
		if err := t.library("lib/"+triplet+"/"+so, triplet, l, used); err != nil {
			return err
		}
	}
	return nil
}

func (t tree) library(name, triplet string, l *layer, used map[string]bool) error {
	if _, ok := l.entries[name]; ok {
		return nil
	}
	e, err := t.read(name)
	if err != nil {
		return err
	}
	l.file(name, 0o755, e.body)
	used[e.deb] = true
	if triplet == "" {
		return nil
	}
	return t.libraries(e.body, l, used)
}
