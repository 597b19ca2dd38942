package bundle

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// window is the most memory that an archive may ask for; make's packer uses as
// much.
const window = 128 << 20

// unpacking begins the names of folders that are not whole yet.
const unpacking = ".unpacking-"

// unpack writes the archive, whose SHA-256 is want, as the folder home: into a
// folder beside it that gets its name when everything is on disk. A name that
// leaves the folder, or anything but plain files, is an error.
func unpack(archive io.Reader, want, home string) (err error) {
	parent := filepath.Dir(home)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return fmt.Errorf("unpack the bundle: %w", err)
	}
	unlock, err := lock(parent)
	if err != nil {
		return fmt.Errorf("unpack the bundle: %w", err)
	}
	defer unlock()
	if whole(home) {
		return nil // another process was as fast
	}
	if err := sweep(parent); err != nil {
		return fmt.Errorf("unpack the bundle: %w", err)
	}
	temp, err := os.MkdirTemp(parent, unpacking)
	if err != nil {
		return fmt.Errorf("unpack the bundle: %w", err)
	}
	defer os.RemoveAll(temp)
	if err := extract(archive, want, temp); err != nil {
		return fmt.Errorf("unpack the bundle into %s: %w", home, err)
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return fmt.Errorf("unpack the bundle: %w", err)
	}
	if err := syncFileSystem(temp); err != nil {
		return fmt.Errorf("unpack the bundle: %w", err)
	}
	if err := os.Rename(temp, home); err != nil {
		return fmt.Errorf("unpack the bundle: %w", err)
	}
	return syncFile(parent)
}

// lock makes this process the only one that unpacks into dir, and waits for
// the other one; the kernel lets go when the process ends, however it ends.
func lock(dir string) (unlock func() error, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f.Close, nil
}

// sweep removes what processes that were killed while unpacking left behind.
// The lock must be held.
func sweep(parent string) error {
	left, err := filepath.Glob(filepath.Join(parent, unpacking+"*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

func extract(archive io.Reader, want, to string) error {
	sum := sha256.New()
	tee := io.TeeReader(archive, sum)
	z, err := zstd.NewReader(tee, zstd.WithDecoderMaxWindow(window))
	if err != nil {
		return err
	}
	defer z.Close()
	root, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := writeFiles(tar.NewReader(z), root); err != nil {
		return err
	}
	// The rest, so that the sum is of all of it.
	if _, err := io.Copy(io.Discard, z); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want {
		return fmt.Errorf("the archive is damaged: its SHA-256 is %s, not %s", got, want)
	}
	return nil
}

func writeFiles(r *tar.Reader, root *os.Root) error {
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) {
			return fmt.Errorf("the archive holds %q, which is no plain file inside it", h.Name)
		}
		if err := root.MkdirAll(filepath.Dir(h.Name), 0o755); err != nil {
			return err
		}
		if err := write(root, h.Name, fs.FileMode(h.Mode)&0o755, r); err != nil {
			return err
		}
	}
}

func write(root *os.Root, name string, mode fs.FileMode, body io.Reader) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, body); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// syncFileSystem puts everything written below dir on disk with one call
// instead of one per file.
func syncFileSystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

func syncFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
