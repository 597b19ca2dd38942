package api

import (
	"fmt"
	"reflect"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
)

// A Codec makes the stored form of an object and reads it back. The stored form
// holds neither kind nor resourceVersion.
type Codec interface {
	// Encode returns the stored form of o. It may read but not change o.
	Encode(o Object) ([]byte, error)
	// Decode returns the object in body, its kind set, its resourceVersion empty.
	Decode(body []byte) (Object, error)
	// Media is the kind of wire form that the stored form is closest to:
	// application/vnd.kubernetes.protobuf or application/json.
	Media() string
}

// CodecGeneration names the codecs that write now; records of an older
// generation are defaulted when read.
const CodecGeneration uint16 = 1

// Media types.
const (
	MediaJSON     = "application/json"
	MediaYAML     = "application/yaml"
	MediaProtobuf = "application/vnd.kubernetes.protobuf"
	MediaCBOR     = "application/cbor"
)

type protobufCodec struct {
	new     func() Object
	restore func(Object) // Kind.Restore, if there is one
	alikes  *alikes      // nil: objects have nothing in common
	brief   *sync.Pool   // of objects for one look
}

func newProtobufCodec(fresh func() Object) protobufCodec {
	return protobufCodec{new: fresh, brief: &sync.Pool{New: func() any { return fresh() }}}
}

type protobufObject interface {
	runtime.ProtobufMarshaller
	Unmarshal([]byte) error
	Size() int
}

func (protobufCodec) Media() string { return MediaProtobuf }

// Encode leaves the resourceVersion out, and puts the managedFields at the end,
// by encoding a shallow copy of the object without them, so o may be shared.
func (c protobufCodec) Encode(o Object) ([]byte, error) {
	owners := o.GetManagedFields()
	if o.GetResourceVersion() == "" && len(owners) == 0 {
		return encode(o, nil)
	}
	bare := c.lend(o)
	defer c.back(bare)
	bare.SetResourceVersion("")
	bare.SetManagedFields(nil)
	return encode(bare, owners)
}

// encode returns the message of o, which has no managedFields, with these at its end.
func encode(o Object, owners []metav1.ManagedFieldsEntry) ([]byte, error) {
	m, ok := o.(protobufObject)
	if !ok {
		return nil, fmt.Errorf("%T has no protobuf form", o)
	}
	size, more := m.Size(), ownersOverhead
	for i := range owners {
		more += owners[i].Size() + ownersOverhead
	}
	b := make([]byte, size, size+more)
	n, err := m.MarshalTo(b)
	if err != nil {
		return nil, err
	}
	return appendOwners(b[:n], owners)
}

// ownersOverhead is more than the tags and lengths around one entry of managedFields take, or around all.
const ownersOverhead = 16

func (c protobufCodec) Decode(body []byte) (Object, error) { return c.decode(c.new(), body) }

// lend returns a copy of o, of the codec's type, that shares what o points to; it is given back.
func (c protobufCodec) lend(o Object) Object {
	copied := c.brief.Get().(Object)
	reflect.ValueOf(copied).Elem().Set(reflect.ValueOf(o).Elem())
	return copied
}

// back takes back what is not needed any more.
func (c protobufCodec) back(o Object) {
	reflect.ValueOf(o).Elem().SetZero()
	c.brief.Put(o)
}

// look decodes a body for one look: nothing of the object may be kept after it. false if it
// cannot be decoded.
func (c protobufCodec) look(body []byte, look func(Object) error) (bool, error) {
	o := c.brief.Get().(Object)
	if _, err := c.decode(o, body); err != nil {
		return false, nil
	}
	err := look(o)
	c.back(o)
	return true, err
}

// decode decodes into o, which is empty.
func (c protobufCodec) decode(o Object, body []byte) (Object, error) {
	m, ok := o.(protobufObject)
	if !ok {
		return nil, fmt.Errorf("%T has no protobuf form", o)
	}
	if c.alikes != nil {
		p := partings.Get().(*parts)
		defer partings.Put(p)
		body = c.alikes.give(o, body, p)
	}
	if err := m.Unmarshal(body); err != nil {
		return o, err
	}
	if c.restore != nil {
		c.restore(o)
	}
	return o, nil
}

// Age is how kubectl shows the time since t.
func Age(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}
