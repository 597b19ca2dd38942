package metrics

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// The wire form that clients with protobuf know (k8s.io/metrics' generated.proto):
//
//	NodeMetrics       1 metadata, 2 timestamp, 3 window, 4 usage
//	PodMetrics        1 metadata, 2 timestamp, 3 window, 4 containers
//	ContainerMetrics  1 name, 2 usage
//	usage             a map: 1 name, 2 quantity

// A message is a part that encodes itself.
type message interface{ Marshal() ([]byte, error) }

// A writer appends fields and keeps the first error.
type writer struct {
	b   []byte
	err error
}

func (w *writer) bytes(field protowire.Number, b []byte) {
	w.b = protowire.AppendBytes(protowire.AppendTag(w.b, field, protowire.BytesType), b)
}

func (w *writer) message(field protowire.Number, m message) {
	b, err := m.Marshal()
	if err != nil && w.err == nil {
		w.err = err
	}
	w.bytes(field, b)
}

func (w *writer) usage(field protowire.Number, l corev1.ResourceList) {
	names := make([]corev1.ResourceName, 0, len(l))
	for name := range l {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		var entry writer
		q := l[name]
		entry.bytes(1, []byte(name))
		entry.message(2, &q)
		w.bytes(field, entry.b)
	}
}

// Marshal encodes m, without its kind.
func (m *NodeMetrics) Marshal() ([]byte, error) {
	var w writer
	w.message(1, &m.ObjectMeta)
	w.message(2, &m.Timestamp)
	w.message(3, &m.Window)
	w.usage(4, m.Usage)
	return w.b, w.err
}

// Marshal encodes m, without its kind.
func (m *PodMetrics) Marshal() ([]byte, error) {
	var w writer
	w.message(1, &m.ObjectMeta)
	w.message(2, &m.Timestamp)
	w.message(3, &m.Window)
	for _, c := range m.Containers {
		var one writer
		one.bytes(1, []byte(c.Name))
		one.usage(2, c.Usage)
		w.bytes(4, one.b)
	}
	return w.b, w.err
}

// Size is the length of what Marshal returns.
func (m *NodeMetrics) Size() int { return sizeOf(m) }

// Size is the length of what Marshal returns.
func (m *PodMetrics) Size() int { return sizeOf(m) }

// MarshalTo encodes m into dst, which must be large enough: see Size.
func (m *NodeMetrics) MarshalTo(dst []byte) (int, error) { return marshalTo(m, dst) }

// MarshalTo encodes m into dst, which must be large enough: see Size.
func (m *PodMetrics) MarshalTo(dst []byte) (int, error) { return marshalTo(m, dst) }

func sizeOf(m message) int {
	b, _ := m.Marshal() // what fails here fails in MarshalTo, too
	return len(b)
}

func marshalTo(m message, dst []byte) (int, error) {
	b, err := m.Marshal()
	if err != nil {
		return 0, err
	}
	if len(b) > len(dst) {
		return 0, fmt.Errorf("%T has %d bytes in protobuf, which do not fit into %d", m, len(b), len(dst))
	}
	return copy(dst, b), nil
}

// fields calls f for the fields of a message that are bytes, and passes over others.
func fields(b []byte, f func(field protowire.Number, b []byte) error) error {
	for len(b) > 0 {
		field, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(field, typ, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := f(field, v); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// addUsage reads one entry of a map of usage.
func addUsage(l *corev1.ResourceList, b []byte) error {
	var name corev1.ResourceName
	var q resource.Quantity
	err := fields(b, func(field protowire.Number, b []byte) error {
		switch field {
		case 1:
			name = corev1.ResourceName(b)
		case 2:
			return q.Unmarshal(b)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if *l == nil {
		*l = corev1.ResourceList{}
	}
	(*l)[name] = q
	return nil
}

// Unmarshal decodes what Marshal returns. m must be empty.
func (m *NodeMetrics) Unmarshal(b []byte) error {
	return fields(b, func(field protowire.Number, b []byte) error {
		switch field {
		case 1:
			return m.ObjectMeta.Unmarshal(b)
		case 2:
			return m.Timestamp.Unmarshal(b)
		case 3:
			return m.Window.Unmarshal(b)
		case 4:
			return addUsage(&m.Usage, b)
		}
		return nil
	})
}

// Unmarshal decodes what Marshal returns. m must be empty.
func (m *PodMetrics) Unmarshal(b []byte) error {
	return fields(b, func(field protowire.Number, b []byte) error {
		switch field {
		case 1:
			return m.ObjectMeta.Unmarshal(b)
		case 2:
			return m.Timestamp.Unmarshal(b)
		case 3:
			return m.Window.Unmarshal(b)
		case 4:
			var c ContainerMetrics
			err := fields(b, func(field protowire.Number, b []byte) error {
				switch field {
				case 1:
					c.Name = string(b)
				case 2:
					return addUsage(&c.Usage, b)
				}
				return nil
			})
			m.Containers = append(m.Containers, c)
			return err
		}
		return nil
	})
}
