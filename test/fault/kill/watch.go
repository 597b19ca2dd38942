package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// An event is one that the watch has shown.
type event struct{ typ, name, n string }

// A gap lies between two lists: what happened in it need not have been shown.
type gap struct{ after, upTo int64 }

// A watcher follows all objects over every kill, from the last revision that it
// has seen. Only its goroutine changes it.
type watcher struct {
	t    *trial
	stop context.CancelFunc
	done chan struct{}

	at     int64
	shown  atomic.Int64 // at, for others
	seen   int
	now    map[string]string // what the objects are, by the events
	events map[int64]event
	gaps   []gap
}

func (w *watcher) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	w.stop, w.done = cancel, make(chan struct{})
	go func() {
		defer close(w.done)
		w.run(ctx)
	}()
}

// reach waits until the watch has shown everything up to a revision.
func (w *watcher) reach(rev int64) error {
	for end := time.Now().Add(patience); w.shown.Load() < rev; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("the watch does not reach revision %d within %s", rev, patience)
		}
	}
	return nil
}

func (w *watcher) end() {
	w.stop()
	<-w.done
}

// run watches, again and again, until ctx ends.
func (w *watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		var err error
		if w.at == 0 {
			err = w.relist(ctx)
		} else {
			err = w.once(ctx)
		}
		var status *statusError
		if errors.As(err, &status) && status.code == http.StatusGone {
			err = w.relist(ctx)
		}
		if err != nil && ctx.Err() == nil {
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// relist begins anew.
func (w *watcher) relist(ctx context.Context) error {
	items, rev, err := w.t.listAt(ctx)
	if err != nil {
		return err
	}
	if w.at > 0 {
		w.gaps = append(w.gaps, gap{w.at, rev})
		w.t.count(func(r *report) { r.gone++ })
	} else {
		w.gaps = append(w.gaps, gap{0, rev})
	}
	if rev < w.at {
		w.t.violation("a list shows revision %d after %d was watched", rev, w.at)
	}
	clear(w.now)
	for name, s := range items {
		w.now[name] = s.n
	}
	w.advance(rev)
	return nil
}

// once is one connection.
func (w *watcher) once(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	target, generation := w.t.target()
	client := target.Client()
	defer client.CloseIdleConnections()
	// A connection to a server that was killed ends; one that hangs is let go of.
	watchdog := time.AfterFunc(patience, cancel)
	defer watchdog.Stop()
	path := fmt.Sprintf("%s%s?watch=1&allowWatchBookmarks=true&resourceVersion=%d", target.URL, w.t.server.Path("configmaps"), w.at)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, err := io.ReadAll(resp.Body)
		return errors.Join(err, &statusError{resp.StatusCode, string(b)})
	}
	lines := bufio.NewReaderSize(resp.Body, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err // what came of an event before the end is no event
		}
		watchdog.Reset(patience)
		if err := w.take(line); err != nil {
			return err
		}
		if now, g := w.t.target(); g != generation && now.URL != target.URL {
			return nil
		}
	}
}

// take is one event.
func (w *watcher) take(line []byte) error {
	var e struct {
		Type   string
		Object object
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return err
	}
	if e.Type == "ERROR" {
		return &statusError{e.Object.Code, string(line)}
	}
	rev, err := strconv.ParseInt(e.Object.Metadata.ResourceVersion, 10, 64)
	if err != nil {
		w.t.violation("an event has no resourceVersion: %.200s", line)
		return err
	}
	if e.Type == "BOOKMARK" {
		if rev < w.at {
			w.t.violation("a bookmark at revision %d came after an event at %d", rev, w.at)
		}
		w.advance(rev)
		return nil
	}
	w.seen++
	if rev <= w.at {
		w.t.violation("the event %.200s came after one at %d", line, w.at)
		return nil
	}
	name, n := e.Object.Metadata.Name, e.Object.Data.N
	was, there := w.now[name]
	switch e.Type {
	case "ADDED":
		if there {
			w.t.violation("%s is ADDED at %d, but was %s", name, rev, was)
		}
		w.now[name] = n
	case "MODIFIED":
		if !there || was == n && n != "" {
			w.t.violation("%s is MODIFIED at %d to %s, but was %q", name, rev, n, was)
		}
		w.now[name] = n
	case "DELETED":
		if !there || was != n {
			w.t.violation("%s is DELETED at %d as %s, but was %q", name, rev, n, was)
		}
		delete(w.now, name)
	}
	w.events[rev] = event{e.Type, name, n}
	w.advance(rev)
	return nil
}

// advance notes how far the watch has come.
func (w *watcher) advance(rev int64) {
	w.at = rev
	w.shown.Store(rev)
}

// compare checks that every write that is known to have been made was shown
// once, at its revision, and that nothing else was.
func (w *watcher) compare(writes []change) {
	covered := func(rev int64) bool {
		for _, g := range w.gaps {
			if rev > g.after && rev <= g.upTo {
				return false
			}
		}
		return true
	}
	ends, made := map[string]bool{}, map[string]bool{} // by what was deleted, and what was written
	for _, e := range w.events {
		if e.typ == "DELETED" {
			ends[e.n] = true
		} else {
			made[e.n] = true
		}
	}
	for _, c := range writes {
		if c.now.n == "" {
			if !ends[c.was] && len(w.gaps) == 1 {
				w.t.violation("%s was deleted as %s, which the watch has not shown", c.name, c.was)
			}
			continue
		}
		rev, err := strconv.ParseInt(c.now.rv, 10, 64)
		if err != nil || !covered(rev) {
			continue
		}
		if e, ok := w.events[rev]; !ok || e.n != c.now.n || e.name != c.name {
			w.t.violation("%s was written as %s at %s; the watch has shown %+v there", c.name, c.now.n, c.now.rv, e)
		}
		delete(made, c.now.n)
	}
	for n := range made {
		if !w.t.unknown[n] && strings.HasPrefix(n, "w") {
			w.t.violation("the watch has shown %s, which nobody has written", n)
		}
	}
}

// list is the test's objects as they are now.
func (t *trial) list() (map[string]state, error) {
	items, _, err := t.listAt(context.Background())
	return items, err
}

func (t *trial) listAt(ctx context.Context) (map[string]state, int64, error) {
	target, _ := t.target()
	client := target.Client()
	defer client.CloseIdleConnections()
	b, err := target.Get(ctx, client, t.server.Path("configmaps"))
	if err != nil {
		return nil, 0, err
	}
	var list struct {
		Metadata struct{ ResourceVersion string }
		Items    []object
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, 0, err
	}
	out := map[string]state{}
	for _, o := range list.Items {
		if o.Data.N != "" {
			out[o.Metadata.Name] = state{o.Data.N, o.Metadata.ResourceVersion}
		}
	}
	rev, err := strconv.ParseInt(list.Metadata.ResourceVersion, 10, 64)
	return out, rev, err
}
