package api

import (
	"bytes"
	"encoding/json"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api/owned"
)

// A marshaling is an object of a Go type that is to become JSON, with its managedFields in
// full. These are ready text or made as such, and so may a good part of the object be
// that it has in common with others; the encoder would check and copy them once more. So it is
// given the object without them, and they are put where they belong.
type marshaling struct {
	o, stored Object // what the managedFields are about is the stored one
	resource  *Resource
	codec     protobufCodec // of o
	mine      bool          // nobody else has o: it may lose something on the way
	template  *template     // nil: there is none
	set       uint32        // see [Item.template]
}

func (m *marshaling) appendTo(dst []byte) ([]byte, error) {
	var pieces [][]byte
	if m.template != nil {
		pieces = m.template.pieces()
	}
	owners, bare := m.o.GetManagedFields(), m.o
	if !m.mine && (len(owners) > 0 || pieces != nil) {
		bare = m.codec.lend(m.o)
		defer m.codec.back(bare)
	}
	if len(owners) > 0 {
		bare.SetManagedFields(nil)
	}
	if pieces != nil {
		m.template.share(bare, m.template.none)
	}
	e := encodings.Get().(*encoding)
	defer e.release()
	err := e.to.Encode(bare)
	if pieces != nil {
		m.template.share(bare, m.template.of) // what is owned is told of the whole
	}
	if err != nil {
		return dst, err
	}
	b := bytes.TrimSuffix(e.text.Bytes(), []byte("\n"))
	end, from, to := len(b), len(b), len(b)
	if len(owners) > 0 || pieces != nil {
		end = endOfMetadata(b)
	}
	if pieces != nil {
		from, to = m.template.named.find(b, end)
	}
	if end < 0 || from < 0 {
		bare.SetManagedFields(owned.Full(owners, m.stored, m.resource.HasStatus, owned.Shared{}))
		b, err := json.Marshal(bare)
		return append(dst, b...), err
	}
	insert, err := m.owners(e, owners)
	if err != nil {
		return dst, err
	}
	if len(insert) > 0 && b[end-1] == '{' {
		insert = insert[1:]
	}
	size := len(b) + len(insert)
	for _, p := range pieces {
		size += len(p) + 1
	}
	dst = slices.Grow(dst, size)
	dst = append(append(append(dst, b[:end]...), insert...), b[end:from]...)
	if pieces != nil {
		dst = m.template.named.appendTo(dst, pieces, b[from:to])
	}
	return append(dst, b[to:]...), nil
}

// owners is the member of the metadata that has the managedFields, after a comma; empty if
// there are none.
func (m *marshaling) owners(e *encoding, owners []metav1.ManagedFieldsEntry) ([]byte, error) {
	if len(owners) == 0 {
		return nil, nil
	}
	const key = `,"managedFields":`
	e.owners = append(e.owners[:0], key...)
	var err error
	e.owners, err = owned.AppendJSON(e.owners, owners, m.stored, m.resource.HasStatus, m.template.shared(m.set))
	if err != nil || len(e.owners) == len(key) {
		return nil, err
	}
	return e.owners, nil
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
	if end := endOfValue(b, start+len(metadataKey)-1); end < len(b) && b[end] == '}' {
		return end
	}
	return -1
}
