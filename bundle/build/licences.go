package main

import (
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// linkedC are the C libraries inside runc, with the file in which Debian says
// under which terms they come. (Both allow what is done here: this folder is
// the source and the recipe with which anyone can link them anew.)
var linkedC = map[string][]string{
	"libseccomp": {"/usr/share/doc/libseccomp-dev/copyright", "/usr/share/licenses/libseccomp/LICENSE"},
	"glibc":      {"/usr/share/doc/libc6-dev/copyright", "/usr/share/doc/libc6/copyright", "/usr/share/licenses/glibc/LICENSES"},
}

var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents|copyright)([-._].*)?$`)

// licences collects the licence files of every module that the built programs
// name in their build information, and of the main module's own dependencies.
func (b *builder) licences() (string, error) {
	to := filepath.Join(b.dir, "licences")
	if err := os.RemoveAll(to); err != nil {
		return "", err
	}
	mods, err := b.linked()
	if err != nil {
		return "", err
	}
	for path, dir := range mods {
		n, err := copyLicences(dir, filepath.Join(to, path))
		if err != nil {
			return "", err
		}
		if n == 0 {
			return "", fmt.Errorf("module %s carries no licence file in %s", path, dir)
		}
	}
	for name, places := range linkedC {
		if err := copyFirst(places, filepath.Join(to, "c", name)); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d modules", len(mods)), nil
}

// linked gives the folder of every module inside the bundle's programs and
// inside proa, by path@version.
func (b *builder) linked() (map[string]string, error) {
	dirs := map[string]string{}
	for _, in := range []string{".", b.core} {
		if err := b.downloaded(in, dirs); err != nil {
			return nil, err
		}
	}
	used := map[string]string{}
	for _, p := range programs {
		if p.C != "" {
			continue
		}
		info, err := buildinfo.ReadFile(filepath.Join(b.dir, "bin", p.Name))
		if errors.Is(err, fs.ErrNotExist) && p.Core {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, dep := range info.Deps {
			key := dep.Path + "@" + dep.Version
			if used[key] = dirs[key]; used[key] == "" {
				return nil, fmt.Errorf("module %s of %s has no source folder here", key, p.Name)
			}
		}
	}
	return used, b.linkedIntoCore(dirs, used)
}

func (b *builder) linkedIntoCore(dirs, used map[string]string) error {
	if _, err := os.Stat(filepath.Join(b.core, "cmd", "proa")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	out, err := b.run(b.core, nil, "go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}@{{.Version}}{{end}}", "./cmd/proa")
	if err != nil {
		return err
	}
	for key := range strings.FieldsSeq(out) {
		if dirs[key] != "" {
			used[key] = dirs[key]
		}
	}
	return nil
}

// downloaded adds the folders of the modules that the module in dir requires.
func (b *builder) downloaded(in string, dirs map[string]string) error {
	out, err := b.run(in, nil, "go", "list", "-m", "-json=Path,Version,Dir", "all")
	if err != nil {
		return err
	}
	for d := json.NewDecoder(strings.NewReader(out)); ; {
		var m struct{ Path, Version, Dir string }
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if m.Dir != "" && m.Version != "" {
			dirs[m.Path+"@"+m.Version] = m.Dir
		}
	}
}

func copyLicences(from, to string) (n int, err error) {
	entries, err := os.ReadDir(from)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !licenceFile.MatchString(e.Name()) {
			continue
		}
		if err := copyFile(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func copyFirst(places []string, to string) error {
	for _, from := range places {
		err := copyFile(from, to)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return fmt.Errorf("no licence text at any of %s", strings.Join(places, ", "))
}

func copyFile(from, to string) error {
	body, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, body, 0o644)
}
