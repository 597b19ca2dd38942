package crd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"

	kjson "sigs.k8s.io/json"

	"proa/internal/api"
)

// The stored form of a custom resource is a byte that names the form, the
// fingerprint of the schema by which it was read and defaulted, in eight bytes,
// and the object as JSON: what clients get, but for the resourceVersion. So it
// is served without being decoded as long as its version's schema is the same.
// See docs/formats/objects.md.

const (
	formJSON   = 1
	headLength = 9
)

type codec struct{ v *version }

func (codec) Media() string { return api.MediaJSON }

// Encode returns the stored form of an object in the codec's version.
func (c codec) Encode(o api.Object) ([]byte, error) {
	x, ok := o.(*Object)
	if !ok {
		return nil, fmt.Errorf("%T is no custom resource", o)
	}
	if x.ResourceVersion != "" {
		y := *x
		y.ResourceVersion = ""
		x = &y
	}
	b := make([]byte, headLength, 1024)
	b[0] = formJSON
	binary.BigEndian.PutUint64(b[1:], c.v.fingerprint())
	return x.appendJSON(b)
}

// Decode reads a stored form. One that was written by another schema is pruned
// and defaulted by the present one.
func (c codec) Decode(body []byte) (api.Object, error) {
	if len(body) <= headLength || body[0] != formJSON {
		return nil, fmt.Errorf("the stored form of %s begins with %x", c.v.res.Kind, body[:min(len(body), headLength)])
	}
	content := map[string]any{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(body[headLength:], &content); err != nil {
		return nil, err
	}
	o := &Object{of: c.v}
	if c.current(body) {
		o.of = nil
	}
	if _, err := o.take(content, reading{stored: true}); err != nil {
		return nil, err
	}
	if o.of != nil {
		o.of.must().setDefaults(o.Fields)
	}
	o.of = c.v
	o.Generation = max(o.Generation, 1)
	o.SetGroupVersionKind(c.v.res.GVK())
	return o, nil
}

// current says whether a stored form was written by the present schema.
func (c codec) current(body []byte) bool {
	return binary.BigEndian.Uint64(body[1:headLength]) == c.v.fingerprint()
}

// Text is the JSON for clients, if the stored form is that.
func (c codec) Text(body []byte, revision int64) ([]byte, bool) {
	if len(body) <= headLength || body[0] != formJSON || !c.current(body) {
		return nil, false
	}
	text := body[headLength:]
	at := len(c.v.head)
	if len(text) <= at || !bytes.HasPrefix(text, c.v.head) {
		return nil, false
	}
	if revision == 0 {
		return text, true
	}
	out := make([]byte, 0, len(text)+40)
	out = append(append(out, text[:at]...), `"resourceVersion":"`...)
	out = append(strconv.AppendInt(out, revision, 10), '"')
	if text[at] != '}' {
		out = append(out, ',')
	}
	return append(out, text[at:]...), true
}

// storedAs finds the version that a stored form is in.
func (d *Definition) storedAs(body []byte) *api.Resource {
	if len(body) > headLength {
		rest, _ := bytes.CutPrefix(body[headLength:], []byte(`{"apiVersion":"`))
		gv, _, _ := bytes.Cut(rest, []byte(`"`))
		for _, v := range d.versions {
			if v.res.GroupVersion().String() == string(gv) {
				return v.res
			}
		}
	}
	return d.Family.Storage
}
