package httpapi

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kwatch "k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
)

// decodeObject reads an object of a known type.
func decodeObject(typ string, body []byte, into runtime.Object) error {
	if typ != api.MediaProtobuf {
		return json.Unmarshal(body, into)
	}
	var u runtime.Unknown
	if err := unwrap(body, &u); err != nil {
		return err
	}
	m, ok := into.(interface{ Unmarshal([]byte) error })
	if !ok {
		return fmt.Errorf("%T has no protobuf form", into)
	}
	if err := m.Unmarshal(u.Raw); err != nil {
		return err
	}
	into.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind(u.APIVersion, u.Kind))
	return nil
}

// kindIn is the kind of an object on the wire.
func kindIn(typ string, body []byte) (schema.GroupVersionKind, error) {
	var m struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if typ == api.MediaProtobuf {
		var u runtime.Unknown
		if err := unwrap(body, &u); err != nil {
			return schema.GroupVersionKind{}, err
		}
		m.APIVersion, m.Kind = u.APIVersion, u.Kind
	} else if err := json.Unmarshal(body, &m); err != nil {
		return schema.GroupVersionKind{}, err
	}
	return schema.FromAPIVersionAndKind(m.APIVersion, m.Kind), nil
}

// readResult reads the answer to anything but a list or a watch.
func readResult(r *api.Request, typ string, body []byte, out *api.Response) error {
	if r.Past != nil && r.Past.List() {
		out.History = new(api.History)
		return json.Unmarshal(body, out.History)
	}
	kind, err := kindIn(typ, body)
	if err != nil {
		return err
	}
	res := r.Resource
	switch {
	case kind == res.GVK():
		item, err := readItem(res, typ, body)
		if err != nil {
			return err
		}
		if res.Virtual {
			out.Object = item.Object()
		} else {
			out.Item = item
		}
		return nil
	case r.Verb == api.DeleteCollection && kind == res.GroupVersion().WithKind(res.ListKind):
		out.List, err = readList(res, typ, body)
		return err
	case kind.Kind == "Status" && kind.Group == "":
		out.Status = &metav1.Status{}
		return decodeObject(typ, body, out.Status)
	case kind.Kind == "Scale" && kind.Group == "autoscaling":
		out.Object = &autoscalingv1.Scale{}
	case res.Subs[r.Sub] != nil && res.Subs[r.Sub].In != nil:
		out.Object = res.Subs[r.Sub].In()
	default:
		return fmt.Errorf("it is a %s, which is nothing that is known here", kind)
	}
	return decodeObject(typ, body, out.Object)
}

func readItem(res *api.Resource, typ string, body []byte) (*api.Item, error) {
	o := res.New()
	if err := decodeObject(typ, body, o); err != nil {
		return nil, err
	}
	return itemOf(res, o), nil
}

func itemOf(res *api.Resource, o api.Object) *api.Item {
	rev, _ := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
	return api.NewItem(res, rev, nil, o)
}

func readList(res *api.Resource, typ string, body []byte) (*api.ItemList, error) {
	if typ == api.MediaProtobuf {
		return readProtobufList(res, body)
	}
	var l struct {
		metav1.ListMeta `json:"metadata"`
		Items           []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(body, &l); err != nil {
		return nil, err
	}
	out := listOf(l.ListMeta, len(l.Items))
	for i, b := range l.Items {
		item, err := readItem(res, typ, b)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		out.Items = append(out.Items, item)
	}
	return out, nil
}

func listOf(m metav1.ListMeta, n int) *api.ItemList {
	rev, _ := strconv.ParseInt(m.ResourceVersion, 10, 64)
	return &api.ItemList{Revision: rev, Continue: m.Continue, Remaining: m.RemainingItemCount, Items: make([]*api.Item, 0, n)}
}

func readProtobufList(res *api.Resource, body []byte) (*api.ItemList, error) {
	var u runtime.Unknown
	if err := unwrap(body, &u); err != nil {
		return nil, err
	}
	var m metav1.ListMeta
	var raws [][]byte
	err := eachField(u.Raw, func(field int, b []byte) error {
		switch field {
		case 1:
			return m.Unmarshal(b)
		case 2:
			raws = append(raws, b)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := listOf(m, len(raws))
	for i, b := range raws {
		o := res.New()
		p, ok := o.(interface{ Unmarshal([]byte) error })
		if !ok {
			return nil, fmt.Errorf("%T has no protobuf form", o)
		}
		if err := p.Unmarshal(b); err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		out.Items = append(out.Items, itemOf(res, o))
	}
	return out, nil
}

var errProtobuf = errors.New("broken protobuf message")

// eachField calls f with every length-delimited field of a message that has no others.
func eachField(b []byte, f func(field int, b []byte) error) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag&7 != 2 {
			return errProtobuf
		}
		size, k := binary.Uvarint(b[n:])
		if k <= 0 || size > uint64(len(b)-n-k) {
			return errProtobuf
		}
		b = b[n+k:]
		if err := f(int(tag>>3), b[:size]); err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}

// readEvents yields the events of a watch until the server ends it, which is no
// error, or it breaks, which is one.
func readEvents(ctx context.Context, res *api.Resource, resp *http.Response) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		defer resp.Body.Close()
		stop := context.AfterFunc(ctx, func() { resp.Body.Close() })
		defer stop()
		next := frames(resp)
		for {
			e, typ, err := next()
			if err == nil {
				var out api.Event
				if out, err = readEvent(res, typ, e); err == nil {
					if !yield(out, nil) {
						return
					}
					continue
				}
			}
			if err != io.EOF && ctx.Err() == nil {
				yield(api.Event{}, err)
			}
			return
		}
	}
}

// frames reads the events of a watch off the wire.
func frames(resp *http.Response) func() (jsonEvent, string, error) {
	typ := mediaOf(resp.Header.Get("Content-Type"))
	if typ != api.MediaProtobuf {
		in := json.NewDecoder(resp.Body)
		return func() (e jsonEvent, _ string, err error) {
			return e, typ, in.Decode(&e)
		}
	}
	in := bufio.NewReader(resp.Body)
	return func() (e jsonEvent, _ string, err error) {
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return e, typ, err
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > maxFrame {
			return e, typ, fmt.Errorf("an event of %d bytes", n)
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(in, b); err != nil {
			return e, typ, io.ErrUnexpectedEOF
		}
		var w metav1.WatchEvent
		if err := w.Unmarshal(b); err != nil {
			return e, typ, err
		}
		return jsonEvent{Type: kwatch.EventType(w.Type), Object: w.Object.Raw}, typ, nil
	}
}

// maxFrame bounds one event: an object and room for what surrounds it.
const maxFrame = 32 << 20

func readEvent(res *api.Resource, typ string, e jsonEvent) (api.Event, error) {
	if e.Type == kwatch.Error {
		var st metav1.Status
		if err := decodeObject(typ, e.Object, &st); err != nil {
			return api.Event{}, err
		}
		return api.Event{}, &apierrors.StatusError{ErrStatus: st}
	}
	item, err := readItem(res, typ, e.Object)
	if err != nil {
		return api.Event{}, err
	}
	out := api.Event{Type: e.Type, Item: item, Revision: item.Revision}
	if e.Type == kwatch.Bookmark {
		out.Item, out.InitialEnd = nil, item.Object().GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true"
	}
	return out, nil
}
