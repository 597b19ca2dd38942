package api

import (
	"reflect"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api/owned"
)

// Who owns which field (metadata.managedFields) is kept in a short form where it
// can be: see package owned. Object and Body have what is kept; what leaves for
// clients (Public, JSON, Protobuf) has the entries in full, made when first asked
// for.

// Owners returns an object's managedFields as clients see them.
func (r *Resource) Owners(o Object) []metav1.ManagedFieldsEntry {
	return owned.Full(o.GetManagedFields(), o, r.HasStatus, owned.Shared{})
}

// Public returns the typed form as clients see it: with its managedFields in
// full. It is read-only, and made anew on every call if it differs from Object.
func (i *Item) Public() Object {
	o := i.Object()
	if !owned.AnyShort(o.GetManagedFields()) {
		return o
	}
	o = shallow(o)
	o.SetManagedFields(i.fullOwners())
	return o
}

// fullOwners are the managedFields as clients see them.
func (i *Item) fullOwners() []metav1.ManagedFieldsEntry {
	i = i.owner()
	o := i.Peek()
	t, set := i.template()
	return owned.Full(o.GetManagedFields(), o, i.Resource.HasStatus, t.shared(set))
}

// owner is the item that the short form is about: the stored one.
func (i *Item) owner() *Item {
	if m := i.more.Load(); m != nil && m.of != nil {
		return m.of
	}
	return i
}

// Shallow returns a copy of o that shares what o points to: its metadata's own
// fields may be set, not what they lead to.
func Shallow(o Object) Object { return shallow(o) }

// shallow returns a copy of o that shares what o points to.
func shallow(o Object) Object {
	c := reflect.New(reflect.TypeOf(o).Elem())
	c.Elem().Set(reflect.ValueOf(o).Elem())
	return c.Interface().(Object)
}

// The stored protobuf form has the managedFields at its end, in an ObjectMeta of
// their own, which decodes as one with the first: so they can be replaced
// without decoding anything.
const (
	fieldMetadata      = 1  // of every object
	fieldManagedFields = 17 // of ObjectMeta
	fieldFieldsType    = 6  // of ManagedFieldsEntry
)

// appendOwners appends managedFields to a message of an object without them.
func appendOwners(b []byte, entries []metav1.ManagedFieldsEntry) ([]byte, error) {
	if len(entries) == 0 {
		return b, nil
	}
	size := 0
	for i := range entries {
		n := entries[i].Size()
		size += protowire.SizeTag(fieldManagedFields) + protowire.SizeBytes(n)
	}
	b = slices.Grow(b, size+ownersOverhead)
	b = protowire.AppendTag(b, fieldMetadata, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	for i := range entries {
		n := entries[i].Size()
		b = protowire.AppendTag(b, fieldManagedFields, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(n))
		b = slices.Grow(b, n)
		m, err := entries[i].MarshalTo(b[len(b) : len(b)+n])
		if err != nil {
			return nil, err
		}
		b = b[:len(b)+m]
	}
	return b, nil
}

// splitOwners finds the managedFields that appendOwners appended: body[:end] is
// the object without them. short says that they are not as clients see them. If
// there are none, end is len(body).
func splitOwners(body []byte) (end int, short bool) {
	metas := 0
	for rest := body; len(rest) > 0; {
		number, meta, after, ok := bytesField(rest)
		if !ok {
			break
		}
		if number == fieldMetadata {
			if metas++; metas == 2 {
				return len(body) - len(rest), hasShort(meta)
			}
		}
		rest = after
	}
	return len(body), false
}

// hasShort says whether an ObjectMeta of nothing but managedFields has one in the short form.
func hasShort(meta []byte) bool {
	for len(meta) > 0 {
		number, entry, rest, ok := bytesField(meta)
		if !ok || number != fieldManagedFields || entry == nil {
			return false
		}
		if !isFull(entry) {
			return true
		}
		meta = rest
	}
	return false
}

func isFull(entry []byte) bool {
	for len(entry) > 0 {
		number, value, rest, ok := bytesField(entry)
		if !ok {
			return true
		}
		if number == fieldFieldsType {
			return len(value) > len(owned.Except) // the only longer one is the API's own
		}
		entry = rest
	}
	return false
}

// wire returns the two parts of the protobuf form as clients see it.
func (i *Item) wire() (object, owners []byte, err error) {
	body, err := i.Body()
	if err != nil {
		return nil, nil, err
	}
	end, short := splitOwners(body)
	if !short {
		return body, nil, nil
	}
	if b := i.owners.Load(); b != nil {
		i.touch(usedOwners)
		return body[:end], *b, nil
	}
	b, err := appendOwners(nil, i.fullOwners())
	if err != nil {
		return nil, nil, err
	}
	i.touch(usedOwners)
	i.owners.Store(&b)
	return body[:end], b, nil
}
