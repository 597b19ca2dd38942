package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"
)

// window is how far back the compressor sees: the whole archive, because its
// Go programs share much code (with it 24 MB, one by one 38).
const window = 128 << 20

// header is a tar header that says the same on every machine.
func header(name string, mode, size int64) *tar.Header {
	return &tar.Header{Name: name, Mode: mode, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
}

// pack writes the folder dir as an archive, its hash beside it, and both into
// the folder embed. An archive that a crash left half-written is never seen
// under its final name.
func pack(dir, to, embed string, best bool) (string, error) {
	level := zstd.SpeedFastest
	if best {
		level = zstd.SpeedBestCompression
	}
	sum, size, err := compress(dir, to, level)
	if err != nil {
		return "", err
	}
	if err := replace(to+".sha256", []byte(sum+"\n")); err != nil {
		return "", err
	}
	if embed != "" {
		if err := copyInto(embed, to, sum); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%s, %.1f MB", sum[:12], float64(size)/1e6), nil
}

func compress(dir, to string, level zstd.EncoderLevel) (sum string, size int64, err error) {
	f, err := os.Create(to + ".new")
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	hash := sha256.New()
	z, err := zstd.NewWriter(io.MultiWriter(f, hash), zstd.WithEncoderLevel(level), zstd.WithWindowSize(window))
	if err != nil {
		return "", 0, err
	}
	w := tar.NewWriter(z)
	if err := add(w, dir); err != nil {
		return "", 0, err
	}
	if err := w.Close(); err != nil {
		return "", 0, err
	}
	if err := z.Close(); err != nil {
		return "", 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(hash.Sum(nil)), info.Size(), os.Rename(to+".new", to)
}

// add puts the regular files below dir into the archive, in order of name.
func add(w *tar.Writer, dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := int64(0o644)
		if info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		if err := w.WriteHeader(header(filepath.ToSlash(name), mode, info.Size())); err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	})
}

// copyInto hands the archive to go:embed, which cannot reach outside its
// package. Unchanged files are left alone so that nothing is built again.
func copyInto(embed, archive, sum string) error {
	name := filepath.Join(embed, "bundle.tar.zst")
	if old, err := os.ReadFile(name + ".sha256"); err == nil && string(old) == sum {
		if info, err := os.Stat(name); err == nil && info.Size() > 0 {
			return nil
		}
	}
	body, err := os.ReadFile(archive)
	if err != nil {
		return err
	}
	if err := replace(name, body); err != nil {
		return err
	}
	return replace(name+".sha256", []byte(sum))
}

func replace(name string, body []byte) error {
	if err := os.WriteFile(name+".new", body, 0o644); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}
