package apiserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/apiserver/admit"
	"proa/internal/store"
	"proa/internal/store/planted"
)

// The write path. Each function below takes an object through the steps of
// Kubernetes in their order:
//
//	decode, defaults, admission that changes, defaults again
//	the server's own metadata, the kind's Prepare, reservations (addresses, ports)
//	validation of metadata and kind, admission that refuses
//	encode, compare and swap; after a lost race all of it again, from the new state
//
// Field ownership (metadata.managedFields) is settled before the server itself
// fills anything in: see own.go.

// retries is how often a write that may be made on any state is tried.
const retries = 50

// A writing is one write request on its way.
type writing struct {
	s        *Server
	t        *table
	res      *api.Resource // the table's, or the version of a custom resource that the request is in
	r        *api.Request
	key      string
	warnings []string
	made     []func(bool) // reservations to be settled
	scaling  bool         // the write is for the scale
}

func (s *Server) writing(t *table, r *api.Request) *writing {
	return &writing{s: s, t: t, res: t.terms(r), r: r, key: t.key(r.Namespace, r.Name)}
}

// attributes are what the admission steps see.
func (w *writing) attributes(verb api.Verb, obj, old api.Object) *admit.Attributes {
	a := &admit.Attributes{
		Verb: verb, Resource: w.res, Sub: w.r.Sub, Namespace: w.r.Namespace, Name: w.r.Name,
		New: obj, Old: old, User: w.r.User, Options: w.r.Options, State: state{w.s.Snapshot, w.s},
	}
	if obj != nil {
		a.Name = obj.GetName()
	}
	return a
}

// admit runs the steps that refuse early and those that change.
func (w *writing) admit(ctx context.Context, a *admit.Attributes) error {
	for _, st := range w.t.steps {
		if st.Admit != nil && st.Runs(a) {
			if err := st.Admit(ctx, a); err != nil {
				return err
			}
		}
	}
	changed := false
	for _, st := range w.t.steps {
		if st.Mutate == nil || !st.Runs(a) {
			continue
		}
		if err := st.Mutate(ctx, a); err != nil {
			return err
		}
		changed = true
	}
	if changed {
		w.res.Default(a.New)
	}
	return nil
}

func (w *writing) reserve(ctx context.Context, a *admit.Attributes) error {
	for _, st := range w.t.steps {
		if st.Reserve == nil || !st.Runs(a) {
			continue
		}
		settle, err := st.Reserve(ctx, a)
		if settle != nil {
			w.made = append(w.made, settle)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// doubtful is how long what a write has reserved stays reserved when nobody
// knows whether the write was made. By then the state shows it.
const doubtful = 30 * time.Second

// settle ends the reservations of one attempt.
func (w *writing) settle(err error) {
	if len(w.made) == 0 {
		return
	}
	list := w.made
	w.made = nil
	end := func() {
		for _, f := range list {
			f(err == nil && !w.r.Options.DryRun)
		}
	}
	var status apierrors.APIStatus
	var lost *store.ConflictError
	if err == nil || errors.As(err, &status) || errors.As(err, &lost) {
		end()
	} else {
		time.AfterFunc(doubtful, end)
	}
}

// permit runs the steps that refuse.
func (w *writing) permit(ctx context.Context, a *admit.Attributes) error {
	for _, st := range w.t.steps {
		if st.Validate == nil || !st.Runs(a) {
			continue
		}
		if err := st.Validate(ctx, a); err != nil {
			return err
		}
	}
	w.warnings = append(w.warnings, a.Warnings...)
	return nil
}

func (w *writing) invalid(name string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(w.res.GroupKind(), name, errs)
}

var metadata = field.NewPath("metadata")

// insert takes a decoded object and stores it as a new one.
func (w *writing) insert(ctx context.Context, obj api.Object) (item *api.Item, err error) {
	res, verb := w.res, api.Create
	defer func() { w.settle(err) }()
	w.key = w.t.key(obj.GetNamespace(), obj.GetName())
	res.Default(obj)
	a := w.attributes(verb, obj, nil)
	noted := admit.Note(obj, w.t.steps, a)
	if f := res.Family; f != nil && f.Terminating() {
		return nil, apierrors.NewForbidden(w.r.Resource.GroupResource(), obj.GetName(), errTerminating)
	}
	if err := w.admit(ctx, a); err != nil {
		return nil, err
	}
	w.begin(obj)
	w.ownNew(obj, noted.Filled(obj))
	before := w.before(obj, res.Fills)
	res.Prepare(obj, nil)
	if err := w.reserve(ctx, a); err != nil {
		return nil, err
	}
	w.unowned(obj, before)
	var errs field.ErrorList
	inFull(obj, func() {
		errs = apivalidation.ValidateObjectMetaAccessor(obj, res.Scope == api.Namespaced, res.ValidName, metadata)
	})
	if err := w.invalid(obj.GetName(), append(errs, w.rules()(obj, nil)...)); err != nil {
		return nil, err
	}
	if err := w.permit(ctx, a); err != nil {
		return nil, err
	}
	w.warnings = append(w.warnings, res.Warn(obj, nil)...)
	name := obj.GetName()
	body, kept, err := w.encode(ctx, obj)
	if err != nil {
		return nil, err
	}
	if w.r.Options.DryRun {
		if w.s.item(w.t, w.key) != nil {
			return nil, apierrors.NewAlreadyExists(w.r.Resource.GroupResource(), name)
		}
		return api.NewItem(res, 0, nil, obj), nil
	}
	obj = kept
	item, err = w.s.write(ctx, w.t, w.key, store.Op{Value: body, Expect: store.Absent, User: w.r.User.Name, Weight: w.weight(obj, nil)}, obj)
	var lost *store.ConflictError
	if errors.As(err, &lost) {
		return nil, apierrors.NewAlreadyExists(w.r.Resource.GroupResource(), name)
	}
	return item, err
}

// begin sets the metadata that the server gives to a new object.
func (w *writing) begin(obj api.Object) {
	res := w.res
	obj.SetUID(w.s.uid())
	obj.SetCreationTimestamp(metav1.NewTime(w.s.clock.Now()).Rfc3339Copy())
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
	obj.SetResourceVersion("")
	obj.SetGeneration(0)
	if res.Generation {
		obj.SetGeneration(1)
	}
	if res.HasStatus {
		res.CopyStatus(obj, res.New())
	}
}

// replace takes an object that the caller may not touch any more and stores it
// in the place of old. gone says that it was the last thing a deleted object
// waited for. A lost race is a *store.ConflictError.
func (w *writing) replace(ctx context.Context, was *api.Item, obj api.Object) (item *api.Item, gone bool, err error) {
	old, res := was.Object(), w.res
	defer func() { w.settle(err) }()
	if err := w.sameObject(obj, old); err != nil {
		return nil, false, err
	}
	res.Default(obj)
	a := w.attributes(api.Update, obj, old)
	if err := w.admit(ctx, a); err != nil {
		return nil, false, err
	}
	other := w.keep(obj, old)
	validate := w.merge(obj, old)
	w.own(obj, old)
	if w.r.Sub == "" {
		before := w.before(obj, false)
		if err := w.reserve(ctx, a); err != nil {
			return nil, false, err
		}
		w.unowned(obj, before)
	}
	obj.SetResourceVersion(old.GetResourceVersion())
	var errs field.ErrorList
	if other != "" {
		errs = append(errs, field.Invalid(metadata.Child("uid"), other, apivalidation.FieldImmutableErrorMsg))
	}
	inFull(obj, func() { errs = append(errs, apivalidation.ValidateObjectMetaAccessorUpdate(obj, old, metadata)...) })
	errs = append(errs, apivalidation.ValidateFinalizers(obj.GetFinalizers(), metadata.Child("finalizers"))...)
	if err := w.invalid(obj.GetName(), append(errs, validate(obj, old)...)); err != nil {
		return nil, false, err
	}
	if err := w.permit(ctx, a); err != nil {
		return nil, false, err
	}
	if w.r.Sub == "" {
		w.warnings = append(w.warnings, res.Warn(obj, old)...)
	}
	return w.swap(ctx, was, obj)
}

// sameObject checks that the new state is meant for the old one, at its version.
// What a patch makes of the UID is left to validation.
func (w *writing) sameObject(obj, old api.Object) error {
	res := w.r.Resource
	if rv := obj.GetResourceVersion(); rv != "" && rv != "0" && rv != old.GetResourceVersion() && !planted.Is("api-update-overwrites") {
		return conflict(res, w.r.Name)
	}
	if uid := obj.GetUID(); w.r.Verb != api.Patch && uid != "" && uid != old.GetUID() {
		//lint:ignore ST1005 the text is Kubernetes'
		err := fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", uid, old.GetUID())
		return apierrors.NewConflict(res.GroupResource(), w.r.Name, err)
	}
	return nil
}

// keep puts back the metadata that no update changes. It answers the UID if it
// was another.
func (w *writing) keep(obj, old api.Object) (other types.UID) {
	if uid := obj.GetUID(); uid != old.GetUID() {
		other = uid
	}
	obj.SetUID(old.GetUID())
	obj.SetCreationTimestamp(old.GetCreationTimestamp())
	if old.GetDeletionTimestamp() != nil { // else validation refuses what the client says
		obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	}
	if old.GetDeletionGracePeriodSeconds() != nil {
		obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	}
	obj.SetGeneration(old.GetGeneration())
	obj.SetSelfLink("")
	return other
}

// merge puts back what the write may not change, by the subresource that it is
// for, counts the generation, and returns the kind's validation for it.
func (w *writing) merge(obj, old api.Object) func(obj, old api.Object) field.ErrorList {
	res := w.res
	grow := func() {
		if res.Generation && !res.SpecEqual(obj, old) {
			obj.SetGeneration(old.GetGeneration() + 1)
		}
	}
	switch sub := res.Subs[w.r.Sub]; {
	case w.r.Sub == "status":
		res.CopySpec(obj, old)
		obj.SetOwnerReferences(old.GetOwnerReferences())
		res.PrepareStatus(obj, old)
		return res.ValidateStatus
	case w.r.Sub != "" && sub != nil && sub.Part != nil:
		sub.Part.Prepare(obj, old)
		if sub.Part.Spec {
			grow()
		}
		return sub.Part.Validate
	}
	if res.HasStatus {
		res.CopyStatus(obj, old)
	}
	res.Prepare(obj, old)
	grow()
	return w.rules()
}

// rules is the kind's validation in the version that the request is in.
func (w *writing) rules() func(obj, old api.Object) field.ErrorList {
	if h := w.t.asked(w.r).Hub; h != nil {
		return h.Validate
	}
	return w.res.Validate
}

// swap stores obj in the place of was, or removes it if nothing holds it any more.
func (w *writing) swap(ctx context.Context, was *api.Item, obj api.Object) (item *api.Item, gone bool, err error) {
	res := w.res
	if gone = done(res, obj); gone {
		if w.r.Options.DryRun {
			return api.NewItem(res, was.Revision, nil, obj), true, nil
		}
		rev, err := w.remove(ctx, was)
		return api.NewItem(res, rev, nil, obj), true, err
	}
	obj.SetResourceVersion("")
	body, kept, err := w.encode(ctx, obj)
	if err != nil {
		return nil, false, err
	}
	if have, err := was.Stored().Body(); err == nil && bytes.Equal(have, body) {
		return was, false, nil
	}
	if w.r.Options.DryRun {
		return api.NewItem(res, was.Revision, nil, obj), false, nil
	}
	obj = kept
	item, err = w.s.write(ctx, w.t, w.key, store.Op{Value: body, Expect: was.Revision, User: w.r.User.Name, Weight: w.weight(obj, was.Object())}, obj)
	return item, false, err
}

var errTerminating = errors.New("create not allowed while custom resource definition is terminating")

// encode makes the stored form, and the object that is stored: obj itself, or
// what a custom resource is in the version for storage.
func (w *writing) encode(ctx context.Context, obj api.Object) ([]byte, api.Object, error) {
	if w.res.Family != nil {
		w.res.Default(obj) // of what it has lost on the way, as it would be when read
		objs, err := w.s.convert(ctx, []api.Object{obj}, w.t.res)
		if err != nil {
			return nil, nil, err
		}
		if obj = objs[0]; w.t.res != w.res {
			w.t.res.Default(obj) // likewise; what it shares with the other has the same defaults
		}
	}
	api.AsStored(obj) // what the server itself has put in, too
	body, err := w.t.res.Codec.Encode(obj)
	if err == nil {
		w.t.res.Settle(obj, body)
	}
	return body, obj, err
}

// done says whether an object that is being deleted has nothing left to wait for.
func done(res *api.Resource, obj api.Object) bool {
	grace := obj.GetDeletionGracePeriodSeconds()
	return obj.GetDeletionTimestamp() != nil && len(obj.GetFinalizers()) == 0 && (grace == nil || *grace == 0) && !res.Held(obj)
}

// remove takes an object out of the store, and returns the revision of that.
func (w *writing) remove(ctx context.Context, was *api.Item) (int64, error) {
	item, err := w.s.write(ctx, w.t, w.key, store.Op{Delete: true, Expect: was.Revision, User: w.r.User.Name, Weight: w.weight(was.Object(), nil)}, nil)
	if err != nil {
		return 0, err
	}
	return item.Revision, nil
}

// edit changes an object: change makes the new state from the old one, which it
// must not touch. It is called again after a lost race.
func (w *writing) edit(ctx context.Context, change func(old *api.Item) (api.Object, error),
	put func(context.Context, *api.Item, api.Object) (*api.Item, bool, error)) (*api.Item, bool, error) {
	for try := 0; ; try++ {
		was := w.s.item(w.t, w.key)
		if was == nil {
			return nil, false, apierrors.NewNotFound(w.r.Resource.GroupResource(), w.r.Name)
		}
		was, err := w.s.inVersion(ctx, was, w.res)
		if err != nil {
			return nil, false, err
		}
		w.warnings = w.warnings[:0]
		obj, err := change(was)
		if err != nil {
			return nil, false, err
		}
		item, gone, err := put(ctx, was, obj)
		var lost *store.ConflictError
		if !errors.As(err, &lost) {
			return item, gone, err
		}
		if try == retries {
			return nil, false, conflict(w.r.Resource, w.r.Name)
		}
	}
}

// response is the answer to a write of one object.
func (w *writing) response(code int, item *api.Item, gone bool) *api.Response {
	return &api.Response{Code: code, Item: item, Deleted: gone, Warnings: slices.Clone(w.warnings)}
}

// Mutate changes the object that r names: see [api.Env].
func (s *Server) Mutate(ctx context.Context, r *api.Request, change func(old api.Object) (api.Object, error)) (*api.Item, error) {
	t := s.table(r.Resource)
	if t == nil {
		return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
	}
	w := s.writing(t, r)
	item, _, err := w.edit(ctx, func(old *api.Item) (api.Object, error) {
		obj, err := change(api.Shallow(old.Object()))
		if err == nil {
			w.unowned(obj, old.Object())
		}
		return obj, err
	}, w.swap)
	if err != nil {
		return nil, s.statusError(r, err)
	}
	return item, nil
}
