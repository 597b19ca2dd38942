package apiserver

import (
	"context"
	"fmt"
	"slices"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
)

// sub answers requests on subresources.
func (s *Server) sub(ctx context.Context, r *api.Request) (*api.Response, error) {
	res := r.Resource
	t := s.table(res)
	switch sub := res.Subs[r.Sub]; {
	case t == nil:
	case r.Sub == "status" && res.ServesStatus():
		return s.part(ctx, t, r, []api.Verb{api.Get, api.Update, api.Patch})
	case r.Sub == "scale" && res.Scale != nil:
		return s.scale(ctx, t, r)
	case sub == nil:
	case sub.Part != nil:
		return s.part(ctx, t, r, sub.Verbs)
	case !slices.Contains(sub.Verbs, r.Verb):
		return nil, notAllowed(r)
	default:
		return s.special(ctx, sub, r)
	}
	return nil, apierrors.NewGenericServerResponse(404, string(r.Verb), schema.GroupResource{}, "", "the server could not find the requested resource", 0, true)
}

func notAllowed(r *api.Request) error {
	gr := r.Resource.GroupResource()
	gr.Resource += "/" + r.Sub
	return apierrors.NewMethodNotSupported(gr, string(r.Verb))
}

// part answers for a view of the stored object: status, and what the kind declares.
func (s *Server) part(ctx context.Context, t *table, r *api.Request, verbs []api.Verb) (*api.Response, error) {
	if slices.Contains(verbs, r.Verb) {
		switch r.Verb {
		case api.Get:
			return s.get(ctx, t, r)
		case api.Update:
			return s.update(ctx, t, r)
		case api.Patch:
			return s.patch(ctx, t, r)
		}
	}
	return nil, notAllowed(r)
}

// special hands the request to the subresource's own function.
func (s *Server) special(ctx context.Context, sub *api.Sub, r *api.Request) (*api.Response, error) {
	do := sub.Do
	if do == nil {
		do = s.subs[subKey(r.Resource, r.Sub)]
	}
	if do == nil {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("nothing here answers %s", target(r)))
	}
	q := *r
	var warnings []string
	if sub.In != nil && r.Verb != api.Get {
		in := sub.In()
		gvk, err := subKind(r.Resource, sub)
		if err != nil {
			return nil, err
		}
		if q.Object, warnings, err = body(r, func() api.Object { return in }, gvk); err != nil {
			return nil, err
		}
	}
	resp, err := do(ctx, s, &q)
	if err == nil && len(warnings) > 0 {
		resp.Warnings = append(warnings, resp.Warnings...)
	}
	return resp, err
}

func subKey(res *api.Resource, sub string) string {
	gr := res.GroupResource().String()
	if sub == "" {
		return gr
	}
	return gr + "/" + sub
}

func subKind(res *api.Resource, sub *api.Sub) (schema.GroupVersionKind, error) {
	gvk := res.GVK()
	if sub.API != "" {
		gv, err := schema.ParseGroupVersion(sub.API)
		if err != nil {
			return gvk, err
		}
		gvk = gv.WithKind(gvk.Kind)
	}
	if sub.Kind != "" {
		gvk.Kind = sub.Kind
	}
	return gvk, nil
}

// virtual answers for kinds that are never stored: creates, or reads.
func (s *Server) virtual(ctx context.Context, r *api.Request) (*api.Response, error) {
	res := r.Resource
	do := res.Do
	if do == nil {
		do = s.subs[subKey(res, "")]
	}
	if !r.Verb.Writes() {
		if do == nil {
			do = Components() // of nothing
		}
		return do(ctx, s, r)
	}
	if do == nil {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("nothing here answers %s", target(r)))
	}
	obj, warnings, err := body(r, res.New, res.GVK())
	if err != nil {
		return nil, err
	}
	if res.Scope == api.Namespaced && obj.GetNamespace() == "" {
		obj.SetNamespace(r.Namespace)
	}
	if obj.GetNamespace() != r.Namespace {
		return nil, apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	res.Default(obj)
	res.Prepare(obj, nil)
	if errs := res.Validate(obj, nil); len(errs) > 0 {
		return nil, apierrors.NewInvalid(res.GroupKind(), obj.GetName(), errs)
	}
	q := *r
	q.Object = obj
	resp, err := do(ctx, s, &q)
	if err == nil && len(warnings) > 0 {
		resp.Warnings = append(warnings, resp.Warnings...)
	}
	return resp, err
}

var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// scale answers for the replica counts of an object, as an autoscaling/v1 Scale.
func (s *Server) scale(ctx context.Context, t *table, r *api.Request) (*api.Response, error) {
	if r.Verb == api.Get {
		resp, err := s.get(ctx, t, r)
		if err == nil {
			err = s.present(ctx, t.terms(r), resp)
		}
		if err != nil {
			return nil, err
		}
		if path := t.terms(r).Scale.Path; path != "" && t.terms(r).Scale.Want(resp.Item.Object()) == nil {
			return nil, apierrors.NewInternalError(fmt.Errorf("the spec replicas field %q does not exist", path))
		}
		return &api.Response{Object: scaleIn(t, t.terms(r), resp.Item.Object())}, nil
	}
	if r.Verb == api.Patch && r.Patch == types.ApplyYAMLPatchType {
		return s.applyScale(ctx, t, r)
	}
	var change func(now *autoscalingv1.Scale) (*autoscalingv1.Scale, error)
	var warnings []string
	empty := func() api.Object { return new(autoscalingv1.Scale) }
	switch r.Verb {
	case api.Update:
		in, warn, err := body(r, empty, scaleKind)
		if err != nil {
			return nil, err
		}
		sc, ok := in.(*autoscalingv1.Scale)
		if !ok {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("expected input object type to be Scale, but %T", in))
		}
		warnings = warn
		change = func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error) { return sc, nil }
	case api.Patch:
		p, err := newPatcher(empty, scaleKind, r)
		if err != nil {
			return nil, err
		}
		change = func(now *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
			b, err := api.NewItem(scaleResource, 0, nil, now).JSON()
			if err != nil {
				return nil, err
			}
			out, err := p.apply(now, b)
			if err != nil {
				return nil, err
			}
			return out.(*autoscalingv1.Scale), nil
		}
	default:
		return nil, notAllowed(r)
	}
	q := *r
	q.Sub = "" // the parent is written as a whole
	w := s.writing(t, &q)
	w.scaling = true
	item, _, err := w.edit(ctx, func(old *api.Item) (api.Object, error) {
		sc, err := change(scaleOf(w.res, old.Object()))
		if err != nil {
			return nil, err
		}
		return scaled(w.res, old.Object(), sc)
	}, w.replace)
	if err == nil {
		item, err = s.inVersion(ctx, item, w.res)
	}
	if err != nil {
		return nil, err
	}
	return &api.Response{Object: scaleIn(t, w.res, item.Object()), Warnings: append(warnings, w.warnings...)}, nil
}

var scaleResource = (&api.Kind[*autoscalingv1.Scale]{API: "autoscaling/v1", Resource: "scales", Scope: api.Namespaced}).Def()

func scaleOf(res *api.Resource, o api.Object) *autoscalingv1.Scale {
	sc := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: o.GetName(), Namespace: o.GetNamespace(), UID: o.GetUID(),
			ResourceVersion: o.GetResourceVersion(), CreationTimestamp: o.GetCreationTimestamp(),
		},
		Status: autoscalingv1.ScaleStatus{Replicas: res.Scale.Have(o), Selector: res.Scale.Selector(o)},
	}
	if n := res.Scale.Want(o); n != nil {
		sc.Spec.Replicas = *n
	}
	sc.SetGroupVersionKind(scaleKind)
	return sc
}

// scaled is old with the replicas that sc wants.
func scaled(res *api.Resource, old api.Object, sc *autoscalingv1.Scale) (api.Object, error) {
	var errs field.ErrorList
	if res.Family == nil { // whose own validation knows where its replicas are
		errs = apivalidation.ValidateNonnegativeField(int64(sc.Spec.Replicas), field.NewPath("spec", "replicas"))
	}
	if sc.Name != "" && sc.Name != old.GetName() {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", sc.Name, old.GetName()))
	}
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(scaleKind.GroupKind(), old.GetName(), errs)
	}
	obj := api.Clone(old)
	res.Scale.SetWant(obj, sc.Spec.Replicas)
	obj.SetResourceVersion(sc.ResourceVersion)
	if sc.UID != "" {
		obj.SetUID(sc.UID)
	}
	return obj, nil
}
