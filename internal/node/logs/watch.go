package logs

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A watcher waits for changes in a folder, by inotify.
type watcher struct {
	f    *os.File
	bell chan error
}

func newWatcher(dir string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_CLOSE_WRITE|unix.IN_DELETE_SELF); err != nil {
		unix.Close(fd)
		return nil, err
	}
	// A non-blocking descriptor is read by the runtime's poller: no thread waits.
	w := &watcher{os.NewFile(uintptr(fd), "inotify"), make(chan error, 1)}
	go func() {
		buf := make([]byte, 4096)
		for {
			_, err := w.f.Read(buf)
			if err != nil {
				if !errors.Is(err, os.ErrClosed) {
					w.bell <- err
				}
				return
			}
			select {
			case w.bell <- nil:
			default:
			}
		}
	}()
	return w, nil
}

// lookAgain is how often the end of a container is looked for: its log does not
// change by that.
const lookAgain = time.Second

func (w *watcher) wait(ctx context.Context) error {
	t := time.NewTimer(lookAgain)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-w.bell:
		return err
	case <-t.C:
		return nil
	}
}

func (w *watcher) close() { w.f.Close() }
