package api

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	kube "proa/internal/api"
)

// The ways in which a watcher begins.
const (
	fromList    = iota // a list, then a watch from its revision
	streamed           // sendInitialEvents
	fromNothing        // no resourceVersion: what is there first
	fromZero           // resourceVersion=0: the same
	ways
)

// A seen is one event that a watcher was shown.
type seen struct {
	typ     string
	rev     int64
	key     string // namespace/name
	message string
}

// A bookmark lies between the events.
type bookmark struct {
	after int // how many events came before it
	rev   int64
}

// A story is what a watcher saw without starting anew.
type story struct {
	from      int64  // everything above this is to be seen; unseen: see initial
	low, high int64  // when the state that begins it was taken lies between these, if from is unseen
	listed    []seen // by a list at from
	isListed  bool
	seen      []seen
	bookmarks []bookmark
	complete  bool // nothing up to the end of all changes is missing
}

// A watcher follows events, again and again.
type watcher struct {
	w         *world
	random    *rand.Rand
	client    client
	last      <-chan struct{}
	way       int
	namespace string // all if empty
	labels    string
	fields    string
	bookmarks bool
	protobuf  bool

	stories                  []*story
	connections, lists, gone int
	at                       int64 // where to go on; unseen: begin anew
}

func newWatcher(w *world, random *rand.Rand, last <-chan struct{}) *watcher {
	x := &watcher{w: w, random: random, last: last, at: unseen, way: random.IntN(ways), bookmarks: random.IntN(3) > 0, protobuf: random.IntN(2) == 0}
	x.client = client{w: w, slow: random.IntN(3) == 0}
	if random.IntN(3) == 0 {
		x.namespace = namespaces[random.IntN(2)]
	}
	switch random.IntN(6) {
	case 0:
		x.labels = "tier=web"
	case 1:
		x.labels = "tier in (web,db)"
	case 2:
		x.fields = "type=Warning"
	case 3:
		x.fields = "reason!=Moved,type=Normal"
	case 4:
		x.fields = "metadata.name=e3"
	}
	return x
}

func (x *watcher) String() string {
	return fmt.Sprintf("way %d, namespace %q, labels %q, fields %q, bookmarks %v, protobuf %v, slow %v", x.way, x.namespace, x.labels, x.fields, x.bookmarks, x.protobuf, x.client.slow)
}

func (x *watcher) path() string {
	if x.namespace == "" {
		return "/api/v1/events"
	}
	return "/api/v1/namespaces/" + x.namespace + "/events"
}

// selects says whether the watcher is to see a state of an object.
func (x *watcher) selects(e *corev1.Event) bool {
	l, err := labels.Parse(x.labels)
	if err != nil {
		panic(err) // it is written above
	}
	f, err := fields.ParseSelector(x.fields)
	if err != nil {
		panic(err)
	}
	return (x.namespace == "" || x.namespace == e.Namespace) && l.Matches(labels.Set(e.Labels)) &&
		f.Matches(fields.Set{"metadata.name": e.Name, "type": e.Type, "reason": e.Reason})
}

// work watches until a connection that began after the last change has ended in peace.
func (x *watcher) work() {
	defer x.client.close()
	for end := false; !end; {
		over := false
		select {
		case <-x.last:
			over = true
		default:
		}
		peace := x.turn(over)
		end = over && peace
		if !peace {
			time.Sleep(time.Duration(x.random.IntN(20)) * time.Millisecond)
		}
		if !over && x.random.IntN(8) == 0 {
			time.Sleep(time.Duration(x.random.IntN(400)) * time.Millisecond) // so that it falls behind
		}
	}
}

// turn is one connection; over says that nothing changes any more.
func (x *watcher) turn(over bool) (peace bool) {
	begin := x.at == unseen
	if begin && x.way == fromList {
		if !x.list() {
			return false
		}
		begin = false
	}
	r := x.w.now()
	if begin {
		x.stories = append(x.stories, &story{from: unseen, low: r.server.Snapshot().Revision()}) // what it shows; the engine may be ahead of that
	}
	s := x.stories[len(x.stories)-1]
	err := x.watch(s, begin, over)
	if begin && s.high == 0 {
		s.high = x.w.now().real.Revision()
	}
	if now := x.w.now(); begin && now != r {
		s.low = min(s.low, now.opened) // what r had beyond that is forgotten
	}
	asked := x.at
	var status *statusError
	switch {
	case err == nil:
		s.complete = over
		peace = true
	case errors.As(err, &status) && status.code == http.StatusGone:
		x.gone++
		// A crash may take a horizon back that nothing had synced.
		if horizon := r.real.Horizon(); x.w.now() == r && asked != unseen && asked >= horizon {
			x.w.t.Errorf("%v: 410 at revision %d, but the engine has everything from %d on: %v", x, asked, horizon, err)
		}
		x.at = unseen
	case errors.As(err, &status) && status.code < 500 && status.code != http.StatusTooManyRequests:
		x.w.t.Errorf("%v: %v", x, err)
	}
	if x.way == fromNothing || x.way == fromZero || s.from == unseen {
		x.at = unseen // nobody knows where what was there ended and what happened began
	}
	return peace
}

// list begins a story with a list.
func (x *watcher) list() bool {
	q := url.Values{"labelSelector": {x.labels}, "fieldSelector": {x.fields}}
	resp, err := x.ask(context.Background(), q, kube.MediaJSON)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	var l corev1.EventList
	if err != nil || resp.StatusCode != http.StatusOK || json.Unmarshal(b, &l) != nil {
		return false
	}
	x.lists++
	s := &story{isListed: true}
	if s.from, err = strconv.ParseInt(l.ResourceVersion, 10, 64); err != nil {
		x.w.t.Errorf("a list has the resourceVersion %q", l.ResourceVersion)
		return false
	}
	for i := range l.Items {
		s.listed = append(s.listed, seenOf("ADDED", &l.Items[i]))
	}
	x.stories, x.at = append(x.stories, s), s.from
	return true
}

func seenOf(typ string, e *corev1.Event) seen {
	return seen{typ, revision(e), e.Namespace + "/" + e.Name, e.Message}
}

type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return fmt.Sprintf("%d: %.300s", e.code, e.text) }

func (x *watcher) ask(ctx context.Context, q url.Values, accept string) (*http.Response, error) {
	r, h := x.client.to()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+x.path()+"?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	return h.Do(req)
}

// watch is one connection of a story. It returns nil if the server ended it in its time.
func (x *watcher) watch(s *story, begin, over bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	x.connections++
	q := url.Values{"watch": {"1"}, "labelSelector": {x.labels}, "fieldSelector": {x.fields}, "timeoutSeconds": {"1"}}
	switch {
	case !begin:
		q.Set("resourceVersion", strconv.FormatInt(x.at, 10))
	case x.way == streamed:
		q.Set("sendInitialEvents", "true")
		q.Set("resourceVersionMatch", "NotOlderThan")
	case x.way == fromZero:
		q.Set("resourceVersion", "0")
	}
	if x.bookmarks || x.way == streamed {
		q.Set("allowWatchBookmarks", "true")
	}
	accept := kube.MediaJSON
	if x.protobuf {
		accept = kube.MediaProtobuf + ";stream=watch"
	}
	resp, err := x.ask(ctx, q, accept)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, err := io.ReadAll(resp.Body)
		return errors.Join(err, &statusError{resp.StatusCode, string(b)})
	}
	leave := -1
	if !over && x.random.IntN(3) == 0 {
		leave = x.random.IntN(60) // the client goes away after so many events
	}
	next := jsonEvents(resp.Body)
	if x.protobuf {
		next = protobufEvents(resp.Body)
	}
	for n := 0; n != leave; n++ {
		typ, raw, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if begin && s.high == 0 {
			s.high = x.w.now().real.Revision()
		}
		if err := x.take(s, typ, raw); err != nil {
			return err
		}
		if x.client.slow && !over {
			time.Sleep(time.Duration(x.random.IntN(6)) * time.Millisecond)
		}
	}
	return errLeft
}

var errLeft = errors.New("the client went away")

// take is one event.
func (x *watcher) take(s *story, typ string, raw decoder) error {
	if typ == "ERROR" {
		var st metav1.Status
		if err := raw(&st); err != nil {
			return err
		}
		return &statusError{int(st.Code), st.Message}
	}
	var e corev1.Event
	if err := raw(&e); err != nil {
		x.w.t.Errorf("%v: an event cannot be read: %v", x, err)
		return err
	}
	if typ == "BOOKMARK" {
		rev := revision(&e)
		if e.Annotations[metav1.InitialEventsAnnotationKey] == "true" {
			if s.from != unseen {
				x.w.t.Errorf("%v: the initial events end twice", x)
			}
			s.from, s.isListed, s.listed, s.seen = rev, true, s.seen, nil
		} else {
			s.bookmarks = append(s.bookmarks, bookmark{len(s.seen), rev})
		}
		x.at = rev
		return nil
	}
	s.seen = append(s.seen, seenOf(typ, &e))
	x.at = revision(&e)
	return nil
}

// A decoder reads an object.
type decoder func(o interface{ Unmarshal([]byte) error }) error

// jsonEvents reads lines.
func jsonEvents(r io.Reader) func() (string, decoder, error) {
	d := json.NewDecoder(r)
	return func() (string, decoder, error) {
		var e struct {
			Type   string
			Object json.RawMessage
		}
		err := d.Decode(&e)
		return e.Type, func(o interface{ Unmarshal([]byte) error }) error { return json.Unmarshal(e.Object, o) }, err
	}
}

// protobufEvents reads frames: a length, and a metav1.WatchEvent.
func protobufEvents(r io.Reader) func() (string, decoder, error) {
	b := bufio.NewReader(r)
	return func() (string, decoder, error) {
		var size [4]byte
		if _, err := io.ReadFull(b, size[:]); err != nil {
			return "", nil, err
		}
		frame := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(b, frame); err != nil {
			return "", nil, errors.Join(err, errCut)
		}
		var e metav1.WatchEvent
		if err := e.Unmarshal(frame); err != nil {
			return "", nil, err
		}
		return e.Type, func(o interface{ Unmarshal([]byte) error }) error {
			var u runtime.Unknown
			if !strings.HasPrefix(string(e.Object.Raw), "k8s\x00") {
				return fmt.Errorf("an object of %d bytes does not begin as protobuf", len(e.Object.Raw))
			}
			if err := u.Unmarshal(e.Object.Raw[4:]); err != nil {
				return err
			}
			return o.Unmarshal(u.Raw)
		}, nil
	}
}

var errCut = errors.New("the stream ends within an event")
