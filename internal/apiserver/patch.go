package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"sync"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"proa/internal/api"
)

func (s *Server) patch(ctx context.Context, t *table, r *api.Request) (*api.Response, error) {
	if r.Patch == types.ApplyYAMLPatchType {
		return s.applyPatch(ctx, t, r)
	}
	res := t.asked(r)
	p, err := newPatcher(res.New, res.GVK(), r)
	if err != nil {
		return nil, err
	}
	w := s.writing(t, r)
	item, gone, err := w.edit(ctx, func(old *api.Item) (api.Object, error) {
		have := old.In(res)
		b, err := have.JSON()
		if err != nil {
			return nil, err
		}
		obj, err := p.apply(have.Object(), b)
		if err != nil {
			return nil, err
		}
		switch ns := old.Object().GetNamespace(); {
		case obj.GetName() != r.Name:
			return nil, apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), r.Name))
		case obj.GetNamespace() != ns:
			return nil, apierrors.NewBadRequest(fmt.Sprintf("the namespace of the object (%s) does not match the namespace on the request (%s)", obj.GetNamespace(), ns))
		}
		if res.Hub != nil {
			obj = res.Hub.To(obj)
		}
		if !touchesOwners(r.Body) {
			obj.SetManagedFields(old.Object().GetManagedFields())
		}
		return obj, nil
	}, w.replace)
	if err != nil {
		return nil, err
	}
	w.warnings = append(p.d.warnings, w.warnings...)
	return w.response(http.StatusOK, item, gone), nil
}

// A patcher applies one patch, to as many states as it takes.
type patcher struct {
	r     *api.Request
	empty func() api.Object
	d     *decoder
	list  jsonpatch.Patch                // of a JSON patch
	meta  strategicpatch.LookupPatchMeta // of a strategic merge patch

	strict []error // what the patch itself has besides what belongs there
}

// maxPatchOps bounds the operations of a JSON patch, as Kubernetes does.
const maxPatchOps = 10000

func newPatcher(empty func() api.Object, gvk schema.GroupVersionKind, r *api.Request) (*patcher, error) {
	d, err := newDecoder(gvk, r.Options)
	if err != nil {
		return nil, err
	}
	p := &patcher{r: r, empty: empty, d: d}
	switch r.Patch {
	case types.JSONPatchType:
		if err = p.checkOps(); err != nil {
			return nil, err
		}
		if p.list, err = jsonpatch.DecodePatch(r.Body); err != nil {
			return nil, badPatch(err)
		}
		if len(p.list) > maxPatchOps {
			return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOps, len(p.list)))
		}
	case types.MergePatchType:
		v := map[string]any{}
		if p.strict, err = kjson.UnmarshalStrict(r.Body, &v); err != nil {
			return nil, badPatch(err)
		}
	case types.StrategicMergePatchType:
		if _, ok := empty().(selfReader); ok {
			return nil, unsupported("the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, application/apply-patch+cbor")
		}
		if p.meta, err = patchMeta(empty()); err != nil {
			return nil, err
		}
	default:
		return nil, unsupported(fmt.Sprintf("the patch media type %q is not one of: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml", r.Patch))
	}
	return p, nil
}

func badPatch(err error) error {
	return apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
}

// checkOps looks for what does not belong into the operations of a JSON patch
// (RFC 6902, section 4).
func (p *patcher) checkOps() (err error) {
	if p.d.mode == validateIgnore {
		return nil
	}
	var ops []struct {
		Op    string          `json:"op"`
		Path  string          `json:"path"`
		From  string          `json:"from"`
		Value json.RawMessage `json:"value"`
	}
	if p.strict, err = kjson.UnmarshalStrict(p.r.Body, &ops); err != nil {
		return badPatch(err)
	}
	for i, e := range p.strict {
		p.strict[i] = fmt.Errorf("json patch %w", e)
	}
	return nil
}

// apply returns a new object: old, whose JSON is given, with the patch applied.
func (p *patcher) apply(old api.Object, form []byte) (api.Object, error) {
	p.d.warnings = p.d.warnings[:0]
	if p.r.Patch == types.StrategicMergePatchType {
		return p.strategic(old)
	}
	var err error
	if p.r.Patch == types.JSONPatchType {
		if form, err = p.operate(form); err != nil {
			return nil, unprocessable(err)
		}
	} else if form, err = jsonpatch.MergePatch(form, p.r.Body); err != nil {
		return nil, badPatch(err)
	}
	obj := p.empty()
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	strict, err := p.d.decodeJSON(form, obj)
	if err != nil {
		return nil, invalidPatch(string(form), err)
	}
	return obj, p.finish(obj, string(form), strict)
}

// operate applies a JSON patch. The library panics where a test has no value.
func (p *patcher) operate(form []byte) (out []byte, err error) {
	defer func() {
		if bad := recover(); bad != nil {
			err = fmt.Errorf("an operation is not complete: %v", bad)
		}
	}()
	return p.list.Apply(form)
}

// finish checks the kind of the patched object, and what the patch, or the
// object after it, holds that does not belong there.
func (p *patcher) finish(obj api.Object, form string, strict []error) error {
	if err := p.d.sameKind(obj, true); err != nil {
		return err
	}
	obj.GetObjectKind().SetGroupVersionKind(p.d.gvk)
	if strict = append(slices.Clip(p.strict), strict...); len(strict) == 0 || p.d.mode == validateIgnore {
		return nil
	}
	if p.d.mode == validateStrict {
		return invalidPatch(form, runtime.NewStrictDecodingError(strict))
	}
	for _, e := range strict {
		p.d.warnings = append(p.d.warnings, e.Error())
	}
	return nil
}

// invalidPatch is a patch that leads to an object which cannot be.
func invalidPatch(form string, err error) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), form, err.Error())})
}

func (p *patcher) strategic(old api.Object) (api.Object, error) {
	patch := map[string]any{}
	var strict []error
	var err error
	if p.d.mode == validateIgnore {
		err = kjson.UnmarshalCaseSensitivePreserveInts(p.r.Body, &patch)
	} else {
		strict, err = kjson.UnmarshalStrict(p.r.Body, &patch)
	}
	if err != nil {
		return nil, badPatch(err)
	}
	form, err := runtime.DefaultUnstructuredConverter.ToUnstructured(old)
	if err != nil {
		return nil, err
	}
	merged, err := strategicpatch.StrategicMergeMapPatchUsingLookupPatchMeta(form, patch, p.meta)
	if err != nil {
		if errors.Is(err, mergepatch.ErrBadPatchFormatForPrimitiveList) || errors.Is(err, mergepatch.ErrBadPatchFormatForRetainKeys) ||
			errors.Is(err, mergepatch.ErrBadPatchFormatForSetElementOrderList) || errors.Is(err, mergepatch.ErrUnsupportedStrategicMergePatchFormat) {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return nil, unprocessable(err)
	}
	obj := p.empty()
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	shown := fmt.Sprintf("%+v", patch)
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(merged, obj, p.d.mode != validateIgnore)
	if more, ok := runtime.AsStrictDecodingError(err); ok {
		strict = append(strict, more.Errors()...)
	} else if err != nil {
		return nil, invalidPatch(shown, err)
	}
	return obj, p.finish(obj, shown, strict)
}

// unprocessable is a patch that cannot be applied to the object as it is.
func unprocessable(err error) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid,
		Message: "the server rejected our request due to an error in our request: " + err.Error(),
	}}
}

var patchMetas sync.Map // reflect.Type → strategicpatch.PatchMetaFromStruct

// patchMeta is what a type says about merging its lists.
func patchMeta(obj api.Object) (strategicpatch.LookupPatchMeta, error) {
	typ := reflect.TypeOf(obj)
	if m, ok := patchMetas.Load(typ); ok {
		return m.(strategicpatch.PatchMetaFromStruct), nil
	}
	m, err := strategicpatch.NewPatchMetaFromStruct(obj)
	if err != nil {
		return nil, unsupported(fmt.Sprintf("a strategic merge patch cannot be applied to this kind: %v", err))
	}
	patchMetas.Store(typ, m)
	return m, nil
}
