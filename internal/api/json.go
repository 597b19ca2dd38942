package api

import (
	"bytes"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api/owned"
)

// marshal returns o as JSON with the given managedFields in place of its own.
// These are ready text, and the encoder would check and copy them once more: so
// it is given the object without them, and they are put where they belong, at
// the end of its metadata.
func marshal(o Object, owners []metav1.ManagedFieldsEntry) ([]byte, error) {
	if len(o.GetManagedFields()) == 0 {
		return json.Marshal(o)
	}
	bare := shallow(o)
	bare.SetManagedFields(nil)
	b, err := json.Marshal(bare)
	if err != nil || len(owners) == 0 {
		return b, err
	}
	end := endOfMetadata(b)
	if end < 0 {
		bare.SetManagedFields(owners)
		return json.Marshal(bare)
	}
	size := 0
	for i := range owners {
		size += 200
		if f := owners[i].FieldsV1; f != nil {
			size += len(f.GetRawString())
		}
	}
	out := append(make([]byte, 0, len(b)+size), b[:end]...)
	if out[end-1] != '{' {
		out = append(out, ',')
	}
	if out, err = owned.AppendJSON(append(out, `"managedFields":`...), owners); err != nil {
		return nil, err
	}
	return append(out, b[end:]...), nil
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

// full are the managedFields of the item's object as clients see them.
func (i *Item) full(o Object) []metav1.ManagedFieldsEntry {
	owners := o.GetManagedFields()
	if owned.AnyShort(owners) {
		return i.fullOwners()
	}
	return owners
}
