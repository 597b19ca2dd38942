package httpapi

import (
	"bytes"

	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	knet "k8s.io/apimachinery/pkg/util/net"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
)

// respond writes what the Handler answered.
func (x *exchange) respond(t *target, r *api.Request, resp *api.Response) {
	if resp.Events != nil { // it stays for long, on a small stack
		x.watch(t, resp.Events)
		return
	}
	x.answer(t, r, resp)
}

func (x *exchange) answer(t *target, r *api.Request, resp *api.Response) {
	code := resp.Code
	if code == 0 {
		code = http.StatusOK
		switch {
		case r.Verb == api.Create:
			code = http.StatusCreated
		case r.Verb == api.Delete && x.cascades && !resp.Deleted:
			code = http.StatusAccepted // the old way to ask for a cascade had this answer
		}
	}
	switch {
	case resp.Connect != nil:
		x.handOver(resp.Connect)
	case resp.List != nil:
		x.list(t, resp.List)
	case resp.History != nil:
		x.history(resp.History)
	case resp.Status != nil:
		x.media.as = asItself
		x.writeObject(code, resp.Status, schema.GroupVersionKind{Version: "v1", Kind: "Status"})
	case resp.Item != nil:
		x.writeItem(t, code, resp.Item)
	case resp.Object != nil && x.media.as != asItself:
		x.writeItem(t, code, api.NewItem(t.res.Resource, 0, nil, resp.Object))
	case resp.Object != nil:
		x.writeObject(code, resp.Object, t.kindOf(resp.Object))
	default:
		x.fail(fmt.Errorf("%s of %s was answered with nothing", r.Verb, t.res.Resource.Resource))
	}
}

// kindOf is the kind of what a subresource answers with.
func (t *target) kindOf(o runtime.Object) schema.GroupVersionKind {
	if k := o.GetObjectKind().GroupVersionKind(); k.Kind != "" {
		return k
	}
	s := t.res.Subs[t.sub]
	switch {
	case t.sub == "scale" && s == nil:
		return schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}
	case s != nil && s.Kind != "":
		gv := t.res.GroupVersion()
		if s.API != "" {
			gv, _ = schema.ParseGroupVersion(s.API)
		}
		return gv.WithKind(s.Kind)
	}
	return t.res.GVK()
}

// Bounds of the warnings of one answer, in characters: once there are more than
// warnTotal, each is cut to warnEach.
const (
	warnTotal = 4 << 10
	warnEach  = 256
)

// warn adds Warning headers (RFC 7234, section 5.5, code 299), each text once.
func (x *exchange) warn(warnings []string) {
	if len(warnings) == 0 {
		return
	}
	total := 0
	var texts []string
	for _, w := range warnings {
		if w = strings.Map(printable, strings.ToValidUTF8(w, "\uFFFD")); w != "" && !slices.Contains(texts, w) {
			texts = append(texts, w)
			total += utf8.RuneCountInString(w)
		}
	}
	written := 0
	for _, w := range texts {
		if r := []rune(w); total > warnTotal {
			if written >= warnTotal {
				return
			}
			w = string(r[:min(len(r), warnEach)])
			written += min(len(r), warnEach)
		}
		if h, err := knet.NewWarningHeader(299, "-", w); err == nil {
			x.Header().Add("Warning", h)
		}
	}
}

func printable(r rune) rune {
	if unicode.IsControl(r) {
		return ' '
	}
	return r
}

// writeItem writes one stored object, from bytes that exist already where they do.
func (x *exchange) writeItem(t *target, code int, item *api.Item) {
	var b []byte
	var err error
	switch {
	case x.media.as == asTable:
		b, err = x.table(t, item)
	case x.media.as == asPartial || x.media.as == asPartialList:
		x.writeObject(code, partial(item, x.media.version), partialKind(x.media.version))
		return
	case x.media.typ == api.MediaProtobuf:
		buf := buffers.Get().(*[]byte)
		defer release(buf)
		b, err = appendItem((*buf)[:0], item)
		*buf = b
	case x.media.typ == api.MediaCBOR:
		b, err = api.EncodeCBOR(item.Public())
	default:
		b, err = item.JSON()
	}
	if err != nil {
		x.fail(err)
		return
	}
	x.writeBytes(code, b)
}

// appendItem appends an item's protobuf form, in its envelope.
func appendItem(dst []byte, item *api.Item) ([]byte, error) {
	n, err := item.RawSize()
	if err != nil {
		return dst, err
	}
	return item.RawProtobuf(appendEnvelope(dst, item.Resource.GVK(), n))
}

// release gives a buffer back, unless it has grown too large to keep.
func release(buf *[]byte) {
	if cap(*buf) <= 1<<20 {
		*buf = (*buf)[:0]
		buffers.Put(buf)
	}
}

// writeObject encodes and writes an object that is not stored.
func (x *exchange) writeObject(code int, o runtime.Object, kind schema.GroupVersionKind) {
	b, err := encode(o, kind, x.media.typ)
	if err != nil && x.media.typ == api.MediaProtobuf {
		x.media.typ = api.MediaJSON
		b, err = encode(o, kind, x.media.typ)
	}
	if err != nil {
		x.s.Log.Error("an answer could not be encoded", "path", x.req.URL.Path, "err", err)
		http.Error(x, err.Error(), http.StatusInternalServerError)
		return
	}
	x.writeBytes(code, b)
}

// encode makes the wire form of o: protobuf in its envelope, or else JSON.
func encode(o runtime.Object, kind schema.GroupVersionKind, typ string) ([]byte, error) {
	if typ == api.MediaProtobuf {
		m, ok := o.(interface{ Marshal() ([]byte, error) })
		if !ok {
			return nil, fmt.Errorf("%T has no protobuf form", o)
		}
		raw, err := m.Marshal()
		if err != nil {
			return nil, err
		}
		return append(appendEnvelope(nil, kind, len(raw)), raw...), nil
	}
	if o.GetObjectKind().GroupVersionKind() != kind {
		o = o.DeepCopyObject()
		o.GetObjectKind().SetGroupVersionKind(kind)
	}
	if typ == api.MediaCBOR {
		return api.EncodeCBOR(o)
	}
	return json.Marshal(o)
}

// writeBytes writes a whole body that is JSON, or protobuf if that was
// negotiated, after turning it into YAML or indenting it where asked to.
func (x *exchange) writeBytes(code int, b []byte) {
	x.writeTyped(code, b, contentTypes[x.media.typ])
}

// writeTyped is writeBytes under another Content-Type.
func (x *exchange) writeTyped(code int, b []byte, name []string) {
	typ := x.media.typ
	var err error
	switch {
	case typ == api.MediaProtobuf:
	case typ == api.MediaCBOR:
		b, err = asCBOR(b)
	case typ == api.MediaYAML:
		b, err = yaml.JSONToYAML(b)
	case x.media.pretty:
		var out bytes.Buffer
		err = json.Indent(&out, b, "", "  ")
		out.WriteByte('\n')
		b = out.Bytes()
	}
	if err != nil {
		x.s.Log.Error("an answer could not be encoded", "path", x.req.URL.Path, "err", err)
		http.Error(x, err.Error(), http.StatusInternalServerError)
		return
	}
	h := x.Header()
	h["Content-Type"] = name
	if len(b) > gzipFrom && x.gzips() {
		out := x.open(code)
		out.write(b)
		out.close()
		return
	}
	h["Content-Length"] = []string{strconv.Itoa(len(b))}
	x.WriteHeader(code)
	x.Write(b)
}

var contentTypes = map[string][]string{
	api.MediaJSON: {api.MediaJSON}, api.MediaYAML: {api.MediaYAML}, api.MediaProtobuf: {api.MediaProtobuf},
	api.MediaCBOR: {api.MediaCBOR},
}

// gzipFrom is how many bytes make compression worth its time.
const gzipFrom = 128 << 10

func (x *exchange) gzips() bool {
	return x.req.Method == http.MethodGet && acceptsGzip(x.req.Header.Values("Accept-Encoding"))
}

// acceptsGzip reads Accept-Encoding (RFC 9110, section 12.5.3).
func acceptsGzip(lines []string) bool {
	for _, line := range lines {
		for clause := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(clause, ";")
			if strings.TrimSpace(name) != "gzip" {
				continue
			}
			_, q, weighed := strings.Cut(strings.ReplaceAll(params, " ", ""), "q=")
			n, err := strconv.ParseFloat(q, 64)
			return !weighed || err == nil && n > 0
		}
	}
	return false
}

var gzips = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	return z
}}

var buffers = sync.Pool{New: func() any { return new([]byte) }}

// An output is a body of any length, written with constant memory: it begins
// as a buffer, and becomes a stream, compressed if the client takes that, once
// it is longer than gzipFrom.
type output struct {
	x    *exchange
	code int
	buf  *[]byte
	gz   *gzip.Writer
	open bool
	err  error
}

func (x *exchange) open(code int) *output {
	return &output{x: x, code: code, buf: buffers.Get().(*[]byte)}
}

func (o *output) write(b []byte) {
	*o.buf = append(*o.buf, b...)
	o.spill()
}

// spill writes the buffer out if it is full.
func (o *output) spill() {
	switch n := len(*o.buf); {
	case n <= gzipFrom && !o.open, n < 32<<10:
		return
	}
	if !o.open {
		o.open = true
		if o.x.gzips() {
			h := o.x.Header()
			h.Set("Content-Encoding", "gzip")
			h.Add("Vary", "Accept-Encoding")
			o.gz = gzips.Get().(*gzip.Writer)
			o.gz.Reset(o.x)
		}
		o.x.WriteHeader(o.code)
	}
	o.flush()
}

func (o *output) flush() {
	if o.err == nil {
		if o.gz != nil {
			_, o.err = o.gz.Write(*o.buf)
		} else {
			_, o.err = o.x.Write(*o.buf)
		}
	}
	*o.buf = (*o.buf)[:0]
}

// close writes the rest. An error that the stream has met since it was opened
// can only be told by breaking it off.
func (o *output) close() {
	if !o.open {
		o.x.Header()["Content-Length"] = []string{strconv.Itoa(len(*o.buf))}
		o.x.WriteHeader(o.code)
	}
	o.flush()
	if o.gz != nil {
		if err := o.gz.Close(); o.err == nil {
			o.err = err
		}
		gzips.Put(o.gz)
	}
	o.free()
}

// fail ends a body that cannot be completed.
func (o *output) fail(err error) {
	opened := o.open
	o.free()
	if !opened {
		o.x.fail(err)
		return
	}
	o.x.s.Log.Error("an answer broke off", "path", o.x.req.URL.Path, "err", err)
	panic(http.ErrAbortHandler)
}

func (o *output) free() {
	release(o.buf)
	o.buf = nil
}

// appendEnvelope appends what comes before a message of n bytes on the wire: the
// magic number and the head of a runtime.Unknown.
func appendEnvelope(dst []byte, kind schema.GroupVersionKind, n int) []byte {
	gv := kind.GroupVersion().String()
	dst = append(dst, api.ProtobufMagic...)
	dst = append(dst, 1<<3|2)
	dst = appendVarint(dst, sizeField(len(gv))+sizeField(len(kind.Kind)))
	dst = appendString(dst, 1, gv)
	dst = appendString(dst, 2, kind.Kind)
	dst = append(dst, 2<<3|2)
	return appendVarint(dst, n)
}

// unwrap reads the envelope of a protobuf message.
func unwrap(b []byte, u *runtime.Unknown) error {
	b, ok := bytes.CutPrefix(b, api.ProtobufMagic)
	if !ok {
		return errors.New("the body does not begin like a protobuf message of Kubernetes")
	}
	return u.Unmarshal(b)
}

func appendString(dst []byte, field int, s string) []byte {
	return append(appendVarint(append(dst, byte(field<<3|2)), len(s)), s...)
}

func appendVarint(dst []byte, n int) []byte {
	for n >= 0x80 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}

func sizeVarint(n int) (size int) {
	for size = 1; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}

// sizeField is the size of a field of n bytes with a number below 16.
func sizeField(n int) int { return 1 + sizeVarint(n) + n }

func listMetaJSON(l *api.ItemList) []byte {
	b, _ := json.Marshal(listMeta(l)) // a struct of strings and a number
	return b
}

// listMeta is the metadata of a list.
func listMeta(l *api.ItemList) metav1.ListMeta {
	m := metav1.ListMeta{Continue: l.Continue, RemainingItemCount: l.Remaining}
	if l.Revision > 0 {
		m.ResourceVersion = strconv.FormatInt(l.Revision, 10)
	}
	return m
}
