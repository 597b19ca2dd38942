package api

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	kube "proa/internal/api"
	"proa/internal/store"
)

// Many watchers of one kind, each with what it selects and in its own way, while
// the objects change, clients are cut off, the server loses power, its disk
// fails, and the engine is compacted: what each has seen is what the log says.
func TestWatch(t *testing.T) {
	t.Parallel()
	random := seeded(t)
	watchers, turn := 16, 3*time.Second
	total := length(t, turn)
	if total > turn {
		watchers, turn = 48, 10*time.Second
	}
	var sum score
	for end := time.Now().Add(total); !t.Failed(); {
		t.Run("disk", func(t *testing.T) { watches(t, fork(random), watchers, turn, true, &sum) })
		if time.Now().After(end) {
			break
		}
	}
	if !t.Failed() {
		t.Run("memory", func(t *testing.T) { watches(t, fork(random), watchers, turn/2, false, &sum) })
	}
	t.Logf("%d events checked, and %d bookmarks; %d connections, %d lists, %d times 410; %d changes, %d crashes, %d I/O errors, %d compactions",
		sum.events, sum.bookmarks, sum.connections, sum.lists, sum.gone, sum.changes, sum.crashes, sum.faults, sum.compactions)
	if sum.events == 0 || sum.bookmarks == 0 || sum.crashes == 0 {
		t.Error("nothing has been tested")
	}
}

// A score is what a test has seen.
type score struct {
	events, bookmarks, connections, lists, gone int
	changes, crashes, faults, compactions       int
}

func watches(t *testing.T, random *rand.Rand, watchers int, turn time.Duration, disk bool, sum *score) {
	history := time.Hour
	if random.IntN(2) == 0 {
		history = 300 * time.Millisecond // the server compacts, too, and forgets what it had in memory
	}
	w := newWorld(t, random, history, disk)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var writers, readers sync.WaitGroup
	for id := range 4 {
		c := &changer{w: w, id: id, random: fork(random), client: client{w: w}}
		writers.Go(func() { c.work(ctx) })
	}
	last := make(chan struct{}) // closed when the last change has been made
	all := make([]*watcher, watchers)
	for id := range all {
		all[id] = newWatcher(w, fork(random), last)
		readers.Go(all[id].work)
	}
	sum.compactions += w.disturb(random, time.Now().Add(turn), disk)
	cancel()
	writers.Wait()
	end := w.now().real.Revision()
	wait, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	if err := w.truth.reach(wait, end); err != nil {
		t.Fatal(err)
	}
	close(last)
	readers.Wait()
	k := newKnowledge(t, w.truth.upTo(end))
	for id, x := range all {
		x.judge(t, id, k)
		sum.connections, sum.lists, sum.gone = sum.connections+x.connections, sum.lists+x.lists, sum.gone+x.gone
		for _, s := range x.stories {
			sum.events, sum.bookmarks = sum.events+len(s.seen), sum.bookmarks+len(s.bookmarks)
		}
	}
	if disk {
		w.edge(t, end)
	}
	sum.changes, sum.crashes, sum.faults = sum.changes+int(end), sum.crashes+w.crashes, sum.faults+w.faults
}

// disturb breaks things until a time.
func (w *world) disturb(random *rand.Rand, end time.Time, disk bool) (compactions int) {
	crashed := false
	for time.Now().Before(end) || disk && !crashed {
		time.Sleep(time.Duration(20+random.IntN(150)) * time.Millisecond)
		switch n := random.IntN(10); {
		case n == 0 && disk:
			w.crash()
			crashed = true
		case n == 1 && disk:
			w.fault()
		case n < 5:
			r := w.now()
			from, to := r.real.Horizon(), r.real.Revision()
			e := followed{r.real, w.truth}
			if err := e.Compact(context.Background(), from+random.Int64N(to-from+1)); err == nil {
				compactions++
			}
		}
	}
	return compactions
}

// edge asks for what has just been compacted, and for what has not: the one is
// gone, the other is answered. The server is a new one, which has nothing in memory.
func (w *world) edge(t *testing.T, end int64) {
	e := followed{w.now().real, w.truth}
	if err := e.Compact(context.Background(), end); err != nil {
		t.Fatal(err)
	}
	// The next write that is synced takes the horizon with it to the disk.
	if _, err := e.Write(context.Background(), store.Op{Key: "/test/marks/edge", Value: []byte("x"), Expect: store.Absent}); err != nil {
		t.Fatal(err)
	}
	w.history = time.Hour // nobody compacts any further
	w.crash()
	horizon := w.now().real.Horizon()
	if horizon < end {
		t.Fatalf("the horizon is %d after a crash, and was %d", horizon, end)
	}
	for _, protobuf := range []bool{true, false} {
		for rev, want := range map[int64]bool{horizon - 1: true, horizon: false} {
			x := &watcher{w: w, client: client{w: w}, random: fork(w.random), at: rev, way: fromList, bookmarks: true, protobuf: protobuf}
			err := x.watch(new(story), false, true)
			var status *statusError
			gone := errors.As(err, &status) && status.code == http.StatusGone
			if gone != want || err != nil && !gone {
				t.Errorf("a watch from revision %d, with the horizon at %d: %v", rev, horizon, err)
			}
			x.client.close()
		}
	}
}

// A changer makes, changes and removes events of the API (which have fields that
// change and can be selected by) through the API.
type changer struct {
	w      *world
	id     int
	random *rand.Rand
	client client
	n      int
}

var (
	namespaces = []string{"default", "kube-system"}
	tiers      = []string{"", "web", "db"}
	types      = []string{"Normal", "Warning"}
	reasons    = []string{"Started", "Stopped", "Moved"}
)

func (c *changer) work(ctx context.Context) {
	defer c.client.close()
	for ctx.Err() == nil {
		ns, name := namespaces[c.random.IntN(2)], fmt.Sprintf("e%d", c.random.IntN(12))
		path := "/api/v1/namespaces/" + ns + "/events"
		c.n++
		labels := ""
		if t := tiers[c.random.IntN(3)]; t != "" {
			labels = fmt.Sprintf(`"tier":%q`, t)
		}
		body := fmt.Sprintf(`{"apiVersion":"v1","kind":"Event","metadata":{"name":%q,"namespace":%q,"labels":{%s}},"involvedObject":{"namespace":%q},"type":%q,"reason":%q,"message":"%d.%d"}`,
			name, ns, labels, ns, types[c.random.IntN(2)], reasons[c.random.IntN(3)], c.id, c.n)
		switch c.random.IntN(8) {
		case 0, 1:
			c.ask(http.MethodPost, path, body)
		case 2:
			c.ask(http.MethodDelete, path+"/"+name, "")
		default:
			c.ask(http.MethodPut, path+"/"+name, body) // which creates it if need be
		}
	}
}

// ask sends a request; whether it succeeds the log will tell.
func (c *changer) ask(method, path, body string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, h := c.client.to()
	req, err := http.NewRequestWithContext(ctx, method, r.url+path, strings.NewReader(body))
	if err != nil {
		c.w.t.Error(err)
		return
	}
	req.Header.Set("Content-Type", kube.MediaJSON)
	resp, err := h.Do(req)
	if err != nil {
		time.Sleep(5 * time.Millisecond) // the server is not there
		return
	}
	if resp.StatusCode == http.StatusBadRequest || resp.StatusCode == http.StatusUnprocessableEntity {
		c.w.t.Errorf("%s %s: %s", method, path, resp.Status)
	}
	resp.Body.Close()
}
