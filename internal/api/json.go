package api

import (
	"bytes"
	"encoding/json"
	"slices"
	"sync"

	"proa/internal/api/owned"
)

// appendMarshaled appends o, an object of a Go type, as JSON with its managedFields in
// full, as they are about the stored object, of r. These are ready text or made as such,
// and the encoder would check and copy them once more: so it is given the object
// without them, and they are put where they belong, at the end of its metadata. o may
// lose its managedFields on the way if mayChange.
func appendMarshaled(dst []byte, o Object, r *Resource, stored Object, mayChange bool) ([]byte, error) {
	owners, bare := o.GetManagedFields(), o
	if len(owners) > 0 {
		if !mayChange {
			bare = shallow(o)
		}
		bare.SetManagedFields(nil)
	}
	e := encodings.Get().(*encoding)
	defer e.release()
	if err := e.to.Encode(bare); err != nil {
		return dst, err
	}
	b := bytes.TrimSuffix(e.text.Bytes(), []byte("\n"))
	if len(owners) == 0 {
		return append(dst, b...), nil
	}
	end := endOfMetadata(b)
	if end < 0 {
		bare.SetManagedFields(owned.Full(owners, stored, r.HasStatus))
		b, err := json.Marshal(bare)
		return append(dst, b...), err
	}
	const key = `,"managedFields":`
	e.owners = append(e.owners[:0], key...)
	var err error
	if e.owners, err = owned.AppendJSON(e.owners, owners, stored, r.HasStatus); err != nil {
		return dst, err
	}
	insert := e.owners
	switch {
	case len(insert) == len(key):
		insert = nil
	case b[end-1] == '{':
		insert = insert[1:]
	}
	dst = slices.Grow(dst, len(b)+len(insert))
	dst = append(append(dst, b[:end]...), insert...)
	return append(dst, b[end:]...), nil
}

// An encoding is the memory in which JSON is made.
type encoding struct {
	text   bytes.Buffer
	to     *json.Encoder
	owners []byte
}

var encodings = sync.Pool{New: func() any {
	e := &encoding{}
	e.to = json.NewEncoder(&e.text)
	return e
}}

// mostKept is how large an encoding may be to be used again.
const mostKept = 64 << 10

func (e *encoding) release() {
	if e.text.Cap()+cap(e.owners) <= mostKept {
		e.text.Reset()
		encodings.Put(e)
	}
}

var metadataKey = []byte(`"metadata":{`)

// endOfMetadata finds the brace that closes an object's metadata in JSON of the
// encoder's, in which metadata comes after kind and apiVersion; negative if it
// does not.
func endOfMetadata(b []byte) int {
	const most = 400 // bytes of kind and apiVersion
	start := bytes.Index(b[:min(len(b), most)], metadataKey)
	if start < 0 || bytes.IndexByte(b[1:start], '{') >= 0 {
		return -1
	}
	depth := 0
	for i := start + len(metadataKey) - 1; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// plainOwners says that o is a Go type's object, whose metadata is copied with it.
func (i *Item) plainOwners() bool {
	_, text := i.Resource.Codec.(textCodec)
	return !text && i.Resource.Family == nil
}
