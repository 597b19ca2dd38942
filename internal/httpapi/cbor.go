package httpapi

import (
	"bytes"
	"encoding/binary"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kwatch "k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
)

// cborSequence is what a watch in CBOR is: one item after the other (RFC 8742).
const cborSequence = "application/cbor-seq"

// asCBOR is a body in CBOR: what is CBOR already as it is, JSON turned into it.
func asCBOR(b []byte) ([]byte, error) {
	if bytes.HasPrefix(b, api.CBORMagic) {
		return b, nil
	}
	return api.CBORFromJSON(b)
}

// cborList writes a list item after item.
func (x *exchange) cborList(t *target, l *api.ItemList) {
	if x.media.as != asItself {
		b, err := x.wholeList(t, l)
		if err != nil {
			x.fail(err)
			return
		}
		x.writeBytes(200, b)
		return
	}
	meta, err := api.CBORFromJSON(listMetaJSON(l))
	if err != nil {
		x.fail(err)
		return
	}
	out := x.open(200)
	b := append(*out.buf, api.CBORMagic...)
	b = cborHead(b, cborMap, 4)
	b = cborString(cborString(b, "kind"), t.res.ListKind)
	b = cborString(cborString(b, "apiVersion"), t.res.GroupVersion().String())
	b = append(cborString(b, "metadata"), meta[len(api.CBORMagic):]...)
	*out.buf = cborHead(cborString(b, "items"), cborArray, len(l.Items))
	for _, item := range l.Items {
		one, err := api.EncodeCBOR(t.res.unnamed(item.Public()))
		if err != nil {
			out.fail(err)
			return
		}
		out.write(one[len(api.CBORMagic):])
	}
	out.close()
}

// unnamed is o without its kind, as typed lists hold their items: a shallow copy.
func (r *resource) unnamed(o api.Object) runtime.Object {
	if r.cut == nil {
		return o
	}
	p := reflect.New(reflect.TypeOf(o).Elem())
	p.Elem().Set(reflect.ValueOf(o).Elem())
	c := p.Interface().(runtime.Object)
	c.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return c
}

// cborFrame is one event around an object that is CBOR, or JSON.
func cborFrame(typ kwatch.EventType, object []byte) ([]byte, error) {
	object, err := asCBOR(object)
	if err != nil {
		return nil, err
	}
	b := append([]byte(nil), api.CBORMagic...)
	b = cborHead(b, cborMap, 2)
	b = cborString(cborString(b, "type"), string(typ))
	return append(cborString(b, "object"), object...), nil
}

// decodeCBORDeleteOptions reads DeleteOptions, of whatever group they say they are.
func decodeCBORDeleteOptions(body []byte, o *metav1.DeleteOptions) error {
	_, _, err := api.DecodeCBOR(body, schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"}, o, false)
	return err
}

// The major types of RFC 8949, section 3.1, that are written here.
const (
	cborBytes = 2
	cborArray = 4
	cborMap   = 5
)

// cborHead appends the head of a data item.
func cborHead(dst []byte, major byte, n int) []byte {
	switch {
	case n < 24:
		return append(dst, major<<5|byte(n))
	case n < 1<<8:
		return append(dst, major<<5|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, major<<5|25), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(dst, major<<5|26), uint32(n))
}

// cborString appends a text, as a byte string like all texts of KEP-4222.
func cborString(dst []byte, s string) []byte {
	return append(cborHead(dst, cborBytes, len(s)), s...)
}
