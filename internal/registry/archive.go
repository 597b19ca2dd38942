package registry

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
)

// An archive is a set of files to be read in any order, any number of times.
type archive interface {
	has(name string) bool
	open(name string) (io.ReadCloser, error) // ErrDamaged when it is not there
	close()
}

// openArchive opens a folder or a tar. A compressed tar is first written out
// plain below scratch, where images go anyway.
func openArchive(ctx context.Context, path, scratch string) (archive, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		root, err := os.OpenRoot(path)
		return folder{root}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	plain, kind, err := decompress(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if kind != "" {
		out, err := writeOut(ctx, plain, scratch)
		plain.Close()
		f.Close()
		if err != nil {
			return nil, err
		}
		f = out
	}
	t, err := indexTar(ctx, f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return t, nil
}

// writeOut puts what r gives into a file that has no name any more.
func writeOut(ctx context.Context, r io.Reader, scratch string) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Join(scratch, "uploads"), "plain-")
	if err != nil {
		return nil, explain(err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	in := &faultReader{r: untilDone{ctx, r}}
	if _, err := io.Copy(f, in); err != nil {
		f.Close()
		if in.err != nil && ctx.Err() == nil {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, in.err)
		}
		return nil, explain(err)
	}
	return f, nil
}

// faultReader remembers that it was reading that failed, not writing.
type faultReader struct {
	r   io.Reader
	err error
}

func (f *faultReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

type folder struct{ root *os.Root }

func (f folder) has(name string) bool {
	info, err := f.root.Stat(filepath.FromSlash(name))
	return err == nil && info.Mode().IsRegular()
}

func (f folder) open(name string) (io.ReadCloser, error) {
	file, err := f.root.Open(filepath.FromSlash(name))
	if absent(err) {
		return nil, fmt.Errorf("%w: it has no %s", ErrDamaged, name)
	}
	return file, err
}

func (f folder) close() { f.root.Close() }

// tarFile is a tar with the places of its files.
type tarFile struct {
	f     *os.File
	files map[string]*io.SectionReader
	links map[string]string // old docker archives link layers that are the same
}

func indexTar(ctx context.Context, f *os.File) (*tarFile, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	t := &tarFile{f: f, files: map[string]*io.SectionReader{}, links: map[string]string{}}
	for r := tar.NewReader(f); ; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: it is no tar archive or is cut short: %w", ErrDamaged, err)
		}
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			t.files[name] = io.NewSectionReader(f, at, h.Size)
		case tar.TypeSymlink:
			t.links[name] = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			t.links[name] = path.Clean(h.Linkname)
		}
	}
	return t, t.complete()
}

// complete tells a file that was cut short, which the tar reader skips over
// where it can seek.
func (t *tarFile) complete() error {
	info, err := t.f.Stat()
	if err != nil {
		return err
	}
	for name, s := range t.files {
		_, at, n := s.Outer()
		if at+n > info.Size() {
			return fmt.Errorf("%w: it is cut short within %s", ErrDamaged, name)
		}
	}
	return nil
}

func (t *tarFile) find(name string) *io.SectionReader {
	name = path.Clean(name)
	for range 8 { // links to links
		if s := t.files[name]; s != nil {
			return s
		}
		to, ok := t.links[name]
		if !ok {
			return nil
		}
		name = to
	}
	return nil
}

func (t *tarFile) has(name string) bool { return t.find(name) != nil }

func (t *tarFile) open(name string) (io.ReadCloser, error) {
	s := t.find(name)
	if s == nil {
		return nil, fmt.Errorf("%w: it has no %s", ErrDamaged, name)
	}
	_, at, n := s.Outer()
	return io.NopCloser(io.NewSectionReader(t.f, at, n)), nil
}

func (t *tarFile) close() { t.f.Close() }

func hashAll(r io.Reader) (string, error) {
	h := sha256.New()
	_, err := io.Copy(h, r)
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), err
}
