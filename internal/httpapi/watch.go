package httpapi

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"iter"
	"net/http"
	"strconv"

	"github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kwatch "k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
)

// A watcher writes one watch. What it keeps is all that a watch costs here, so
// it has no buffer of its own.
type watcher struct {
	x       *exchange
	t       *target
	flusher *http.ResponseController
	all     allWriter                  // nil: the connection has no such way
	more    bool                       // another event follows at once, so that this one need not be sent yet
	objects metav1.IncludeObjectPolicy // of tables
	headed  bool                       // the columns have been sent
	ws      *websocket.Conn            // instead of the body
}

var watchTypes = map[string][]string{
	api.MediaJSON: {api.MediaJSON}, api.MediaProtobuf: {api.MediaProtobuf + ";stream=watch"},
	api.MediaCBOR: {cborSequence},
}

// watch writes events until they end or the client goes.
func (x *exchange) watch(t *target, events iter.Seq2[api.Event, error]) {
	w := watcher{x: x, t: t, flusher: http.NewResponseController(x.ResponseWriter)}
	w.all, _ = x.ResponseWriter.(allWriter)
	if x.media.as == asTable {
		var err error
		if w.objects, err = x.rowObjects(); err != nil {
			x.fail(err) // the events end with the request's context
			return
		}
	}
	if upgrades(x.req) {
		x.watchWebSocket(&w, events)
		return
	}
	x.Header()["Content-Type"] = watchTypes[x.media.typ]
	x.WriteHeader(http.StatusOK)
	w.run(events)
}

// run writes the events.
func (w *watcher) run(events iter.Seq2[api.Event, error]) {
	if w.flush() != nil {
		return
	}
	for e, err := range events {
		if err != nil {
			w.fail(err)
			return
		}
		if w.more = e.More; w.event(&e) != nil {
			return
		}
	}
	if w.more {
		w.flush()
	}
}

func (w *watcher) flush() error {
	if w.ws != nil {
		return nil
	}
	return w.flusher.Flush()
}

// An allWriter writes what an event consists of at once, as h2's does.
type allWriter interface {
	WriteAll(flush bool, parts ...[]byte) (int, error)
}

// write writes one event, whose bytes are parts, and sends it unless more follow.
func (w *watcher) write(parts ...[]byte) error {
	if s := w.x.series; s != nil {
		n := 0
		for _, b := range parts {
			n += len(b)
		}
		s.events.Inc()
		s.lengths.Observe(float64(n))
	}
	if w.ws != nil {
		return w.message(bytes.Join(parts, nil))
	}
	if w.all != nil {
		n, err := w.all.WriteAll(!w.more, parts...)
		w.x.size += int64(n)
		return err
	}
	for _, b := range parts {
		if _, err := w.x.Write(b); err != nil {
			return err
		}
	}
	if w.more {
		return nil
	}
	return w.flush()
}

// fail tells the client why the watch ends, if there is still one.
func (w *watcher) fail(err error) {
	if w.x.ctx.Err() != nil {
		return
	}
	st := w.x.status(err)
	if st == nil {
		return
	}
	b, err := encode(st, schema.GroupVersionKind{Version: "v1", Kind: "Status"}, w.x.media.typ)
	w.more = false
	if err == nil {
		_ = w.frame(kwatch.Error, b) // there is nobody left to tell
	}
}

func (w *watcher) event(e *api.Event) error {
	if e.Item != nil && w.x.media.as == asItself {
		if w.x.media.typ == api.MediaProtobuf {
			return w.protobuf(e)
		}
		if w.x.media.typ == api.MediaCBOR {
			b, err := api.EncodeCBOR(e.Item.Public())
			if err != nil {
				return err
			}
			return w.frame(e.Type, b)
		}
		b, err := e.Item.JSON()
		if err != nil {
			return err
		}
		return w.frame(e.Type, b)
	}
	b, err := w.other(e)
	if err != nil {
		return err
	}
	return w.frame(e.Type, b)
}

// other is what an event carries that is not simply an object.
func (w *watcher) other(e *api.Event) ([]byte, error) {
	item := e.Item
	if item == nil {
		item = bookmark(w.t.res, e)
	}
	switch w.x.media.as {
	case asTable:
		return w.table(e, item)
	case asPartial:
		if w.x.media.typ == api.MediaProtobuf {
			return encode(partial(item, w.x.media.version), partialKind(w.x.media.version), w.x.media.typ)
		}
		return appendPartial(nil, w.t.res, item, w.x.media.version)
	}
	if w.x.media.typ == api.MediaProtobuf {
		return item.Protobuf(nil)
	}
	return item.JSON()
}

func bookmark(res *resource, e *api.Event) *api.Item {
	o := res.New()
	if e.InitialEnd {
		o.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return api.NewItem(res.Resource, e.Revision, nil, o)
}

func (w *watcher) table(e *api.Event, item *api.Item) ([]byte, error) {
	columns := w.t.res.tableColumns()
	if w.headed {
		columns = nil
	}
	w.headed = true
	b := tableHead(nil, w.x.media.version, metav1.ListMeta{ResourceVersion: strconv.FormatInt(item.Revision, 10)}, columns)
	var err error
	if e.Item != nil || e.InitialEnd {
		b, err = w.t.res.row(b, item, w.x.media.version, w.objects)
	}
	return append(b, "]}"...), err
}

// frame writes one event around an object that is encoded already.
func (w *watcher) frame(typ kwatch.EventType, object []byte) error {
	if w.x.media.typ == api.MediaProtobuf {
		b, err := appendFrame(nil, typ, object)
		if err != nil {
			return err
		}
		return w.write(b)
	}
	if w.x.media.typ == api.MediaCBOR {
		b, err := cborFrame(typ, object)
		if err != nil {
			return err
		}
		return w.write(b)
	}
	return w.write(eventHead(typ), object, eventTail)
}

var (
	eventTail = []byte("}\n")
)

func eventHead(typ kwatch.EventType) []byte {
	switch typ {
	case kwatch.Added:
		return headAdded
	case kwatch.Modified:
		return headModified
	case kwatch.Deleted:
		return headDeleted
	case kwatch.Bookmark:
		return headBookmark
	}
	return headError
}

var (
	headAdded    = []byte(`{"type":"ADDED","object":`)
	headModified = []byte(`{"type":"MODIFIED","object":`)
	headDeleted  = []byte(`{"type":"DELETED","object":`)
	headBookmark = []byte(`{"type":"BOOKMARK","object":`)
	headError    = []byte(`{"type":"ERROR","object":`)
)

// protobuf writes the event of an object in protobuf, through a buffer that all
// watches share.
func (w *watcher) protobuf(e *api.Event) error {
	n, err := e.Item.RawSize()
	if err != nil {
		return err
	}
	head := envelopeSize(w.t.res.GVK(), n)
	buf := buffers.Get().(*[]byte)
	b := appendFrameHead((*buf)[:0], e.Type, head+n)
	b = appendEnvelope(b, w.t.res.GVK(), n)
	if b, err = e.Item.RawProtobuf(b); err == nil {
		err = w.write(b)
	}
	*buf = b
	release(buf)
	return err
}

// appendFrame appends a frame of a protobuf watch stream.
func appendFrame(dst []byte, typ kwatch.EventType, object []byte) ([]byte, error) {
	return append(appendFrameHead(dst, typ, len(object)), object...), nil
}

// appendFrameHead appends what comes before an object of n bytes in a protobuf
// watch stream: the frame's length in four bytes, and the beginning of a
// metav1.WatchEvent {1: type, 2: RawExtension {1: object}}.
func appendFrameHead(dst []byte, typ kwatch.EventType, n int) []byte {
	raw := sizeField(n)
	total := sizeField(len(typ)) + sizeField(raw)
	dst = binary.BigEndian.AppendUint32(dst, uint32(total))
	dst = appendString(dst, 1, string(typ))
	dst = appendVarint(append(dst, 2<<3|2), raw)
	return appendVarint(append(dst, 1<<3|2), n)
}

// envelopeSize is the length of what appendEnvelope appends for n bytes.
func envelopeSize(kind schema.GroupVersionKind, n int) int {
	head := sizeField(len(kind.GroupVersion().String())) + sizeField(len(kind.Kind))
	return len(api.ProtobufMagic) + sizeField(head) + 1 + sizeVarint(n)
}

// marshalEvent is one event of a JSON watch.
type jsonEvent struct {
	Type   kwatch.EventType `json:"type"`
	Object json.RawMessage  `json:"object"`
}
