package apiserver

import (
	"bytes"
	"fmt"
	"mime"
	"reflect"
	"strings"

	"github.com/go-json-experiment/json"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
)

// Values of Options.FieldValidation.
const (
	validateStrict = "Strict"
	validateWarn   = "Warn"
	validateIgnore = "Ignore"
)

// A decoder reads the bodies of one request.
type decoder struct {
	gvk      schema.GroupVersionKind // what is wanted
	mode     string                  // of field validation
	warnings []string
}

func newDecoder(gvk schema.GroupVersionKind, o api.Options) (*decoder, error) {
	d := &decoder{gvk: gvk, mode: o.FieldValidation}
	switch d.mode {
	case "":
		d.mode = validateWarn
	case validateStrict, validateWarn, validateIgnore:
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("fieldValidation: Unsupported value: %q: supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"", d.mode))
	}
	return d, nil
}

// decode reads body into obj, an empty object. A body may leave its kind out;
// one of another kind is refused.
func (d *decoder) decode(body []byte, contentType string, obj api.Object) error {
	media := contentType
	if strings.IndexByte(media, ';') >= 0 {
		if m, _, err := mime.ParseMediaType(contentType); err == nil {
			media = m
		}
	}
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	var err error
	var strict []error
	switch media {
	case api.MediaProtobuf:
		err = decodeProtobuf(body, obj)
	case api.MediaYAML, "application/x-yaml", "text/yaml":
		if body, strict, err = d.fromYAML(body); err == nil {
			var more []error
			more, err = d.decodeJSON(body, obj)
			strict = append(strict, more...)
		}
	case api.MediaCBOR:
		if _, ok := obj.(selfReader); ok {
			if body, err = api.CBORToJSON(body); err == nil {
				strict, err = d.decodeJSON(body, obj)
			}
			break
		}
		var kind schema.GroupVersionKind
		if kind, strict, err = api.DecodeCBOR(body, d.gvk, obj, d.mode != validateIgnore); err == nil {
			obj.GetObjectKind().SetGroupVersionKind(kind)
		}
	case api.MediaJSON, "":
		strict, err = d.decodeJSON(body, obj)
	default:
		return unsupported("the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf, application/cbor")
	}
	got := obj.GetObjectKind().GroupVersionKind()
	if err != nil {
		return d.refuse(peek(body, got), err, body)
	}
	if err := d.sameKind(obj, false); err != nil {
		return err
	}
	obj.GetObjectKind().SetGroupVersionKind(d.gvk)
	if len(strict) == 0 || d.mode == validateIgnore {
		return nil
	}
	if d.mode == validateStrict {
		return d.refuse(d.gvk, runtime.NewStrictDecodingError(strict), body)
	}
	for _, e := range strict {
		d.warnings = append(d.warnings, e.Error())
	}
	return nil
}

// sameKind refuses an object of another kind or version. What a patch makes of a
// custom resource is invalid then, not unreadable.
func (d *decoder) sameKind(obj api.Object, patched bool) error {
	got := obj.GetObjectKind().GroupVersionKind()
	_, custom := obj.(selfReader)
	at, was, must := "", "", ""
	switch {
	case !custom || got.Kind == "":
	case got.Kind != d.gvk.Kind && (patched || got.GroupVersion() == d.gvk.GroupVersion()):
		at, was, must = "kind", got.Kind, d.gvk.Kind
	case patched && got.GroupVersion() != d.gvk.GroupVersion():
		at, was, must = "apiVersion", got.GroupVersion().String(), d.gvk.GroupVersion().String()
	}
	if at != "" {
		return apierrors.NewInvalid(schema.GroupKind{Group: d.gvk.Group, Kind: got.Kind}, obj.GetName(),
			field.ErrorList{field.Invalid(field.NewPath(at), was, "must be "+must)})
	}
	if got.Version != "" && got.GroupVersion() != d.gvk.GroupVersion() {
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", got.GroupVersion(), d.gvk.GroupVersion()))
	}
	if got.Kind != "" && got.Kind != d.gvk.Kind {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: the kind in the data does not match the kind of the resource", got.Kind, d.gvk.Version, d.gvk.Kind))
	}
	return nil
}

func (d *decoder) refuse(got schema.GroupVersionKind, err error, body []byte) error {
	if got.Kind != "" {
		version := got.Version
		if version == "" {
			version = d.gvk.Version
		}
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", got.Kind, version, d.gvk.Kind, err))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", d.gvk.Kind, err, summary(body)))
}

// summary is the beginning of a body that nobody could read.
func summary(body []byte) string {
	if len(body) == 0 {
		return "<empty>"
	}
	if len(body) > 30 {
		return fmt.Sprintf("%q ...", body[:30])
	}
	return fmt.Sprintf("%q", body)
}

// peek finds out what a body that could not be decoded was meant to be.
func peek(body []byte, got schema.GroupVersionKind) schema.GroupVersionKind {
	if got.Kind != "" {
		return got
	}
	var t runtime.TypeMeta
	_ = kjson.UnmarshalCaseSensitivePreserveInts(body, &t)
	return schema.FromAPIVersionAndKind(t.APIVersion, t.Kind)
}

func (d *decoder) decodeJSON(body []byte, obj api.Object) (strict []error, err error) {
	if x, ok := obj.(selfReader); ok {
		return x.ReadJSON(body, d.mode != validateIgnore)
	}
	if readsWell(body, obj, d.mode != validateIgnore) {
		return nil, nil
	}
	if d.mode == validateIgnore {
		return nil, kjson.UnmarshalCaseSensitivePreserveInts(body, obj)
	}
	return kjson.UnmarshalStrict(body, obj)
}

// readsWell reads a body that has nothing wrong with it, more than twice as fast
// as the library that can tell what is wrong. If it answers false obj is empty,
// and the body is for that library, whose errors and warnings are Kubernetes'.
// Whatever it reads, both read the same: a fuzz test compares them.
func readsWell(body []byte, obj api.Object, check bool) bool {
	if err := json.Unmarshal(body, obj, json.RejectUnknownMembers(check)); err == nil {
		return true
	}
	reflect.ValueOf(obj).Elem().SetZero()
	return false
}

// A selfReader is an object whose fields a schema tells, not a Go type.
type selfReader interface {
	api.Object
	// ReadJSON reads a body. With check, strict is what does not belong there.
	ReadJSON(body []byte, check bool) (strict []error, err error)
	// SetContent takes over the JSON values of an object.
	SetContent(map[string]any) error
}

func (d *decoder) fromYAML(body []byte) (out []byte, strict []error, err error) {
	if d.mode != validateIgnore {
		if out, err := yaml.YAMLToJSONStrict(body); err == nil {
			return out, nil, nil
		} else {
			strict = append(strict, err)
		}
	}
	out, err = yaml.YAMLToJSON(body)
	return out, strict, err
}

type unmarshaler interface{ Unmarshal([]byte) error }

func decodeProtobuf(body []byte, obj api.Object) error {
	if !bytes.HasPrefix(body, api.ProtobufMagic) {
		return fmt.Errorf("the protobuf message does not begin with %q", api.ProtobufMagic)
	}
	var u runtime.Unknown
	if err := u.Unmarshal(body[len(api.ProtobufMagic):]); err != nil {
		return err
	}
	m, ok := obj.(unmarshaler)
	if !ok {
		return fmt.Errorf("%T has no protobuf form", obj)
	}
	if err := m.Unmarshal(u.Raw); err != nil {
		return err
	}
	obj.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind(u.APIVersion, u.Kind))
	return nil
}

func unsupported(message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: 415, Reason: metav1.StatusReasonUnsupportedMediaType, Message: message,
	}}
}

// body returns the object that a request carries, private to it.
func body(r *api.Request, empty func() api.Object, gvk schema.GroupVersionKind) (api.Object, []string, error) {
	if r.Object != nil {
		api.AsStored(r.Object)
		return r.Object, nil, nil
	}
	if len(r.Body) == 0 {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("the request has no body; a %s is needed", gvk.Kind))
	}
	d, err := newDecoder(gvk, r.Options)
	if err != nil {
		return nil, nil, err
	}
	obj := empty()
	if err := d.decode(r.Body, r.ContentType, obj); err != nil {
		return nil, nil, err
	}
	return obj, d.warnings, nil
}
