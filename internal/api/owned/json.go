package owned

import (
	"encoding/json"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AppendJSON appends the entries of obj, a pointer to a struct, as clients see
// them (see [Full]) and as encoding/json writes them. It makes no lists of fields
// on the way. What it appends is empty if there is nothing to show.
func AppendJSON(b []byte, have []metav1.ManagedFieldsEntry, obj any, status bool, shared Shared) ([]byte, error) {
	if len(have) > 1 && AnyShort(have) {
		have = slices.Clone(have)
		Arrange(have)
	}
	start := len(b)
	for i := range have {
		mark := len(b)
		if b = append(b, '['); mark > start {
			b[mark] = ','
		}
		out, shown, err := appendEntry(b, &have[i], obj, status, shared)
		if err != nil {
			return nil, err
		}
		if b = out; !shown {
			b = b[:mark]
		}
	}
	if len(b) > start {
		b = append(b, ']')
	}
	return b, nil
}

// appendEntry appends one entry. shown is false if there is nothing to it.
func appendEntry(b []byte, e *metav1.ManagedFieldsEntry, obj any, status bool, shared Shared) (out []byte, shown bool, err error) {
	start := len(b)
	slow := func() ([]byte, bool, error) {
		list := Full([]metav1.ManagedFieldsEntry{*e}, obj, status, shared)
		if len(list) == 0 {
			return b[:start], false, nil
		}
		whole, err := json.Marshal(&list[0])
		return append(b[:start], whole...), true, err
	}
	short := Short(e)
	if !short && e.FieldsV1 == nil || e.Time == nil || e.Time.IsZero() || !plain(e.Manager) || !plain(e.APIVersion) || !plain(e.Subresource) {
		return slow()
	}
	member := func(name, value string) {
		if value == "" {
			return
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(append(append(b, name...), value...), '"')
	}
	b = append(b, '{')
	member(`"manager":"`, e.Manager)
	member(`"operation":"`, string(e.Operation))
	member(`"apiVersion":"`, e.APIVersion)
	var at [len(time.RFC3339) + 8]byte
	member(`"time":"`, string(e.Time.UTC().AppendFormat(at[:0], time.RFC3339)))
	member(`"fieldsType":"`, full)
	b = append(b, `,"fieldsV1":`...)
	fields := len(b)
	if short {
		b = appendPaths(b, obj, shared.of(e.FieldsV1.GetRawString(), status), shared.Key)
	} else {
		b = append(b, e.FieldsV1.GetRawString()...)
	}
	switch {
	case short && len(b) == fields:
		return b[:start], false, nil
	case !compact(b[fields:]):
		return slow()
	}
	member(`"subresource":"`, e.Subresource)
	return append(b, '}'), true, nil
}

// compact says whether a set of fields is as encoding/json would write it:
// without spaces, and with nothing in it that has to be escaped.
func compact(s []byte) bool {
	if len(s) < 2 || s[0] != '{' {
		return false
	}
	for _, c := range s {
		if c <= ' ' || c == '<' || c == '>' || c == '&' || c >= 0x7f {
			return false
		}
	}
	return true
}
