package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

// object is what the test reads of an object, or of a Status.
type object struct {
	Kind     string
	Code     int
	Metadata struct {
		Name            string
		ResourceVersion string
	}
	Data struct{ N string }
}

// A state is what an object is; a state that is nowhere has no n.
type state struct {
	n  string // which write made it; no two writes have the same
	rv string // empty if it is not known
}

// A writer changes objects that nobody else changes.
type writer struct {
	t      *trial
	id     int
	random *rand.Rand
	client *http.Client
	server int // generation of the server that client belongs to
	have   []state
	writes int
}

const objectsEach = 4

func (w *writer) name(i int) string { return fmt.Sprintf("w%d-%d", w.id, i) }

// run writes until the trial ends. Whenever the answer to a write is not known
// it looks at what has become of it, and of the others.
func (w *writer) run(ctx context.Context) {
	w.have = make([]state, objectsEach)
	for ctx.Err() == nil {
		i := w.random.IntN(objectsEach)
		was := w.have[i]
		next, err := w.write(i)
		if err == nil {
			w.t.acknowledged(w.name(i), was, next)
			w.have[i] = next
			continue
		}
		if w.refused(err) {
			w.t.violation("%s: %v", w.name(i), err)
			return
		}
		w.t.underWay(next, err)
		w.settle(i, was, next)
		for j := range w.have {
			if j != i {
				w.settle(j, w.have[j], w.have[j])
			}
		}
	}
}

// write makes one change; when the outcome is not known next is what it would have made.
func (w *writer) write(i int) (next state, err error) {
	was := w.have[i]
	w.writes++
	next.n = fmt.Sprintf("%s.%d", w.name(i), w.writes)
	collection := w.t.server.Path("configmaps")
	before := w.t.high.Load()
	var got object
	switch {
	case was.n == "":
		got, err = w.do(http.MethodPost, collection, w.body(i, next.n, ""))
	case w.random.IntN(5) == 0:
		next.n = ""
		_, err = w.do(http.MethodDelete, collection+"/"+w.name(i), "")
		return next, err
	default:
		rv := was.rv
		if w.t.blind && w.random.IntN(2) == 0 {
			rv = "" // whatever is there
		}
		got, err = w.do(http.MethodPut, collection+"/"+w.name(i), w.body(i, next.n, rv))
	}
	if err == nil {
		next.rv = got.Metadata.ResourceVersion
		w.t.rises(before, next)
		if got.Data.N != next.n {
			w.t.violation("%s was answered with %s", next.n, got.Data.N)
		}
	}
	return next, err
}

// settle finds out which of two states an object is in.
func (w *writer) settle(i int, was, next state) {
	for {
		o, err := w.do(http.MethodGet, w.t.server.Path("configmaps")+"/"+w.name(i), "")
		var status *statusError
		if errors.As(err, &status) && status.code == http.StatusNotFound && !status.starting() {
			o, err = object{}, nil
		}
		if err != nil {
			if w.t.over() {
				return
			}
			w.pause()
			continue
		}
		now := state{o.Data.N, o.Metadata.ResourceVersion}
		switch {
		case now.n == was.n && (was.rv == "" || now.rv == was.rv):
			w.have[i] = now
		case now.n == next.n:
			w.have[i] = now
			w.t.made(w.name(i), was, now)
		default:
			w.t.violation("%s is %q at %s; it was left as %q at %s, and only %q was under way", w.name(i), now.n, now.rv, was.n, was.rv, next.n)
			w.have[i] = now
		}
		return
	}
}

// pause waits a little before a server that is not there is asked again.
func (w *writer) pause() { time.Sleep(10 * time.Millisecond) }

// refused says whether a server that works has answered a write with an error:
// nobody else writes the object, so there is no reason to.
func (w *writer) refused(err error) bool {
	var status *statusError
	return errors.As(err, &status) && status.code < 500 && status.code != http.StatusTooManyRequests && !status.starting()
}

// starting says whether a server of custom resources has not found their definition yet.
func (e *statusError) starting() bool {
	return e.code == http.StatusNotFound && !strings.Contains(e.text, `"name"`)
}

var padding = strings.Repeat("x", 800)

func (w *writer) body(i int, n, rv string) string {
	return fmt.Sprintf(`{"apiVersion":%q,"kind":"ConfigMap","metadata":{"name":%q,"namespace":"default","resourceVersion":%q},"data":{"n":%q,"padding":%q}}`,
		w.t.server.APIVersion(), w.name(i), rv, n, padding)
}

// A statusError is an answer that is no success.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return fmt.Sprintf("%d: %.300s", e.code, e.text) }

// do sends one request to the server that runs now.
func (w *writer) do(method, path, body string) (o object, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	target, generation := w.t.target()
	if w.client == nil || w.server != generation {
		if w.client != nil {
			w.client.CloseIdleConnections()
		}
		w.client, w.server = target.Client(), generation
	}
	req, err := http.NewRequestWithContext(ctx, method, target.URL+path, strings.NewReader(body))
	if err != nil {
		return o, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := w.client.Do(req)
	if err != nil {
		return o, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return o, err
	}
	if resp.StatusCode/100 != 2 {
		return o, &statusError{resp.StatusCode, string(b)}
	}
	return o, json.Unmarshal(b, &o)
}
