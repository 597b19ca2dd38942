package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A file is one file of a volume whose content comes from the API.
type file struct {
	data []byte
	mode fs.FileMode
	uid  *int64 // owner; nil: root
}

// writeAtomic makes dir show exactly files, all of them changing in one instant.
// The files are in a folder of their own, "..data" is a link to it that is swapped
// by a rename, and every visible name is a link through "..data". A reader that
// opened "..data" goes on seeing one consistent set. It says whether anything changed.
func writeAtomic(dir string, files map[string]file, now time.Time, group *int64) (changed bool, err error) {
	data := filepath.Join(dir, "..data")
	old, err := os.Readlink(data)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if old != "" && same(filepath.Join(dir, old), files) {
		return false, link(dir, files)
	}
	ts, err := os.MkdirTemp(dir, now.UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return false, err
	}
	if err := fill(ts, files, group); err != nil {
		os.RemoveAll(ts)
		return false, err
	}
	tmp := filepath.Join(dir, "..data_tmp")
	_ = os.Remove(tmp)
	if err := os.Symlink(filepath.Base(ts), tmp); err != nil {
		return false, err
	}
	if err := os.Rename(tmp, data); err != nil {
		return false, err
	}
	if err := link(dir, files); err != nil {
		return true, err
	}
	if old != "" && filepath.IsLocal(old) {
		err = os.RemoveAll(filepath.Join(dir, old))
	}
	return true, err
}

// fill writes the files into a new folder.
func fill(ts string, files map[string]file, group *int64) error {
	if err := own(ts, nil, group, 0o755); err != nil {
		return err
	}
	for name, f := range files {
		path := filepath.Join(ts, name)
		for d := filepath.Dir(name); d != "."; d = filepath.Dir(d) {
			if err := os.MkdirAll(filepath.Join(ts, d), 0o755); err != nil {
				return err
			}
			if err := own(filepath.Join(ts, d), nil, group, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(path, f.data, f.mode); err != nil {
			return err
		}
		if err := own(path, f.uid, group, f.mode); err != nil {
			return err
		}
	}
	return nil
}

// own sets owner, group and mode, whatever the umask. A group may read all, and
// enter folders, which hand their group on.
func own(path string, uid, group *int64, mode fs.FileMode) error {
	u, g := -1, -1
	if uid != nil {
		u = int(*uid)
	}
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if group != nil {
		g = int(*group)
		mode |= 0o440
		if st.IsDir() {
			mode |= 0o550 | fs.ModeSetgid
		}
	}
	if u >= 0 || g >= 0 {
		if err := os.Lchown(path, u, g); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

// same says whether a folder has exactly the files.
func same(dir string, files map[string]file) bool {
	n := 0
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		f, ok := files[rel]
		if !ok {
			return fs.ErrNotExist
		}
		have, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		if !bytes.Equal(have, f.data) || st.Mode().Perm()&f.mode.Perm() != f.mode.Perm() {
			return fs.ErrNotExist
		}
		n++
		return nil
	})
	return err == nil && n == len(files)
}

// link makes the visible names, and removes those that are not among them any more.
func link(dir string, files map[string]file) error {
	want := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		want[top] = true
	}
	have, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range have {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		if want[e.Name()] && e.Type()&fs.ModeSymlink != 0 {
			delete(want, e.Name())
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	for name := range want {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("visible name %s: %w", name, err)
		}
	}
	return nil
}
