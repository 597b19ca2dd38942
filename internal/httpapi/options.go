package httpapi

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	listvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
)

// options reads what the query, and the body of a delete, say about a request.
func (x *exchange) options(r *api.Request) error {
	var q url.Values
	if x.req.URL.RawQuery != "" {
		q = x.req.URL.Query()
	}
	switch r.Verb {
	case api.List, api.Watch:
		return listOptions(r, q)
	case api.Get:
		r.At.ResourceVersion = q.Get("resourceVersion")
		if r.Past != nil {
			return pastOptions(r.Past, q)
		}
		return nil
	case api.DeleteCollection:
		if err := listOptions(r, q); err != nil {
			return err
		}
		return x.deleteOptions(r, q)
	case api.Delete:
		return x.deleteOptions(r, q)
	case api.Create:
		var o metav1.CreateOptions
		if q != nil {
			if err := metav1.Convert_url_Values_To_v1_CreateOptions(&q, &o, nil); err != nil {
				return apierrors.NewBadRequest(err.Error())
			}
		}
		return x.writeOptions(r, "CreateOptions", metavalidation.ValidateCreateOptions(&o), o.FieldManager, o.DryRun, o.FieldValidation)
	case api.Update:
		var o metav1.UpdateOptions
		if q != nil {
			if err := metav1.Convert_url_Values_To_v1_UpdateOptions(&q, &o, nil); err != nil {
				return apierrors.NewBadRequest(err.Error())
			}
		}
		return x.writeOptions(r, "UpdateOptions", metavalidation.ValidateUpdateOptions(&o), o.FieldManager, o.DryRun, o.FieldValidation)
	case api.Patch:
		var o metav1.PatchOptions
		if q != nil {
			if err := metav1.Convert_url_Values_To_v1_PatchOptions(&q, &o, nil); err != nil {
				return apierrors.NewBadRequest(err.Error())
			}
		}
		r.Options.Force = o.Force != nil && *o.Force
		if err := applyFromCBOR(r); err != nil {
			return err
		}
		return x.writeOptions(r, "PatchOptions", metavalidation.ValidatePatchOptions(&o, r.Patch), o.FieldManager, o.DryRun, o.FieldValidation)
	}
	return nil
}

// applyFromCBOR makes an apply in CBOR one in JSON, which is YAML.
func applyFromCBOR(r *api.Request) error {
	if r.Patch != types.ApplyCBORPatchType {
		return nil
	}
	b, err := api.CBORToJSON(r.Body)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	r.Body, r.Patch, r.ContentType = b, types.ApplyYAMLPatchType, string(types.ApplyYAMLPatchType)
	return nil
}

func (x *exchange) writeOptions(r *api.Request, kind string, errs field.ErrorList, who string, dry []string, validation string) error {
	if len(errs) > 0 {
		return invalidOptions(kind, errs)
	}
	if who == "" {
		who = agent(x.req)
	}
	r.Options.FieldManager, r.Options.DryRun, r.Options.FieldValidation = who, len(dry) > 0, validation
	return nil
}

func invalidOptions(kind string, errs field.ErrorList) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}

// agent is the field manager of a client that names none: how its User-Agent
// begins, what is not printable left out.
func agent(req *http.Request) string {
	name, _, _ := strings.Cut(req.UserAgent(), "/")
	if name == "" {
		return "unknown"
	}
	const most = 128
	out := make([]rune, 0, len(name))
	size := 0
	for _, c := range name {
		if c < 0x20 || c == 0x7f || size+len(string(c)) > most {
			continue
		}
		size += len(string(c))
		out = append(out, c)
	}
	return string(out)
}

func listOptions(r *api.Request, q url.Values) error {
	var o metav1.ListOptions
	if q != nil {
		if err := metav1.Convert_url_Values_To_v1_ListOptions(&q, &o, nil); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
	}
	if err := checkListOptions(r, &o); err != nil {
		return err
	}
	if o.LabelSelector != "" {
		sel, err := labels.Parse(o.LabelSelector)
		if err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
		r.Select.Labels = sel
	}
	sel, err := fieldSelector(r.Resource, o.FieldSelector)
	if err != nil {
		return err
	}
	if r.Name != "" { // /watch/.../name
		if sel != nil && !sel.Empty() {
			if name, ok := sel.RequiresExactMatch("metadata.name"); !ok || name != r.Name {
				return apierrors.NewBadRequest("fieldSelector metadata.name doesn't match requested name")
			}
		} else {
			sel = fields.OneTermEqualSelector("metadata.name", r.Name)
		}
		r.Name = ""
	}
	r.Select.Fields = sel
	r.At = api.Version{
		ResourceVersion: o.ResourceVersion, Match: o.ResourceVersionMatch, Limit: max(o.Limit, 0), Continue: o.Continue,
		Bookmarks: o.AllowWatchBookmarks, SendInitialEvents: o.SendInitialEvents,
	}
	if o.TimeoutSeconds != nil && *o.TimeoutSeconds > 0 {
		r.At.Timeout = time.Duration(*o.TimeoutSeconds) * time.Second
	}
	return nil
}

// checkListOptions sets what a watch that names no state begins with, the state
// as it is (KEP-3157), and refuses options that contradict each other.
func checkListOptions(r *api.Request, o *metav1.ListOptions) error {
	in := internalversion.ListOptions{
		Watch:                r.Verb == api.Watch,
		ResourceVersion:      o.ResourceVersion,
		ResourceVersionMatch: o.ResourceVersionMatch,
		SendInitialEvents:    o.SendInitialEvents,
		Continue:             o.Continue,
	}
	internalversion.SetListOptionsDefaults(&in, true)
	if errs := listvalidation.ValidateListOptions(&in, true); len(errs) > 0 {
		return invalidOptions("ListOptions", errs)
	}
	o.SendInitialEvents, o.ResourceVersionMatch = in.SendInitialEvents, in.ResourceVersionMatch
	return nil
}

// fieldSelector parses a field selector and checks its names against the resource.
func fieldSelector(res *api.Resource, s string) (fields.Selector, error) {
	if s == "" {
		return nil, nil
	}
	sel, err := fields.ParseSelector(s)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	for _, q := range sel.Requirements() {
		if err := res.SupportsField(q.Field); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	return sel, nil
}

// deleteOptions come in the body, or, if there is none, in the query.
func (x *exchange) deleteOptions(r *api.Request, q url.Values) error {
	var o metav1.DeleteOptions
	switch {
	case len(r.Body) > 0:
		if err := decodeDeleteOptions(r.ContentType, r.Body, &o); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
	case q != nil:
		if err := metav1.Convert_url_Values_To_v1_DeleteOptions(&q, &o, nil); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
	}
	r.Body, r.ContentType = nil, ""
	if errs := metavalidation.ValidateDeleteOptions(&o); len(errs) > 0 {
		return invalidOptions("DeleteOptions", errs)
	}
	r.Options.DryRun, r.Options.GracePeriod, r.Options.Propagation = len(o.DryRun) > 0, o.GracePeriodSeconds, o.PropagationPolicy
	if p := o.Preconditions; p != nil {
		r.Options.UID, r.Options.ResourceVersion = p.UID, p.ResourceVersion
	}
	if orphan := o.OrphanDependents; orphan != nil { //nolint:staticcheck // old clients still send it
		x.cascades = !*orphan
		way := metav1.DeletePropagationBackground
		if *orphan {
			way = metav1.DeletePropagationOrphan
		}
		r.Options.Propagation = &way
	}
	return nil
}

func decodeDeleteOptions(typ string, body []byte, o *metav1.DeleteOptions) error {
	switch mediaOf(typ) {
	case api.MediaProtobuf:
		var u runtime.Unknown
		if err := unwrap(body, &u); err != nil {
			return err
		}
		if u.Kind != "" && u.Kind != "DeleteOptions" {
			return fmt.Errorf("decoded object cannot be converted to DeleteOptions: it is a %s", u.Kind)
		}
		return o.Unmarshal(u.Raw)
	case api.MediaCBOR:
		if err := decodeCBORDeleteOptions(body, o); err != nil {
			return err
		}
	default:
		if mediaOf(typ) == api.MediaYAML {
			var err error
			if body, err = yaml.YAMLToJSON(body); err != nil {
				return err
			}
		}
		if err := kjson.UnmarshalCaseSensitivePreserveInts(body, o); err != nil {
			return err
		}
	}
	if o.Kind != "" && o.Kind != "DeleteOptions" {
		return fmt.Errorf("decoded object cannot be converted to DeleteOptions: it is a %s", o.Kind)
	}
	return nil
}

// patchTypes is what a patch may come as.
var patchTypes = []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType, types.ApplyCBORPatchType}
