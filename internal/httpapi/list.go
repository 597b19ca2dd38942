package httpapi

import (
	"bytes"
	"strconv"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
)

// list writes a list item after item, without ever holding all of it.
func (x *exchange) list(t *target, l *api.ItemList) {
	x.Header()["Content-Type"] = contentTypes[x.media.typ]
	switch {
	case x.media.typ == api.MediaCBOR:
		x.cborList(t, l)
	case x.media.typ == api.MediaYAML || x.media.typ == api.MediaJSON && x.media.pretty:
		b, err := x.wholeList(t, l)
		if err != nil {
			x.fail(err)
			return
		}
		x.writeBytes(200, b)
	case x.media.typ == api.MediaProtobuf:
		x.protobufList(t, l)
	default:
		out := x.open(200)
		if err := x.jsonList(t, l, out.write); err != nil {
			out.fail(err)
			return
		}
		out.close()
	}
}

// together is of how many items the JSON is made before the first is written.
const together = 128

// mostKept is of how many bytes, as they are stored, the JSON is kept for the next who
// lists them. Of a longer list it would be more than all else in the server.
const mostKept = 64 << 20

// keeps says whether the JSON of a list is kept.
func keeps(items []*api.Item) bool {
	const large = 64 << 10 // bytes of an object: there is no need to look
	if len(items) <= mostKept/large {
		return true
	}
	sum := 0
	for _, i := range items {
		if sum += i.StoredSize(); sum > mostKept {
			return false
		}
	}
	return true
}

// wholeList is the list as JSON, in one piece: it has to be turned into something else.
func (x *exchange) wholeList(t *target, l *api.ItemList) ([]byte, error) {
	var b bytes.Buffer
	err := x.jsonList(t, l, func(p []byte) { b.Write(p) })
	return b.Bytes(), err
}

func (x *exchange) jsonList(t *target, l *api.ItemList, write func([]byte)) error {
	switch x.media.as {
	case asTable:
		return x.tableList(t, l, write)
	case asPartialList:
		return x.partialList(t.res, l, write)
	}
	head := make([]byte, 0, 256)
	head = append(head, `{"kind":`...)
	head = strconv.AppendQuote(head, t.res.ListKind)
	head = append(head, `,"apiVersion":"`...)
	head = append(head, t.res.GroupVersion().String()...)
	head = append(head, `","metadata":`...)
	write(append(append(head, listMetaJSON(l)...), `,"items":[`...))
	kept := keeps(l.Items)
	var b []byte
	var err error
	for i, item := range l.Items {
		if kept && i%together == 0 {
			api.MakeJSON(l.Items[i:min(i+together, len(l.Items))])
		}
		if kept {
			b, err = item.JSON()
		} else {
			b, err = item.AppendJSON(b[:0])
		}
		if err != nil {
			return err
		}
		if rest, ok := bytes.CutPrefix(b, t.res.cut); ok && t.res.cut != nil {
			write(begins[min(i, 1)])
			write(rest)
			continue
		}
		if i > 0 {
			write(comma)
		}
		write(b)
	}
	write(listEnd)
	return nil
}

var (
	begins  = [2][]byte{[]byte("{"), []byte(",{")}
	comma   = []byte(",")
	listEnd = []byte("]}\n")
)

// protobufList writes the message that every kind of list has: field 1 its
// metadata, field 2 the items. Its length comes first, so it is reckoned first.
func (x *exchange) protobufList(t *target, l *api.ItemList) {
	if x.media.as == asPartialList {
		x.writeObject(200, partials(l, x.media.version), partialListKind(x.media.version))
		return
	}
	m := listMeta(l)
	meta, err := m.Marshal()
	if err != nil {
		x.fail(err)
		return
	}
	total := sizeField(len(meta))
	for _, item := range l.Items {
		n, err := item.RawSize()
		if err != nil {
			x.fail(err)
			return
		}
		total += sizeField(n)
	}
	out := x.open(200)
	b := appendEnvelope(*out.buf, schema.GroupVersionKind{Group: t.res.Group, Version: t.res.Version, Kind: t.res.ListKind}, total)
	b = append(appendVarint(append(b, 1<<3|2), len(meta)), meta...)
	*out.buf = b
	for _, item := range l.Items {
		n, err := item.RawSize()
		if err == nil {
			*out.buf = appendVarint(append(*out.buf, 2<<3|2), n)
			*out.buf, err = item.RawProtobuf(*out.buf)
		}
		if err != nil {
			out.fail(err)
			return
		}
		out.spill()
	}
	out.close()
}
