package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// resolvers reads the node's own resolvers, in order, without those that would
// lead back here. The file may be missing: then there are none.
func (c *Config) resolvers() ([]netip.AddrPort, error) {
	list, err := c.readConf(c.ResolvConf)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(list, isStub) {
		// systemd-resolved: what it asks itself is in a file of its own.
		if real, err := c.readConf(c.StubConf); err == nil && len(real) > 0 {
			list = real
		}
	}
	return slices.DeleteFunc(list, isStub), nil
}

// isStub tells the address on which systemd-resolved answers this machine only.
// It may be set to use the cluster's name server, and then there is a circle.
func isStub(a netip.AddrPort) bool {
	return a.Addr() == netip.AddrFrom4([4]byte{127, 0, 0, 53}) || a.Addr() == netip.AddrFrom4([4]byte{127, 0, 0, 54})
}

func (c *Config) readConf(file string) (out []netip.AddrPort, err error) {
	b, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		ip, err := netip.ParseAddr(f[1])
		if err != nil {
			continue
		}
		a := netip.AddrPortFrom(ip, 53)
		self := slices.ContainsFunc(c.Listen, func(l netip.AddrPort) bool { return l.Addr() == ip })
		if !self && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out, nil
}

// A fileWatch tells when one of some files was written, made, replaced or
// removed since it was opened.
type fileWatch struct {
	f     *os.File // nil if none of the folders is there
	names map[string]bool
}

// openFileWatch begins to take note: what is read after it is either the newest
// or a change of it is told.
func openFileWatch(files ...string) (*fileWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch files: %w", err)
	}
	w := &fileWatch{f: os.NewFile(uintptr(fd), "inotify"), names: map[string]bool{}}
	watched := false
	add := func(file string) {
		w.names[filepath.Base(file)] = true
		if _, err := unix.InotifyAddWatch(fd, filepath.Dir(file), inotifyEvents); err == nil {
			watched = true
		}
	}
	for _, file := range files {
		if target, err := filepath.EvalSymlinks(file); err == nil && target != file {
			add(target)
		}
		add(filepath.Clean(file))
	}
	if !watched {
		err := w.f.Close()
		w.f = nil
		return w, err
	}
	return w, nil
}

// follow calls changed after each change until ctx ends, and closes w.
func (w *fileWatch) follow(ctx context.Context, changed func()) error {
	if w.f == nil {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { w.f.Close() })
	defer stop()
	buf := make([]byte, 16<<10)
	for {
		n, err := w.f.Read(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch files: %w", errors.Join(err, w.f.Close()))
		}
		if touches(buf[:n], w.names) {
			changed()
		}
	}
}

const inotifyEvents = unix.IN_CLOSE_WRITE | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_MOVED_FROM

// touches reports whether one of the events is about a file of one of the names.
func touches(b []byte, names map[string]bool) bool {
	for len(b) >= unix.SizeofInotifyEvent {
		l := int(uint32(b[12]) | uint32(b[13])<<8 | uint32(b[14])<<16 | uint32(b[15])<<24)
		if len(b) < unix.SizeofInotifyEvent+l {
			return true
		}
		if names[strings.TrimRight(string(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+l]), "\x00")] {
			return true
		}
		b = b[unix.SizeofInotifyEvent+l:]
	}
	return false
}
