package apiserver_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds/core"
	"proa/internal/kinds/events"
	"proa/internal/store/memory"
)

const newEvent = `{"metadata":{"name":"%s"},"eventTime":"2020-01-01T00:00:00.000001Z","reportingController":"c","reportingInstance":"c-1",
	"action":"Do","reason":"Done","type":"Normal","regarding":{"kind":"Pod","namespace":"a","name":"%s"},"note":"n"}`

func oldEvent(name, about string) *corev1.Event {
	return &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}, Reason: "Old", Message: "m",
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "a", Name: about}}
}

// ask sends a request for an event, through the group events.k8s.io.
func ask(t testing.TB, s *apiserver.Server, r api.Request) (*api.Response, error) {
	t.Helper()
	r.Resource, r.Namespace = events.Event.Def(), "a"
	if r.Body != nil && r.ContentType == "" {
		r.ContentType = api.MediaJSON
	}
	return s.Handle(t.Context(), &r)
}

func TestViewReads(t *testing.T) {
	each(t, func(t *testing.T, s *apiserver.Server) {
		m := must[*api.Response](t)
		other := must[*corev1.Event](t)(core.Event.Create(t.Context(), s, oldEvent("f", "y")))
		seen := m(ask(t, s, api.Request{Verb: api.Watch, Select: api.WithField("regarding.name", "x"), At: api.Version{ResourceVersion: other.ResourceVersion}})).Events
		old := must[*corev1.Event](t)(core.Event.Create(t.Context(), s, oldEvent("e", "x")))

		item := m(ask(t, s, api.Request{Verb: api.Get, Name: "e"})).Item
		e := item.Object().(*eventsv1.Event)
		if e.Note != "m" || e.Regarding.Name != "x" || e.ResourceVersion != old.ResourceVersion || e.APIVersion != "events.k8s.io/v1" || e.UID != old.UID {
			t.Errorf("read through the view: %+v", e)
		}
		if again := m(ask(t, s, api.Request{Verb: api.Get, Name: "e"})).Item; again != item {
			t.Error("it is converted for each reader")
		}
		if item.Stored().Object() != api.Object(old) {
			t.Error("the view has lost what is stored")
		}
		l := m(ask(t, s, api.Request{Verb: api.List, Select: api.WithField("regarding.name", "x")})).List
		if len(l.Items) != 1 || l.Items[0] != item {
			t.Errorf("listed %v", l.Items)
		}
		_, err := ask(t, s, api.Request{Verb: api.List, Select: api.WithField("involvedObject.name", "x")})
		wantError(t, err, 400, metav1.StatusReasonBadRequest, "field label not supported: involvedObject.name")
		_, err = s.Handle(t.Context(), &api.Request{Verb: api.List, Resource: core.Event.Def(), Select: api.WithField("regarding.name", "x")})
		wantError(t, err, 400, metav1.StatusReasonBadRequest, "field label not supported: regarding.name")
		_, err = ask(t, s, api.Request{Verb: api.Get, Name: "none"})
		wantError(t, err, 404, metav1.StatusReasonNotFound, `events.events.k8s.io "none" not found`)

		gone := m(ask(t, s, api.Request{Verb: api.Delete, Name: "e"}))
		if d := gone.Status.Details; d.Group != "events.k8s.io" || d.UID != old.UID {
			t.Errorf("deleted: %+v", d)
		}
		var got []string
		for ev, err := range seen {
			if err != nil {
				t.Fatal(err)
			}
			o := ev.Item.Object().(*eventsv1.Event)
			got = append(got, fmt.Sprint(ev.Type, o.Name, o.ResourceVersion == old.ResourceVersion, o.Note))
			if ev.Type == watch.Deleted {
				break
			}
		}
		if want := "[ADDEDetruem DELETEDefalsem]"; fmt.Sprint(got) != want {
			t.Errorf("watched %v, want %s", got, want)
		}
	})
}

func TestViewWrites(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	m, has := must[*api.Response](t), must[*corev1.Event](t)
	_, err := ask(t, s, api.Request{Verb: api.Create, Body: []byte(`{"metadata":{"name":"x"},"regarding":{"namespace":"a"}}`)})
	wantError(t, err, 422, metav1.StatusReasonInvalid, "eventTime: Required value")
	_, err = ask(t, s, api.Request{Verb: api.Create, Body: []byte(`{"kind":"Event","apiVersion":"v1","metadata":{"name":"x"}}`)})
	wantError(t, err, 400, metav1.StatusReasonBadRequest, "the API version in the data (v1) does not match the expected API version (events.k8s.io/v1)")

	made := m(ask(t, s, api.Request{Verb: api.Create, Body: fmt.Appendf(nil, newEvent, "e", "x")}))
	if _, ok := made.Item.Object().(*eventsv1.Event); !ok || made.Code != 201 {
		t.Fatalf("created: %d %T", made.Code, made.Item.Object())
	}
	if e := has(core.Event.Get(t.Context(), s, "a", "e")); e.Message != "n" || e.ReportingController != "c" || e.InvolvedObject.Name != "x" {
		t.Errorf("stored as %+v", e)
	}
	_, err = ask(t, s, api.Request{Verb: api.Create, Body: fmt.Appendf(nil, newEvent, "e", "x")})
	wantError(t, err, 409, metav1.StatusReasonAlreadyExists, `events.events.k8s.io "e" already exists`)

	// Every way to change it goes through the view's form, and its rules.
	for i, r := range []api.Request{
		{Verb: api.Update, Name: "e", Body: fmt.Appendf(nil, newEvent[:len(newEvent)-1]+`,"series":{"count":%d,"lastObservedTime":"2020-01-01T00:00:00.000001Z"}}`, "e", "x", 100)},
		{Verb: api.Patch, Name: "e", Patch: types.MergePatchType, Body: []byte(`{"series":{"count":101}}`)},
		{Verb: api.Patch, Name: "e", Patch: types.StrategicMergePatchType, Body: []byte(`{"series":{"count":102}}`)},
		{Verb: api.Patch, Name: "e", Patch: types.JSONPatchType, Body: []byte(`[{"op":"replace","path":"/series/count","value":103}]`)},
		{Verb: api.Patch, Name: "e", Patch: types.ApplyYAMLPatchType, Options: api.Options{FieldManager: "m", Force: true},
			Body: []byte(`{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"e"},"eventTime":"2020-01-01T00:00:00.000001Z","series":{"count":104,"lastObservedTime":"2020-01-01T00:00:00.000001Z"}}`)},
	} {
		m(ask(t, s, r))
		if e := has(core.Event.Get(t.Context(), s, "a", "e")); e.Series == nil || int(e.Series.Count) != 100+i {
			t.Fatalf("after %d: %+v", i, e.Series)
		}
	}
	_, err = ask(t, s, api.Request{Verb: api.Patch, Name: "e", Patch: types.MergePatchType, Body: []byte(`{"note":"other"}`)})
	wantError(t, err, 422, metav1.StatusReasonInvalid, `Event "e" is invalid: message: Invalid value: "other": field is immutable`)

	// The core group has no such rule, and each writer owns in its own version.
	m(s.Handle(t.Context(), &api.Request{Verb: api.Patch, Resource: core.Event.Def(), Namespace: "a", Name: "e", Patch: types.MergePatchType,
		Options: api.Options{FieldManager: "old"}, Body: []byte(`{"message":"other"}`)}))
	m(ask(t, s, api.Request{Verb: api.Patch, Name: "e", Patch: types.MergePatchType, Options: api.Options{FieldManager: "new"}, Body: []byte(`{"metadata":{"labels":{"a":"b"}}}`)}))
	e := has(core.Event.Get(t.Context(), s, "a", "e"))
	owners := map[string]string{}
	for _, f := range e.ManagedFields {
		owners[f.Manager] = f.APIVersion + " " + string(f.Operation) + " " + f.FieldsV1.GetRawString()
	}
	if owners["old"] != `v1 Update {"f:message":{}}` || owners["new"] != `events.k8s.io/v1 Update {"f:metadata":{"f:labels":{".":{},"f:a":{}}}}` {
		t.Errorf("owners %v", owners)
	}
	// What the core group's writer took can be taken back through the view.
	_, err = ask(t, s, api.Request{Verb: api.Patch, Name: "e", Patch: types.ApplyYAMLPatchType, Options: api.Options{FieldManager: "m"},
		Body: []byte(`{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"e"},"eventTime":"2020-01-01T00:00:00.000001Z","note":"mine"}`)})
	wantError(t, err, 409, metav1.StatusReasonConflict, `conflict with "old" using v1: .message`)

	l := m(ask(t, s, api.Request{Verb: api.DeleteCollection, Select: api.Selectors{Fields: fields.OneTermEqualSelector("regarding.name", "x")}})).List
	if len(l.Items) != 1 || l.Items[0].Resource != events.Event.Def() {
		t.Errorf("deleted %v", l.Items)
	}
}
