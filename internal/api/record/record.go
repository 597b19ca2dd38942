// Package record tells users what happened to their objects, as core/v1 Events.
//
// Repetition is counted instead of stored: an event with the same source,
// object, type, reason and message raises the count of the one that is there
// already. More than ten different messages for one reason within ten minutes
// become one event whose message says so, and one source may write 25 events
// about one object at once and one more every five minutes; what is above that
// is dropped. These are the rules of Kubernetes' clients.
package record

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
)

const (
	similarLimit  = 10               // distinct messages of one reason before they are combined
	similarWindow = 10 * time.Minute // within this time
	spamBurst     = 25.0
	spamRefill    = 300 * time.Second // for one more event
	remembered    = 4096              // events, reasons and sources remembered, each
	waiting       = 4096              // events that wait for one writer; more are dropped
	writers       = 8
	longest       = 1024 // bytes of a message
)

// A Recorder writes events in the name of one component. A nil Recorder writes none.
type Recorder struct {
	sink      *sink
	component string
	host      string
}

type sink struct {
	kind *api.Kind[*corev1.Event]
	h    api.Handler
	log  *slog.Logger
	now  func() time.Time

	mu      sync.Mutex
	lanes   [writers][]*corev1.Event
	ctx     context.Context // of the writers; nil if they are not to write
	writing [writers]bool
	wg      sync.WaitGroup // the writers
	known   *recent[string, stored]
	similar *recent[string, group]
	spam    *recent[string, bucket]
	last    int64 // the last name's suffix
}

// A stored is an event as it was last written.
type stored struct {
	namespace, name string
	first           metav1.Time
	count           int32
}

type group struct {
	since    time.Time
	messages map[string]bool
}

type bucket struct {
	tokens float64
	at     time.Time
}

// New returns a recorder that writes through h with the client kind. Nothing is
// written before [Recorder.Run] or [Recorder.Flush].
func New(kind *api.Kind[*corev1.Event], h api.Handler, component, host string, now func() time.Time, log *slog.Logger) *Recorder {
	if now == nil {
		now = time.Now
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &sink{kind: kind, h: h, log: log, now: now, known: newRecent[string, stored](remembered),
		similar: newRecent[string, group](remembered), spam: newRecent[string, bucket](remembered)}
	return &Recorder{s, component, host}
}

// From returns a recorder that shares r's memory and writers and names another component.
func (r *Recorder) From(component string) *Recorder {
	if r == nil {
		return nil
	}
	return &Recorder{r.sink, component, r.host}
}

// Eventf notes an event on obj, of type Normal or Warning. It does not wait.
func (r *Recorder) Eventf(obj api.Object, typ, reason, format string, args ...any) {
	if r == nil {
		return
	}
	gvk := obj.GetObjectKind().GroupVersionKind()
	r.About(&corev1.ObjectReference{
		APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind,
		Namespace: obj.GetNamespace(), Name: obj.GetName(), UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(),
	}, typ, reason, fmt.Sprintf(format, args...))
}

// About notes an event on what ref names: an object, or a part of one by its FieldPath.
func (r *Recorder) About(ref *corev1.ObjectReference, typ, reason, message string) {
	if r == nil {
		return
	}
	if len(message) > longest {
		message = message[:longest-3] + "..."
	}
	ns := ref.Namespace
	if ns == "" {
		ns = metav1.NamespaceDefault
	}
	s := r.sink
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.last = max(s.last+1, now.UnixNano())
	e := &corev1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("%s.%x", ref.Name, s.last)},
		InvolvedObject:      *ref,
		Type:                typ,
		Reason:              reason,
		Message:             message,
		Source:              corev1.EventSource{Component: r.component, Host: r.host},
		ReportingController: r.component,
		ReportingInstance:   r.host,
		FirstTimestamp:      metav1.NewTime(now).Rfc3339Copy(),
		LastTimestamp:       metav1.NewTime(now).Rfc3339Copy(),
		Count:               1,
	}
	lane := laneOf(ref)
	if len(s.lanes[lane]) >= waiting {
		return
	}
	s.lanes[lane] = append(s.lanes[lane], e)
	s.start(lane)
}

func laneOf(ref *corev1.ObjectReference) uint32 {
	f := fnv.New32a()
	f.Write([]byte(ref.UID))
	f.Write([]byte(ref.Name))
	return f.Sum32() % writers
}

// Run writes events until ctx is done.
func (r *Recorder) Run(ctx context.Context) {
	wait := r.Start(ctx)
	<-ctx.Done()
	wait()
}

// Start has events written until ctx is done; what it returns is to be called
// then, and waits until nothing is being written. There are goroutines only while
// there is something to write.
func (r *Recorder) Start(ctx context.Context) (wait func()) {
	s := r.sink
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx = ctx
	for lane := range writers {
		s.start(uint32(lane))
	}
	return func() {
		s.mu.Lock()
		s.ctx = nil
		s.mu.Unlock()
		s.wg.Wait()
	}
}

// start has a lane written if something waits in it. The sink is locked.
func (s *sink) start(lane uint32) {
	if s.ctx == nil || s.ctx.Err() != nil || s.writing[lane] || len(s.lanes[lane]) == 0 {
		return
	}
	s.writing[lane] = true
	ctx := s.ctx
	s.wg.Go(func() {
		for s.drain(ctx, int(lane)); s.more(ctx, lane); s.drain(ctx, int(lane)) {
		}
	})
}

// more says whether something has come into a lane since it was last empty; if
// not, its writer has ended.
func (s *sink) more(ctx context.Context, lane uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing[lane] = ctx.Err() == nil && len(s.lanes[lane]) > 0
	return s.writing[lane]
}

// Flush writes what has been noted so far, in the caller's goroutine.
func (r *Recorder) Flush(ctx context.Context) {
	if r == nil {
		return
	}
	for lane := range writers {
		r.sink.drain(ctx, lane)
	}
}

func (s *sink) drain(ctx context.Context, lane int) {
	for ctx.Err() == nil {
		s.mu.Lock()
		if len(s.lanes[lane]) == 0 {
			s.lanes[lane] = nil
			s.mu.Unlock()
			return
		}
		e := s.lanes[lane][0]
		s.lanes[lane] = s.lanes[lane][1:]
		key, old, ok := s.correlate(e)
		s.mu.Unlock()
		if ok {
			s.write(ctx, key, old, e)
		}
	}
}

// correlate finds the event that e repeats, and drops e (false) if its source
// says too much.
func (s *sink) correlate(e *corev1.Event) (key string, old stored, ok bool) {
	now, o := s.now(), e.InvolvedObject
	object := fmt.Sprint(e.Source.Component, "\x00", e.Source.Host, "\x00", o.Kind, "\x00", o.Namespace, "\x00", o.Name, "\x00", o.UID, "\x00", o.FieldPath)
	reason := fmt.Sprint(object, "\x00", e.Type, "\x00", e.Reason)
	key = reason + "\x00" + e.Message

	g, seen := s.similar.get(reason)
	if !seen || now.Sub(g.since) > similarWindow {
		g = group{since: now, messages: map[string]bool{}}
	}
	if len(g.messages) < similarLimit {
		g.messages[e.Message] = true
	} else if !g.messages[e.Message] {
		key = reason
		e.Message = "(combined from similar events): " + e.Message
	}
	s.similar.put(reason, g)

	b, seen := s.spam.get(object)
	if !seen {
		b = bucket{spamBurst, now}
	}
	b.tokens = min(spamBurst, b.tokens+float64(now.Sub(b.at))/float64(spamRefill))
	b.at = now
	ok = b.tokens >= 1
	if ok {
		b.tokens--
	}
	s.spam.put(object, b)
	old, _ = s.known.get(key)
	return key, old, ok
}

func (s *sink) write(ctx context.Context, key string, old stored, e *corev1.Event) {
	var err error
	if old.count > 0 {
		patch, _ := json.Marshal(map[string]any{"count": old.count + 1, "lastTimestamp": e.LastTimestamp, "message": e.Message})
		_, err = s.kind.Patch(ctx, s.h, old.namespace, old.name, "", types.MergePatchType, patch)
		if err == nil {
			old.count++
			s.remember(key, old)
			return
		}
	}
	if old.count == 0 || apierrors.IsNotFound(err) {
		now := stored{e.Namespace, e.Name, e.FirstTimestamp, 1}
		if _, err = s.kind.Create(ctx, s.h, e); err == nil {
			s.remember(key, now)
			return
		}
	}
	if ctx.Err() == nil && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) && !apierrors.IsNotFound(err) {
		s.log.Warn("event not written", "event", e.Reason, "object", e.InvolvedObject.Name, "err", err)
	}
}

func (s *sink) remember(key string, v stored) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known.put(key, v)
}

// A recent remembers a number of values, those put last.
type recent[K comparable, V any] struct {
	young, old map[K]V
	limit      int
}

func newRecent[K comparable, V any](limit int) *recent[K, V] {
	return &recent[K, V]{map[K]V{}, nil, limit / 2}
}

func (r *recent[K, V]) get(k K) (V, bool) {
	v, ok := r.young[k]
	if !ok {
		v, ok = r.old[k]
	}
	return v, ok
}

func (r *recent[K, V]) put(k K, v V) {
	if len(r.young) >= r.limit {
		r.young, r.old = map[K]V{}, r.young
	}
	r.young[k] = v
}
