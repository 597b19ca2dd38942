// Package logs reads, follows and rotates container logs in the format that the
// CRI prescribes: one line each of "TIME STREAM TAG TEXT", where TIME is RFC 3339
// with nanoseconds, STREAM stdout or stderr, and TAG is P on a part of a line
// whose end is still to come and F otherwise.
package logs

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Options say which lines [Read] writes, and how.
type Options struct {
	Follow     bool
	Timestamps bool
	Tail       *int64    // only the last lines
	Since      time.Time // only later ones
	Limit      *int64    // bytes in all
	Stream     string    // "Stdout", "Stderr"; both if empty or "All"
}

// A line is one line of a log file.
type line struct {
	time   time.Time
	stamp  []byte
	stream string
	part   bool
	text   []byte // with its newline unless it is a part
}

// parse reads one line, which ends in a newline.
func parse(b []byte) (l line, ok bool) {
	b = bytes.TrimSuffix(b, []byte("\n"))
	stamp, rest, ok1 := bytes.Cut(b, []byte(" "))
	stream, rest, ok2 := bytes.Cut(rest, []byte(" "))
	tags, text, ok3 := bytes.Cut(rest, []byte(" "))
	if !ok1 || !ok2 || !ok3 {
		return l, false
	}
	t, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return l, false
	}
	tag, _, _ := bytes.Cut(tags, []byte(":"))
	l = line{time: t, stamp: stamp, stream: string(stream), part: string(tag) == "P", text: text}
	if !l.part {
		l.text = append(slices.Clone(text), '\n')
	}
	return l, true
}

// A writer applies the options to lines.
type writer struct {
	w      io.Writer
	o      *Options
	left   int64 // -1: any number of bytes
	middle bool  // the last line was a part
}

var errLimit = errors.New("limit reached")

func (w *writer) line(b []byte) error {
	l, ok := parse(b)
	if !ok || l.time.Before(w.o.Since) || !w.wants(l.stream) {
		return nil
	}
	out := l.text
	if w.o.Timestamps && !w.middle {
		out = slices.Concat(l.stamp, []byte(" "), l.text)
	}
	w.middle = l.part
	if w.left >= 0 && int64(len(out)) > w.left {
		out = out[:w.left]
	}
	if _, err := w.w.Write(out); err != nil {
		return err
	}
	if w.left >= 0 {
		if w.left -= int64(len(out)); w.left == 0 {
			return errLimit
		}
	}
	return nil
}

func (w *writer) wants(stream string) bool {
	return w.o.Stream == "" || w.o.Stream == "All" || strings.EqualFold(w.o.Stream, stream)
}

// Read writes a container's log to w. With Follow it goes on until done says
// that the container has ended and all is written, or ctx ends. A rotation while
// it follows loses nothing.
func Read(ctx context.Context, path string, o Options, w io.Writer, done func() bool) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("failed to try resolving symlinks in path %q: %w", path, err)
	}
	defer func() { f.Close() }()
	out := &writer{w: w, o: &o, left: -1}
	if o.Limit != nil {
		out.left = *o.Limit
	}
	if o.Tail != nil {
		start, err := tailStart(f, *o.Tail)
		if err != nil {
			return err
		}
		if _, err := f.Seek(start, io.SeekStart); err != nil {
			return err
		}
	}
	if out.left == 0 {
		return nil
	}
	var watch *watcher
	if o.Follow {
		if watch, err = newWatcher(filepath.Dir(path)); err != nil {
			return err
		}
		defer watch.close()
	}
	rd := bufio.NewReaderSize(f, 64<<10)
	var rest []byte
	for {
		finished := done == nil || done() // asked first: what is written after it is read below
		for {
			b, err := rd.ReadBytes('\n')
			rest = append(rest, b...)
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
			if err := out.line(rest); err != nil {
				return unless(err, errLimit)
			}
			rest = rest[:0]
		}
		if !o.Follow {
			return nil
		}
		next, err := rotated(f, path)
		switch {
		case err != nil:
			return err
		case next != nil:
			f.Close()
			f, rest = next, rest[:0]
			rd.Reset(f)
			continue
		case finished:
			return nil
		}
		if err := watch.wait(ctx); err != nil {
			return unless(err, context.Canceled)
		}
	}
}

func unless(err, fine error) error {
	if errors.Is(err, fine) {
		return nil
	}
	return err
}

// rotated returns the file that has taken f's place, if one has.
func rotated(f *os.File, path string) (*os.File, error) {
	now, err := os.Stat(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	have, err := f.Stat()
	if err != nil || os.SameFile(now, have) {
		return nil, err
	}
	return os.Open(path)
}

// tailStart finds where the last n lines begin.
func tailStart(f *os.File, n int64) (int64, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n <= 0 {
		return end, err
	}
	const block = 64 << 10
	buf := make([]byte, block)
	count := int64(0)
	for pos := end; pos > 0; {
		size := min(pos, block)
		pos -= size
		if _, err := f.ReadAt(buf[:size], pos); err != nil && err != io.EOF {
			return 0, err
		}
		for i := size - 1; i >= 0; i-- {
			if buf[i] != '\n' || pos+i == end-1 {
				continue
			}
			if count++; count == n {
				return pos + i + 1, nil
			}
		}
	}
	return 0, nil
}

// Tail returns the text of a log's last lines, at most so many bytes.
func Tail(path string, count int64, size int) string {
	var b bytes.Buffer
	if Read(context.Background(), path, Options{Tail: &count}, &b, nil) != nil {
		return ""
	}
	text := b.Bytes()
	if len(text) > size {
		text = text[len(text)-size:]
	}
	return string(text)
}

// Rotate puts a log aside when it has grown beyond size: the runtime is told to
// open a new one, the one before the last is compressed, and the oldest go, so
// that at most files are there in all.
func Rotate(path string, size int64, files int, reopen func() error) error {
	st, err := os.Stat(path)
	if err != nil || st.Size() < size {
		return unless(err, os.ErrNotExist)
	}
	old, err := filepath.Glob(path + ".*")
	if err != nil {
		return err
	}
	slices.Sort(old)
	for i, p := range old {
		if len(old)-i > files-2 {
			if err := os.Remove(p); err != nil {
				return err
			}
		} else if !strings.HasSuffix(p, ".gz") {
			if err := pack(p); err != nil {
				return err
			}
		}
	}
	aside := path + "." + time.Now().Format("20060102-150405.000")
	if err := os.Rename(path, aside); err != nil {
		return err
	}
	if err := reopen(); err != nil {
		// The runtime still writes to the old file: give it its name back.
		_ = os.Rename(aside, path)
		return fmt.Errorf("reopen %s: %w", path, err)
	}
	return nil
}

// pack compresses a file in place.
func pack(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	tmp := path + ".tmp"
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	if e := z.Close(); err == nil {
		err = e
	}
	if e := out.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp, path+".gz")
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return os.Remove(path)
}
