package httpapi

import (
	"bytes"
	"encoding/json"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
)

// tableColumns is the columnDefinitions of the resource's tables, as JSON.
func (r *resource) tableColumns() []byte {
	r.once.Do(func() {
		defs := make([]metav1.TableColumnDefinition, len(r.Columns))
		for i, c := range r.Columns {
			defs[i] = metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Doc}
			if c.Wide {
				defs[i].Priority = max(c.Priority, 1)
			}
		}
		r.columns, _ = json.Marshal(defs) // structs of strings and numbers
	})
	return r.columns
}

// rowObjects is what the rows of a table carry besides their cells.
func (x *exchange) rowObjects() (metav1.IncludeObjectPolicy, error) {
	var o metav1.TableOptions
	if x.req.URL.RawQuery != "" {
		q := x.req.URL.Query()
		if err := metav1.Convert_url_Values_To_v1_TableOptions(&q, &o, nil); err != nil {
			return "", apierrors.NewBadRequest(err.Error())
		}
		if errs := metavalidation.ValidateTableOptions(&o); len(errs) > 0 {
			return "", apierrors.NewBadRequest(errs.ToAggregate().Error())
		}
	}
	if o.IncludeObject == "" {
		o.IncludeObject = metav1.IncludeMetadata
	}
	return o.IncludeObject, nil
}

func tableHead(dst []byte, version string, m metav1.ListMeta, columns []byte) []byte {
	dst = append(dst, `{"kind":"Table","apiVersion":"meta.k8s.io/`...)
	dst = append(dst, version...)
	dst = append(dst, `","metadata":`...)
	b, _ := json.Marshal(m) // a struct of strings and a number
	dst = append(dst, b...)
	dst = append(dst, `,"columnDefinitions":`...)
	if columns == nil {
		dst = append(dst, "null"...)
	} else {
		dst = append(dst, columns...)
	}
	return append(dst, `,"rows":[`...)
}

// row appends one object's row.
func (r *resource) row(dst []byte, item *api.Item, version string, objects metav1.IncludeObjectPolicy) ([]byte, error) {
	stored := item
	if item.Resource.Hub != nil { // columns are the stored kind's
		stored = item.Stored()
	}
	o := stored.Object()
	dst = append(dst, `{"cells":[`...)
	for i, c := range stored.Resource.Columns {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = appendCell(dst, c.Cell(o)); err != nil {
			return dst, err
		}
	}
	dst = append(dst, `],"object":`...)
	var err error
	switch objects {
	case metav1.IncludeNone:
		dst = append(dst, "null"...)
	case metav1.IncludeObject:
		var b []byte
		b, err = item.JSON()
		dst = append(dst, b...)
	default:
		dst, err = appendPartial(dst, r, item, version)
	}
	return append(dst, '}'), err
}

// appendCell appends a cell's JSON.
func appendCell(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case string:
		if plain(v) {
			return append(append(append(dst, '"'), v...), '"'), nil
		}
	case int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int32:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	}
	b, err := json.Marshal(v)
	return append(dst, b...), err
}

// plain says whether a string is its own JSON, but for the quotes.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// appendPartial appends the JSON of an object's metadata, cut out of the
// object's where that can be done.
func appendPartial(dst []byte, r *resource, item *api.Item, version string) ([]byte, error) {
	whole, err := item.JSON()
	if err != nil {
		return dst, err
	}
	if rest, ok := bytes.CutPrefix(whole, r.cut); ok && r.cut != nil {
		if m := firstObject(rest, `"metadata":`); m != nil {
			dst = append(dst, `{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/`...)
			dst = append(append(dst, version...), `","metadata":`...)
			return append(append(dst, m...), '}'), nil
		}
	}
	b, err := encode(partial(item, version), partialKind(version), api.MediaJSON)
	return append(dst, b...), err
}

// firstObject is the JSON object that follows key at the beginning of b, or nil.
func firstObject(b []byte, key string) []byte {
	if !bytes.HasPrefix(b, []byte(key)) {
		return nil
	}
	b = b[len(key):]
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{':
			depth++
		case c == '}':
			if depth--; depth == 0 {
				return b[:i+1]
			}
		}
		if depth == 0 {
			return nil // it is no object
		}
	}
	return nil
}

// table is one object as a table of one row.
func (x *exchange) table(t *target, item *api.Item) ([]byte, error) {
	objects, err := x.rowObjects()
	if err != nil {
		return nil, err
	}
	b := tableHead(nil, x.media.version, metav1.ListMeta{ResourceVersion: item.Object().GetResourceVersion()}, t.res.tableColumns())
	if b, err = t.res.row(b, item, x.media.version, objects); err != nil {
		return nil, err
	}
	return append(b, listEnd...), nil
}

func (x *exchange) tableList(t *target, l *api.ItemList, write func([]byte)) error {
	objects, err := x.rowObjects()
	if err != nil {
		return err
	}
	b := tableHead(nil, x.media.version, listMeta(l), t.res.tableColumns())
	for i, item := range l.Items {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = t.res.row(b, item, x.media.version, objects); err != nil {
			return err
		}
		write(b)
		b = b[:0]
	}
	write(append(b, listEnd...))
	return nil
}

// A partial object is an object's metadata and nothing else.
func partial(item *api.Item, version string) *metav1.PartialObjectMetadata {
	p := meta.AsPartialObjectMetadata(item.Public())
	p.SetGroupVersionKind(partialKind(version))
	return p
}

func partials(l *api.ItemList, version string) *metav1.PartialObjectMetadataList {
	out := &metav1.PartialObjectMetadataList{ListMeta: listMeta(l), Items: make([]metav1.PartialObjectMetadata, len(l.Items))}
	out.SetGroupVersionKind(partialListKind(version))
	for i, item := range l.Items {
		out.Items[i] = *partial(item, version)
	}
	return out
}

func (x *exchange) partialList(res *resource, l *api.ItemList, write func([]byte)) error {
	version := x.media.version
	m, err := json.Marshal(listMeta(l))
	if err != nil {
		return err
	}
	write([]byte(`{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/` + version + `","metadata":` + string(m) + `,"items":[`))
	var b []byte
	for i, item := range l.Items {
		if i > 0 {
			write(comma)
		}
		if b, err = appendPartial(b[:0], res, item, version); err != nil {
			return err
		}
		write(b)
	}
	write(listEnd)
	return nil
}

func partialKind(version string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: metav1.GroupName, Version: version, Kind: "PartialObjectMetadata"}
}

func partialListKind(version string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: metav1.GroupName, Version: version, Kind: "PartialObjectMetadataList"}
}
