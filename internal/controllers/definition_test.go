package controllers_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	svmv1 "k8s.io/api/storagemigration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/controllers"
	"proa/internal/kinds/apiextensions"
	"proa/internal/kinds/storagemigration"
)

func definition(plural, kind string, short ...string) *apiextensionsv1.CustomResourceDefinition {
	d := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: plural + ".example.com"}}
	d.Spec.Group, d.Spec.Scope = "example.com", apiextensionsv1.NamespaceScoped
	d.Spec.Names = apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Singular: plural + "-1", Kind: kind, ShortNames: short}
	free := true
	for i, name := range []string{"v1", "v2"} {
		d.Spec.Versions = append(d.Spec.Versions, apiextensionsv1.CustomResourceDefinitionVersion{Name: name, Served: true, Storage: i == 0,
			Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &free}}})
	}
	return d
}

// TestNamesAreUnique makes, changes and deletes definitions of one group at
// random, while the controllers run in a random order and with faults. No two of
// them ever have the same name, and in the end nobody waits for one that is free.
func TestNamesAreUnique(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	for i := range uint64(10) {
		w := newWorld(t)
		t.Logf("seed %d", seed+i)
		w.rand = rand.New(rand.NewPCG(seed+i, 4))
		faults := true
		rs := []control.Runner{controllers.Definitions(w.Server.Kinds), controllers.DefinitionCleanup(w.Server.Kinds)}
		w.engine = control.New(faulty(w.h, w.rand, &faults), rs, w.config())
		for range 200 {
			if w.rand.IntN(4) == 0 {
				w.redefine()
			}
			w.step()
			w.unique()
		}
		faults = false
		for range 5 {
			w.settle()
			w.clock.advance(time.Minute)
		}
		w.settle()
		w.nobodyWaits(w.unique())
	}
}

// redefine makes a random change to a random definition.
func (w *world) redefine() {
	w.t.Helper()
	k := apiextensions.CustomResourceDefinition
	r := w.rand
	some := func(list ...string) string { return list[r.IntN(len(list))] }
	d := definition(some("as", "bs", "cs", "ds"), some("A", "B"), some("x", "y", "z"), some("as", "u", "v"))
	old, err := k.Get(w.t.Context(), w.h, "", d.Name)
	switch {
	case apierrors.IsNotFound(err):
		_, err = k.Create(w.t.Context(), w.h, d)
	case err == nil && r.IntN(3) == 0:
		err = k.Delete(w.t.Context(), w.h, "", d.Name, api.Options{})
	case err == nil:
		next := api.Clone(old)
		if !apiextensions.True(old, apiextensionsv1.Established) {
			next.Spec.Names.Kind = d.Spec.Names.Kind
		}
		next.Spec.Names.ShortNames = d.Spec.Names.ShortNames
		_, err = k.Update(w.t.Context(), w.h, next)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// unique checks that no name belongs to two definitions, and returns whose each is.
func (w *world) unique() map[string]string {
	w.t.Helper()
	all, err := apiextensions.CustomResourceDefinition.List(w.t.Context(), w.h, "", api.Selectors{})
	if err != nil {
		w.t.Fatal(err)
	}
	of := map[string]string{}
	for _, d := range all {
		a := d.Status.AcceptedNames
		list := append([]string{"k:" + a.Kind, "k:" + a.ListKind, a.Plural, a.Singular}, a.ShortNames...)
		slices.Sort(list)
		for _, name := range slices.Compact(list) {
			if other := of[name]; other != "" && strings.TrimPrefix(name, "k:") != "" {
				w.t.Fatalf("%s belongs to %s and to %s", name, other, d.Name)
			}
			of[name] = d.Name
		}
	}
	return of
}

func (w *world) nobodyWaits(of map[string]string) {
	w.t.Helper()
	all, err := apiextensions.CustomResourceDefinition.List(w.t.Context(), w.h, "", api.Selectors{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, d := range all {
		refused := 0
		for _, name := range append([]string{"k:" + d.Spec.Names.Kind, "k:" + d.Spec.Names.ListKind, d.Spec.Names.Plural, d.Spec.Names.Singular}, d.Spec.Names.ShortNames...) {
			if by := of[name]; by != "" && by != d.Name {
				refused++
			}
		}
		c := apiextensions.Condition(d, apiextensionsv1.NamesAccepted)
		if d.DeletionTimestamp != nil || c == nil || (c.Status == apiextensionsv1.ConditionTrue) != (refused == 0) {
			w.t.Errorf("%s: %d names refused, but %+v", d.Name, refused, c)
		}
	}
}

// TestMigration checks that a migration leaves no object in another form than
// the one for storage, and writes none that has it.
func TestMigration(t *testing.T) {
	w := newWorld(t)
	w.stepped(w.h, uint64(time.Now().UnixNano()))
	ctx, k := t.Context(), apiextensions.CustomResourceDefinition
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	d, err := k.Create(ctx, w.h, definition("things", "Thing"))
	must(err)
	w.settle()
	thing := func(name string) {
		t.Helper()
		r := w.Kind("things")
		o := r.New()
		o.SetName(name)
		o.SetNamespace("default")
		_, err := api.Untyped(r).Create(ctx, w.h, o)
		must(err)
	}
	w.ensureNamespace("default")
	thing("a")
	thing("b")
	d, err = k.Get(ctx, w.h, "", d.Name)
	must(err)
	d = api.Clone(d)
	d.Spec.Versions[0].Storage, d.Spec.Versions[1].Storage = false, true
	_, err = k.Update(ctx, w.h, d)
	must(err)
	w.settle()
	thing("c")
	stored := func() (out string) {
		resp, err := w.h.Handle(ctx, &api.Request{Verb: api.List, Resource: w.Kind("things")})
		must(err)
		for _, i := range resp.List.Items {
			out += fmt.Sprintf("%s=%s ", i.Object().GetName(), i.Stored().Resource.Version)
		}
		return out
	}
	if got := stored(); got != "a=v1 b=v1 c=v2 " {
		t.Fatalf("before: %s", got)
	}
	revision := func(name string) string {
		o, err := api.Untyped(w.Kind("things")).Get(ctx, w.h, "default", name)
		must(err)
		return o.GetResourceVersion()
	}
	c := revision("c")
	m, err := storagemigration.StorageVersionMigration.Create(ctx, w.h, &svmv1.StorageVersionMigration{ObjectMeta: metav1.ObjectMeta{Name: "m"},
		Spec: svmv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Group: "example.com", Resource: "things"}}})
	must(err)
	w.settle()
	if got := stored(); got != "a=v2 b=v2 c=v2 " || revision("c") != c {
		t.Errorf("after: %s", got)
	}
	m, err = storagemigration.StorageVersionMigration.Get(ctx, w.h, "", m.Name)
	must(err)
	d, err = k.Get(ctx, w.h, "", d.Name)
	must(err)
	if m.Status.ResourceVersion == "" || len(m.Status.Conditions) != 1 || !slices.Equal(d.Status.StoredVersions, []string{"v2"}) {
		t.Errorf("%+v %v", m.Status, d.Status.StoredVersions)
	}
	w.Untouched()
}
