package api

import (
	"encoding/json"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	kjson "sigs.k8s.io/json"
)

// CBORMagic starts every CBOR item on the wire: the tag of self-described CBOR
// (RFC 8949, section 3.4.6).
var CBORMagic = []byte{0xd9, 0xd9, 0xf7}

// EncodeCBOR returns the wire form of o as KEP-4222 has it. It reads o only.
func EncodeCBOR(o runtime.Object) ([]byte, error) {
	var v any = o
	if x, ok := o.(interface{ UnstructuredContent() map[string]any }); ok {
		v = x.UnstructuredContent()
	}
	b, err := direct.Marshal(v)
	return append(CBORMagic[:3:3], b...), err
}

// CBORFromJSON returns a JSON text as CBOR.
func CBORFromJSON(text []byte) ([]byte, error) {
	var v any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(text, &v); err != nil {
		return nil, err
	}
	b, err := direct.Marshal(v)
	return append(CBORMagic[:3:3], b...), err
}

// DecodeCBOR reads body into o, an empty object, and returns the kind that the
// body names, want where it names none. With check, strict is what the body
// holds besides o's fields. Duplicate keys and anything after the one item are
// errors. Raw extensions come out as JSON.
func DecodeCBOR(body []byte, want schema.GroupVersionKind, o runtime.Object, check bool) (got schema.GroupVersionKind, strict []error, err error) {
	one := onlyKind{want, o}
	_, kind, err := cbor.NewSerializer(one, one, cbor.Strict(check)).Decode(body, &want, o)
	if kind != nil {
		got = *kind
	}
	if err == nil {
		return got, nil, nil
	}
	if e, ok := runtime.AsStrictDecodingError(err); ok {
		return got, e.Errors(), nil
	}
	return got, nil, err
}

// CBORToJSON returns the JSON of a body that holds a map. Byte strings become
// base64 where their tag asks for it.
func CBORToJSON(body []byte) ([]byte, error) {
	var v map[string]any
	if err := direct.Unmarshal(body, &v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// onlyKind is a scheme of one object: the serializer reads into that, whatever
// kind the body names, and the caller judges the kind.
type onlyKind struct {
	kind schema.GroupVersionKind
	obj  runtime.Object
}

func (k onlyKind) New(schema.GroupVersionKind) (runtime.Object, error) { return k.obj, nil }

func (k onlyKind) ObjectKinds(runtime.Object) ([]schema.GroupVersionKind, bool, error) {
	return []schema.GroupVersionKind{k.kind}, false, nil
}

func (k onlyKind) Recognizes(g schema.GroupVersionKind) bool { return g == k.kind }
