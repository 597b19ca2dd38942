package apiserver

import (
	"bytes"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/api/owned"
)

// Every write is recorded in metadata.managedFields: who, by which verb and
// subresource, when, and which fields are his since. See docs/design/007-ownership.md
// for how that is kept so that it costs next to nothing.

// applies says whether the write is a server-side apply, whose ownership the library settles.
func (w *writing) applies() bool {
	return w.r.Verb == api.Patch && w.r.Patch == types.ApplyYAMLPatchType
}

// writer is who writes.
func (w *writing) writer() owned.Writer {
	return owned.Writer{Manager: manager(w.r), APIVersion: w.res.GroupVersion().String(), Subresource: w.part(),
		Time: metav1.NewTime(w.s.clock.Now()).Rfc3339Copy()}
}

// part is the subresource that the write is for.
func (w *writing) part() string {
	if w.scaling {
		return "scale"
	}
	return w.r.Sub
}

// ownNew makes the one who creates obj the owner of all that is in it now, but
// for what was filled in for him.
func (w *writing) ownNew(obj api.Object, filled owned.Set) {
	if w.applies() {
		return
	}
	if w.res.Family != nil {
		w.ownSlowly(obj, w.res.New())
		return
	}
	if reset(obj.GetManagedFields()) {
		obj.SetManagedFields(nil)
	}
	if sent := obj.GetManagedFields(); owned.Valid(sent) {
		// As if it had been there with these owners, and were now written.
		obj.SetManagedFields(nil)
		d := owned.Compare(w.res.New(), obj)
		w.setOwners(obj, owned.Update(sent, &d, w.writer(), obj, w.res.HasStatus))
		return
	}
	if w.foreign(nil) {
		w.ownSlowly(obj, w.res.New())
		return
	}
	obj.SetManagedFields(owned.Create(w.writer(), filled))
}

// foreign says whether fields must be told apart in another version than the
// stored one, because the request or an entry is in one.
func (w *writing) foreign(have []metav1.ManagedFieldsEntry) bool {
	if len(w.t.views) == 0 {
		return false
	}
	hub := w.res.GroupVersion().String()
	return w.t.asked(w.r).Hub != nil || slices.ContainsFunc(have, func(e metav1.ManagedFieldsEntry) bool { return e.APIVersion != hub })
}

// ownSlowly lets the library settle it, which converts between versions.
func (w *writing) ownSlowly(obj, old api.Object) {
	m, err := w.s.owners.of(w.t, w.t.asked(w.r), w.part())
	if err != nil {
		w.s.log.Error("field ownership is not kept", "kind", w.res.Kind, "error", err)
		return
	}
	obj.GetObjectKind().SetGroupVersionKind(w.res.GVK())
	before := old.GetManagedFields()
	if _, err := m.Update(old, obj, manager(w.r)); err != nil {
		// Most often it is what validation will refuse in a moment.
		w.s.log.Debug("field ownership is left as it was", "kind", w.res.Kind, "name", obj.GetName(), "error", err)
		obj.SetManagedFields(before)
	}
}

// own settles whom the fields belong to after an update of old to obj.
func (w *writing) own(obj, old api.Object) {
	if w.applies() {
		if now := obj.GetManagedFields(); sameOwners(now, w.res.Owners(old)) {
			obj.SetManagedFields(old.GetManagedFields())
		}
		return
	}
	if w.res.Family != nil {
		w.ownSlowly(obj, api.Shallow(old))
		return
	}
	have := w.owners(obj.GetManagedFields(), old)
	obj.SetManagedFields(nil)
	if len(have) == 0 {
		return // nobody's: it stays so until somebody applies
	}
	if w.foreign(have) {
		live := api.Clone(old)
		live.SetManagedFields(have)
		live.SetManagedFields(w.res.Owners(live))
		w.ownSlowly(obj, live)
		if equalOwners(obj.GetManagedFields(), live.GetManagedFields()) {
			obj.SetManagedFields(have)
		}
		return
	}
	d := owned.Compare(old, obj)
	w.setOwners(obj, owned.Update(have, &d, w.writer(), old, w.res.HasStatus))
}

func (w *writing) setOwners(obj api.Object, list []metav1.ManagedFieldsEntry) {
	if owned.Crowded(list) {
		list = owned.Cap(owned.Full(list, obj, w.res.HasStatus, owned.Shared{}))
	}
	if len(list) == 0 {
		list = nil
	}
	obj.SetManagedFields(list)
}

// owners are the entries that a write starts from: what the client sent, if it
// changed them, or those of the object.
func (w *writing) owners(sent []metav1.ManagedFieldsEntry, old api.Object) []metav1.ManagedFieldsEntry {
	have := old.GetManagedFields()
	switch {
	case w.part() != "":
		return have
	case reset(sent):
		return nil
	case len(sent) == 0 || equalOwners(sent, have):
		return have
	case !owned.Valid(sent) || owned.AnyShort(have) && equalOwners(sent, w.res.Owners(old)):
		return have
	}
	return sent
}

// reset says whether a client wants all entries forgotten: [] or [{}].
func reset(sent []metav1.ManagedFieldsEntry) bool {
	return sent != nil && len(sent) == 0 || len(sent) == 1 && sent[0] == metav1.ManagedFieldsEntry{}
}

func equalOwners(a, b []metav1.ManagedFieldsEntry) bool {
	if !sameOwners(a, b) {
		return false
	}
	for i := range a {
		if !a[i].Time.Equal(b[i].Time) {
			return false
		}
	}
	return true
}

// unowned records that what the server itself changed from before to obj is nobody's.
func (w *writing) unowned(obj, before api.Object) {
	have := before.GetManagedFields()
	if before == obj || !owned.AnyShort(have) {
		return
	}
	d := owned.Compare(before, obj)
	list, ok := owned.Foreign(have, &d, w.res.HasStatus)
	if !ok {
		list = w.res.Owners(before)
	}
	obj.SetManagedFields(list)
}

// before returns the object as its writer made it, if the kind or a step may yet
// fill something in: obj itself if not.
func (w *writing) before(obj api.Object, fills bool) api.Object {
	for _, st := range w.t.steps {
		fills = fills || st.Reserve != nil && !st.Keeps
	}
	if !fills || !owned.AnyShort(obj.GetManagedFields()) {
		return obj
	}
	return api.Clone(obj)
}

// inFull calls f while obj has no entries of the short form, which validation
// does not know.
func inFull(obj api.Object, f func()) {
	if list := obj.GetManagedFields(); owned.AnyShort(list) {
		obj.SetManagedFields(nil)
		defer obj.SetManagedFields(list)
	}
	f()
}

// longestManager is how long the name of a writer may be, in bytes.
const longestManager = 128

// manager is the name under which a write owns fields: the one that the caller
// gives, or the program's.
func manager(r *api.Request) string {
	name := r.Options.FieldManager
	switch {
	case name != "":
	case r.HTTP != nil:
		name = program(r.HTTP.UserAgent())
	case strings.HasPrefix(r.User.Name, "system:node:"):
		name = "kubelet"
	default:
		name = program(strings.TrimPrefix(r.User.Name, "system:"))
	}
	if name == "" {
		return "unknown"
	}
	return name
}

// program is what a user agent begins with, as far as it can be printed.
func program(agent string) string {
	name, _, _ := strings.Cut(agent, "/")
	var b strings.Builder
	for _, c := range name {
		if !unicode.IsPrint(c) {
			continue
		}
		if b.Len()+utf8.RuneLen(c) > longestManager {
			break
		}
		b.WriteRune(c)
	}
	return b.String()
}

// touchesOwners says whether a patch may be about managedFields.
func touchesOwners(patch []byte) bool { return bytes.Contains(patch, []byte("managedFields")) }
