// Package crd makes resources of CustomResourceDefinitions: what a kind written
// in Go declares by functions is here derived from a schema. [Define] is cheap;
// schemas, rules and what server-side apply needs are compiled when an object is
// first read or written, and shared by all versions and all later definitions
// that have the same schema. See docs/design/009-custom-resources.md.
package crd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	schemameta "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"
)

// An Object is a custom resource: metadata like every object's, and the rest as
// JSON values. Numbers are int64 or float64.
type Object struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	Fields map[string]any // everything but apiVersion, kind and metadata

	of *version // whose schema it is read by; none if nil
}

// DeepCopyObject returns a copy that shares nothing with o.
func (o *Object) DeepCopyObject() runtime.Object {
	c := &Object{TypeMeta: o.TypeMeta, Fields: runtime.DeepCopyJSON(o.Fields), of: o.of}
	o.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	return c
}

// head is the JSON of an object up to the members of its metadata.
func head(apiVersion, kind string) []byte {
	return fmt.Appendf(nil, `{"apiVersion":%q,"kind":%q,"metadata":{`, apiVersion, kind)
}

// MarshalJSON writes the metadata first and the other fields by name.
func (o *Object) MarshalJSON() ([]byte, error) { return o.appendJSON(nil) }

func (o *Object) appendJSON(dst []byte) ([]byte, error) {
	meta, err := json.Marshal(&o.ObjectMeta)
	if err != nil {
		return nil, err
	}
	dst = append(append(dst, head(o.APIVersion, o.Kind)...), meta[1:]...)
	for _, name := range slices.Sorted(maps.Keys(o.Fields)) {
		key, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		value, err := marshal(o.Fields[name])
		if err != nil {
			return nil, err
		}
		dst = append(append(append(append(dst, ','), key...), ':'), value...)
	}
	return append(dst, '}'), nil
}

// marshal is json.Marshal, without making <, > and & unreadable.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// UnmarshalJSON reads an object as a client wrote it, by its version's schema.
func (o *Object) UnmarshalJSON(body []byte) error {
	_, err := o.ReadJSON(body, false)
	return err
}

// ReadJSON reads an object as a client wrote it: what the schema does not know is
// left out. With check, strict is what was left out, and what is there twice.
func (o *Object) ReadJSON(body []byte, check bool) (strict []error, err error) {
	content := map[string]any{}
	if check {
		strict, err = kjson.UnmarshalStrict(body, &content)
	} else {
		err = kjson.UnmarshalCaseSensitivePreserveInts(body, &content)
	}
	if err != nil {
		return nil, err
	}
	if k, ok := content["kind"]; !ok || k == "" {
		return nil, runtime.NewMissingKindErr(string(body))
	}
	if v, ok := content["apiVersion"]; !ok || v == "" {
		return nil, runtime.NewMissingVersionErr(string(body))
	}
	unknown, err := o.take(content, reading{check: check})
	for _, path := range unknown {
		strict = append(strict, fmt.Errorf("unknown field %q", path))
	}
	return strict, err
}

// reading says how an object is read.
type reading struct {
	check  bool // collect what is unknown
	stored bool // it comes from the store: repair what is wrong
}

// take makes o of the content, which it takes over, and returns the paths of
// what the schema does not know.
func (o *Object) take(content map[string]any, how reading) (unknown []string, err error) {
	var ok bool
	if o.APIVersion, ok = text(content, "apiVersion"); !ok {
		return nil, fmt.Errorf("apiVersion must be a string, not %T", content["apiVersion"])
	}
	if o.Kind, ok = text(content, "kind"); !ok {
		return nil, fmt.Errorf("kind must be a string, not %T", content["kind"])
	}
	meta, _, unknown, err := schemameta.GetObjectMetaWithOptions(content, schemameta.ObjectMetaOptions{
		DropMalformedFields: how.stored, ReturnUnknownFieldPaths: how.check})
	if err != nil {
		return nil, err
	}
	o.ObjectMeta = metav1.ObjectMeta{}
	if meta != nil {
		o.ObjectMeta = *meta
	}
	delete(content, "apiVersion")
	delete(content, "kind")
	delete(content, "metadata")
	o.Fields = content
	if o.of == nil {
		return unknown, nil
	}
	more, err := o.prune(how)
	return append(unknown, more...), err
}

func text(content map[string]any, field string) (s string, ok bool) {
	v, there := content[field]
	if !there {
		return "", true
	}
	s, ok = v.(string)
	return s, ok
}

// UnstructuredContent is the whole object as JSON values, the metadata too. It
// shares the other fields with o.
func (o *Object) UnstructuredContent() map[string]any {
	out := make(map[string]any, len(o.Fields)+3)
	maps.Copy(out, o.Fields)
	out["apiVersion"], out["kind"] = o.APIVersion, o.Kind
	meta, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&o.ObjectMeta)
	if err != nil {
		panic(fmt.Sprintf("metadata as JSON values: %v", err)) // a fixed type
	}
	out["metadata"] = meta
	return out
}

// SetContent makes o of the content, which it takes over, as ReadJSON does.
func (o *Object) SetContent(content map[string]any) error {
	_, err := o.take(content, reading{})
	return err
}

// judged is the content as schemas and rules see it: of the metadata they know
// the name only.
func (o *Object) judged() map[string]any {
	out := make(map[string]any, len(o.Fields)+3)
	maps.Copy(out, o.Fields)
	out["apiVersion"], out["kind"] = o.APIVersion, o.Kind
	meta := map[string]any{"name": o.Name}
	if o.GenerateName != "" {
		meta["generateName"] = o.GenerateName
	}
	out["metadata"] = meta
	return out
}
