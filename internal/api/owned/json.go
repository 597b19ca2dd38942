package owned

import (
	"encoding/json"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AppendJSON appends entries as encoding/json writes them.
func AppendJSON(b []byte, entries []metav1.ManagedFieldsEntry) ([]byte, error) {
	b = append(b, '[')
	for i := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = appendEntry(b, &entries[i]); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

func appendEntry(b []byte, e *metav1.ManagedFieldsEntry) ([]byte, error) {
	text, ready := "", e.FieldsV1 != nil
	if ready {
		text = e.FieldsV1.GetRawString()
		ready = compact(text)
	}
	if !ready || e.Time == nil || e.Time.IsZero() || !plain(e.Manager) || !plain(e.APIVersion) || !plain(e.Subresource) {
		whole, err := json.Marshal(e)
		return append(b, whole...), err
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
	member(`"fieldsType":"`, e.FieldsType)
	b = append(append(b, `,"fieldsV1":`...), text...)
	member(`"subresource":"`, e.Subresource)
	return append(b, '}'), nil
}

// compact says whether a set of fields is as encoding/json would write it:
// without spaces, and with nothing in it that has to be escaped.
func compact(s string) bool {
	if len(s) < 2 || s[0] != '{' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == '<' || c == '>' || c == '&' || c >= 0x7f {
			return false
		}
	}
	return true
}
