package api

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Fields of ObjectMeta in protobuf.
const (
	fieldName       = 1
	fieldNamespace  = 3
	fieldUID        = 5
	fieldDeletion   = 9
	fieldOwners     = 13
	fieldFinalizers = 14
)

// Bare returns the metadata by which the object is known and goes: its name,
// namespace, UID, resourceVersion, deletion, finalizers and owners, nothing else.
// It shares no memory with the item, and leaves no typed form behind where the
// stored form is protobuf: whoever looks at every object for no more than this
// need not decode them. The error is that of a stored form that cannot be read.
func (i *Item) Bare() (*metav1.PartialObjectMetadata, error) {
	if i.obj.Load() == nil && i.body != nil && i.Resource.Family == nil && i.Resource.Codec.Media() == MediaProtobuf {
		if m, ok := bare(i.body); ok {
			m.ResourceVersion = i.version()
			p := &metav1.PartialObjectMetadata{ObjectMeta: m}
			p.SetGroupVersionKind(i.Resource.GVK())
			return p, nil
		}
	}
	o, err := i.decode()
	if err != nil {
		return nil, err
	}
	return BareOf(i.Resource, o), nil
}

// bare reads what Bare tells from a stored form; false if only a whole decoding
// can tell.
func bare(body []byte) (m metav1.ObjectMeta, ok bool) {
	for len(body) > 0 {
		number, value, rest, ok := bytesField(body)
		if !ok {
			return m, false
		}
		body = rest
		if number == fieldMetadata && !bareMeta(&m, value) {
			return m, false
		}
	}
	return m, m.Name != ""
}

func bareMeta(m *metav1.ObjectMeta, meta []byte) bool {
	for len(meta) > 0 {
		number, value, rest, ok := bytesField(meta)
		if !ok {
			return false
		}
		meta = rest
		switch number {
		case fieldName:
			m.Name = string(value)
		case fieldNamespace:
			m.Namespace = string(value)
		case fieldUID:
			m.UID = types.UID(value)
		case fieldDeletion, fieldOwners, fieldFinalizers:
			return false // few have any of these
		}
	}
	return true
}

// bytesField takes the next field off a message; value is nil if it is no bytes.
func bytesField(b []byte) (number protowire.Number, value, rest []byte, ok bool) {
	number, typ, n := protowire.ConsumeTag(b)
	if n < 0 {
		return 0, nil, nil, false
	}
	b = b[n:]
	if typ == protowire.BytesType {
		value, n = protowire.ConsumeBytes(b)
	} else {
		n = protowire.ConsumeFieldValue(number, typ, b)
	}
	if n < 0 {
		return 0, nil, nil, false
	}
	return number, value, b[n:], true
}

// BareOf is [Item.Bare] of an object at hand.
func BareOf(r *Resource, o Object) *metav1.PartialObjectMetadata {
	p := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Name: strings.Clone(o.GetName()), Namespace: strings.Clone(o.GetNamespace()), UID: types.UID(strings.Clone(string(o.GetUID()))),
		ResourceVersion: strings.Clone(o.GetResourceVersion()), DeletionTimestamp: o.GetDeletionTimestamp().DeepCopy(),
	}}
	for _, f := range o.GetFinalizers() {
		p.Finalizers = append(p.Finalizers, strings.Clone(f))
	}
	for _, ref := range slices.Clone(o.GetOwnerReferences()) {
		c := *ref.DeepCopy()
		c.APIVersion, c.Kind, c.Name, c.UID = strings.Clone(c.APIVersion), strings.Clone(c.Kind), strings.Clone(c.Name), types.UID(strings.Clone(string(c.UID)))
		p.OwnerReferences = append(p.OwnerReferences, c)
	}
	p.SetGroupVersionKind(r.GVK())
	return p
}
