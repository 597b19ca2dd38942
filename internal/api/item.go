package api

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime"
)

// An Item is one state of one object: its stored form, and the typed and the
// wire forms, each made on first use and then shared by every reader. An Item
// never changes; a write makes a new one.
type Item struct {
	Resource *Resource
	Revision int64 // the object's resourceVersion

	body []byte // stored form; nil if the item came from elsewhere
	obj  atomic.Pointer[Object]
	json atomic.Pointer[[]byte]
	used atomic.Uint32 // which of the forms was asked for since the last Sweep
	more atomic.Pointer[more]

	owners atomic.Pointer[[]byte] // what replaces the short managedFields at the end of body
}

// more is what only items of kinds with views have.
type more struct {
	of   *Item                  // of an item of a view: the stored one
	raw  atomic.Pointer[[]byte] // of an item of a view: what it would be stored as
	view *Item                  // of a stored item: it in a view
	next *more                  // and in others
}

const (
	usedObject = 1 << iota
	usedJSON
	usedView
	usedOwners
)

// NewItem returns an item from a stored form, an object, or both. The object,
// if there is one, becomes shared: its resourceVersion is set here, and nobody
// may change it afterwards.
func NewItem(r *Resource, revision int64, body []byte, obj Object) *Item {
	i := &Item{Resource: r, Revision: revision, body: body}
	if obj != nil {
		i.take(obj)
	}
	return i
}

// dress sets of an object what is not stored.
func (i *Item) dress(o Object) {
	if i.Revision > 0 {
		o.SetResourceVersion(strconv.FormatInt(i.Revision, 10))
	}
	o.GetObjectKind().SetGroupVersionKind(i.Resource.GVK())
}

func (i *Item) take(o Object) Object {
	i.dress(o)
	if i.obj.CompareAndSwap(nil, &o) {
		return o
	}
	if have := i.obj.Load(); have != nil {
		return *have
	}
	return o
}

// version is the item's resourceVersion; empty if it has none.
func (i *Item) version() string {
	if i.Revision <= 0 {
		return ""
	}
	return strconv.FormatInt(i.Revision, 10)
}

func (i *Item) touch(form uint32) {
	if i.used.Load()&form == 0 {
		i.used.Or(form)
	}
}

// At returns the item with another revision: what DELETED events, and events
// for an object that leaves a selector, carry.
func (i *Item) At(revision int64) *Item {
	body := i.body
	if body != nil {
		return &Item{Resource: i.Resource, Revision: revision, body: body}
	}
	return NewItem(i.Resource, revision, nil, Clone(i.Object()))
}

// Object returns the typed form, shared and read-only. A stored form that
// cannot be read is a broken disk or a bug, and panics with its name; the
// server checks what it loads with [Item.Check].
func (i *Item) Object() Object {
	o, err := i.decode()
	if err != nil {
		panic(err)
	}
	return o
}

// Peek is Object for a look at very many items: a typed form that nobody has
// asked for yet is not kept, and has no resourceVersion and no kind.
func (i *Item) Peek() Object {
	if i.body != nil && i.obj.Load() == nil {
		if o, err := i.Resource.Codec.Decode(i.body); err == nil {
			return o
		}
	}
	return i.Object() // which also says what is wrong
}

// Check decodes the stored form if that has not been done yet.
func (i *Item) Check() error {
	_, err := i.decode()
	return err
}

func (i *Item) decode() (Object, error) {
	i.touch(usedObject)
	if o := i.obj.Load(); o != nil {
		return *o, nil
	}
	if m := i.more.Load(); m != nil && m.of != nil {
		stored, err := m.of.decode()
		if err != nil {
			return nil, err
		}
		if f := i.Resource.Family; f != nil {
			if !f.Plain && stored.GetObjectKind().GroupVersionKind().Version != i.Resource.Version {
				return nil, fmt.Errorf("%s %s was not converted to %s", i.Resource.Kind, stored.GetName(), i.Resource.GroupVersion())
			}
			return i.take(f.Relabel(stored, i.Resource)), nil
		}
		return i.take(i.Resource.Hub.From(stored)), nil
	}
	o, err := i.Resource.Codec.Decode(i.body)
	if err != nil {
		return nil, fmt.Errorf("decode a stored %s of revision %d: %w", i.Resource.Kind, i.Revision, err)
	}
	return i.take(o), nil
}

// Verify says whether somebody has changed the shared object, by encoding it
// again. It does nothing for an item that has not been decoded.
func (i *Item) Verify() error {
	o := i.obj.Load()
	if o == nil || i.body == nil {
		return nil
	}
	if c, ok := i.Resource.Codec.(textCodec); ok {
		if _, current := c.Text(i.body, 0); !current {
			return nil // it was read by another schema than it was written by
		}
	}
	b, err := i.Resource.Codec.Encode(*o)
	if err != nil {
		return err
	}
	if !bytes.Equal(b, i.body) {
		return fmt.Errorf("%s %s/%s of revision %d was changed in place", i.Resource.Kind, (*o).GetNamespace(), (*o).GetName(), i.Revision)
	}
	return nil
}

// Body returns the stored form, making it if the item came without one.
func (i *Item) Body() ([]byte, error) {
	if i.body != nil {
		return i.body, nil
	}
	m := i.more.Load()
	if m == nil || m.of == nil {
		return i.Resource.Codec.Encode(i.Object())
	}
	if b := m.raw.Load(); b != nil {
		return *b, nil
	}
	b, err := i.Resource.Codec.Encode(i.Object())
	if err == nil {
		m.raw.Store(&b)
	}
	return b, err
}

// StoredSize is the length of the stored form; 0 if the item came without one.
func (i *Item) StoredSize() int { return len(i.body) }

// In returns the item as an item of r, which is its own resource or a view of
// it. An item of a view, with the forms made from it, is kept with the stored
// one and shared like its own forms.
func (i *Item) In(r *Resource) *Item {
	if r == i.Resource || r.Hub == nil && r.Family == nil {
		return i
	}
	i.touch(usedView)
	for {
		first := i.more.Load()
		for m := first; m != nil; m = m.next {
			if m.view != nil && m.view.Resource == r {
				return m.view
			}
		}
		v := &Item{Resource: r, Revision: i.Revision}
		v.more.Store(&more{of: i})
		if i.more.CompareAndSwap(first, &more{view: v, next: first}) {
			return v
		}
	}
}

// Adopt gives an item of another version of a custom resource its object, which
// somebody has converted: see [Family]. It becomes shared.
func (i *Item) Adopt(o Object) { i.take(o) }

// Converted says whether Object will do without a conversion that can fail.
func (i *Item) Converted() bool {
	f := i.Resource.Family
	if f == nil || f.Plain || i.obj.Load() != nil {
		return true
	}
	m := i.more.Load()
	return m == nil || m.of == nil || m.of.Resource.Version == i.Resource.Version
}

// Stored is the item as it is stored: the inverse of In.
func (i *Item) Stored() *Item {
	if m := i.more.Load(); i.Resource.Family != nil && m != nil && m.of != nil {
		return m.of
	}
	if i.Resource.Hub == nil {
		return i
	}
	if m := i.more.Load(); m != nil && m.of != nil {
		return m.of
	}
	return NewItem(i.Resource.Hub.Resource, i.Revision, nil, i.Resource.Hub.To(Clone(i.Object())))
}

// JSON returns the object as JSON with its kind, without a newline. The bytes are shared.
func (i *Item) JSON() ([]byte, error) {
	i.touch(usedJSON)
	if b := i.json.Load(); b != nil {
		return *b, nil
	}
	// A change wakes many watchers at once: one of them makes it, the others wait.
	turn := &making[uint64(i.Revision)%uint64(len(making))]
	turn.Lock()
	defer turn.Unlock()
	if b := i.json.Load(); b != nil {
		return *b, nil
	}
	b, err := i.appendText(nil)
	if err != nil {
		return nil, err
	}
	i.json.Store(&b)
	return b, nil
}

// making keeps items from being encoded twice; by their revisions.
var making [64]sync.Mutex

// AppendJSON appends what JSON returns to dst. It keeps nothing that was not kept
// before: it is for looks at very many items.
func (i *Item) AppendJSON(dst []byte) ([]byte, error) {
	if b := i.json.Load(); b != nil {
		return append(dst, *b...), nil
	}
	return i.appendText(dst)
}

// appendText makes the JSON, from the stored form where that is JSON already.
func (i *Item) appendText(dst []byte) ([]byte, error) {
	if c, ok := i.Resource.Codec.(textCodec); ok && i.body != nil {
		if b, ok := c.Text(i.body, i.Revision); ok {
			return append(dst, b...), nil
		}
	}
	codec, ok := i.Resource.Codec.(protobufCodec)
	if !ok || i.Resource.Family != nil { // what is no Go type's object
		b, err := json.Marshal(i.Public())
		return append(dst, b...), err
	}
	if i.body != nil && i.obj.Load() == nil {
		ok, err := codec.look(i.body, func(o Object) (err error) {
			i.dress(o)
			dst, err = i.marshal(dst, o, codec, true)
			return err
		})
		if ok {
			return dst, err
		}
	}
	o, err := i.decode()
	if err != nil {
		return dst, err
	}
	return i.marshal(dst, o, codec, false)
}

// marshal appends the item's object, o, as JSON. It may lose something on the way if nobody
// else has it.
func (i *Item) marshal(dst []byte, o Object, codec protobufCodec, mine bool) ([]byte, error) {
	m := marshaling{o: o, stored: o, resource: i.Resource, codec: codec, mine: mine}
	if owner := i.owner(); owner == i {
		m.template, m.set = i.template()
	} else {
		m.stored, m.resource = owner.Peek(), owner.Resource
	}
	return m.appendTo(dst)
}

// MakeJSON makes the JSON of items that have none. Those who list the same items
// at the same time wait for each other once, instead of for every item. What goes
// wrong is JSON's to say.
func MakeJSON(items []*Item) {
	if !slices.ContainsFunc(items, func(i *Item) bool { return i.json.Load() == nil }) {
		return
	}
	turn := &makingMany[uint64(items[0].Revision)%uint64(len(makingMany))]
	turn.Lock()
	defer turn.Unlock()
	for _, i := range items {
		_, _ = i.JSON()
	}
}

// makingMany is what making is, for many; by the revision of the first.
var makingMany [64]sync.Mutex

// A textCodec has JSON as its stored form. Text returns the JSON for clients, if
// body can be had as that without decoding it.
type textCodec interface {
	Text(body []byte, revision int64) ([]byte, bool)
}

// Sweep lets go of the forms that nobody has asked for since the last Sweep and
// that can be made again. It returns how many that was.
func (i *Item) Sweep() (gone int) { return i.sweep(0) }

// SweepSparing is Sweep, but JSON stays, as if somebody had asked for it.
func (i *Item) SweepSparing() (gone int) { return i.sweep(usedJSON) }

// TextSize is the length of the JSON that the item and its views keep.
func (i *Item) TextSize() (n int) {
	if b := i.json.Load(); b != nil {
		n = len(*b)
	}
	for m := i.more.Load(); m != nil; m = m.next {
		if m.view != nil {
			n += m.view.TextSize()
		}
	}
	return n
}

// sweep leaves the forms that are spared, and what is known of their use.
func (i *Item) sweep(spared uint32) (gone int) {
	used := i.used.And(spared) | spared
	if used&usedJSON == 0 && i.json.Swap(nil) != nil {
		gone++
	}
	if used&usedView == 0 && i.Resource.Hub == nil && i.more.Swap(nil) != nil {
		gone++
	}
	if used&usedOwners == 0 && i.owners.Swap(nil) != nil {
		gone++
	}
	if used&usedObject == 0 && i.body != nil && i.obj.Swap(nil) != nil {
		gone++
	}
	return gone
}

// ProtobufMagic starts every protobuf message on the wire.
var ProtobufMagic = []byte("k8s\x00")

// Protobuf appends the wire form to dst: the magic number and a
// runtime.Unknown around the stored form, to which a second ObjectMeta with
// only the resourceVersion is appended (protobuf merges the two).
func (i *Item) Protobuf(dst []byte) ([]byte, error) {
	raw, err := i.RawProtobuf(nil)
	if err != nil {
		return nil, err
	}
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: i.Resource.GroupVersion().String(), Kind: i.Resource.Kind}, Raw: raw}
	b, err := u.Marshal()
	if err != nil {
		return nil, err
	}
	return append(append(dst, ProtobufMagic...), b...), nil
}

// RawSize is the length of what RawProtobuf appends.
func (i *Item) RawSize() (int, error) {
	if i.Resource.Codec.Media() != MediaProtobuf {
		return 0, fmt.Errorf("%s has no protobuf form", i.Resource.Kind)
	}
	object, owners, err := i.wire()
	size := len(object) + len(owners)
	if err != nil || i.Revision == 0 {
		return size, err
	}
	digits := 1
	for n := i.Revision; n >= 10; n /= 10 {
		digits++
	}
	return size + 4 + digits, nil // the tags and lengths of RawProtobuf are one byte each
}

// RawProtobuf appends the object's own message, with its resourceVersion and
// without an envelope: what a list holds. It fails if the kind has none.
func (i *Item) RawProtobuf(dst []byte) ([]byte, error) {
	if i.Resource.Codec.Media() != MediaProtobuf {
		return nil, fmt.Errorf("%s has no protobuf form", i.Resource.Kind)
	}
	object, owners, err := i.wire()
	if err != nil {
		return nil, err
	}
	dst = append(append(dst, object...), owners...)
	if i.Revision == 0 {
		return dst, nil
	}
	rv := strconv.FormatInt(i.Revision, 10)
	// Object.metadata is field 1, ObjectMeta.resourceVersion field 6.
	dst = append(dst, 1<<3|2)
	dst = binary.AppendUvarint(dst, uint64(2+len(rv)))
	dst = append(dst, 6<<3|2, byte(len(rv)))
	return append(dst, rv...), nil
}
