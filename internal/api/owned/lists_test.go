package owned

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apischema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

var write = flag.Bool("write", false, "write lists.txt anew")

// TestLists compares lists.txt with the schema of the library.
func TestLists(t *testing.T) {
	l := lister{out: map[string]bool{}, seen: map[string]bool{}}
	for gvk, typ := range known.AllKnownTypes() {
		if strings.Contains(gvk.Version, "alpha") || gvk.Version == runtime.APIVersionInternal {
			continue
		}
		if _, ok := typ.FieldByName("ObjectMeta"); ok {
			l.object(typesOf(t, gvk), reflect.New(typ).Interface().(runtime.Object), gvk.GroupVersion().String(), gvk.Kind)
		}
	}
	var lines []string
	for line := range l.out {
		lines = append(lines, line)
	}
	slices.Sort(lines)
	text := "# Lists, maps and structs of the API that are not owned in the usual way: see listing.\n" + strings.Join(lines, "\n") + "\n"
	if *write {
		if err := os.WriteFile("lists.txt", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if text != listsText {
		t.Error("lists.txt is not what the API says now: run go test ./internal/api/owned -write")
	}
}

// known has the types that client-go knows, and those of the extensions.
var known = func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensionsv1.AddToScheme, apiregistrationv1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	return s
}()

// extensions are the folders of the kinds that have a schema of their own, by group.
var extensions = map[string]string{apiextensionsv1.GroupName: "apiextensions", apiregistrationv1.GroupName: "apiregistration"}

// typesOf is the schema that applies to a kind go by.
func typesOf(t testing.TB, gvk apischema.GroupVersionKind) managedfields.TypeConverter {
	t.Helper()
	folder := extensions[gvk.Group]
	if folder == "" {
		return applyconfigurations.NewTypeConverter(known)
	}
	text, err := os.ReadFile(filepath.Join("../../kinds", folder, "types.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	parser, err := typed.NewParser(typed.YAMLObject(text))
	if err != nil {
		t.Fatal(err)
	}
	return managedfields.NewSchemeTypeConverter(known, parser)
}

type lister struct {
	out, seen map[string]bool
}

func (l *lister) object(types managedfields.TypeConverter, o runtime.Object, version, kind string) {
	gv, err := apischema.ParseGroupVersion(version)
	if err != nil {
		return
	}
	o.GetObjectKind().SetGroupVersionKind(gv.WithKind(kind))
	tv, err := types.ObjectToTyped(o)
	if err != nil {
		return // of no kind that can be applied
	}
	l.visit(tv.Schema(), tv.TypeRef(), reflect.TypeOf(o).Elem())
}

func (l *lister) visit(s *schema.Schema, ref schema.TypeRef, t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	a, ok := s.Resolve(ref)
	if !ok {
		return
	}
	switch {
	case t.Kind() == reflect.Struct && a.Map != nil:
		key := fmt.Sprint(typeName(t), " ", ref.NamedType != nil && *ref.NamedType != "")
		if l.seen[key] || t.Implements(marshaler) || reflect.PointerTo(t).Implements(marshaler) {
			return
		}
		l.seen[key] = true
		if a.Map.ElementRelationship == schema.Atomic && ref.ElementRelationship == nil {
			l.out[typeName(t)+" . atomic"] = true
		}
		l.fields(s, a.Map, t)
	case t.Kind() == reflect.Map && a.Map != nil:
		l.visit(s, a.Map.ElementType, t.Elem())
	case t.Kind() == reflect.Slice && a.List != nil:
		l.visit(s, a.List.ElementType, t.Elem())
	}
}

func (l *lister) fields(s *schema.Schema, m *schema.Map, t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if strings.Contains(opts, "inline") || f.Anonymous && name == "" {
			l.fields(s, m, f.Type)
			continue
		}
		sf, ok := m.FindField(name)
		if !ok {
			continue
		}
		a, ok := s.Resolve(sf.Type)
		if !ok {
			continue
		}
		ft := f.Type
		for ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		own := typeName(t) + " " + name + " "
		switch {
		case ft.Kind() == reflect.Slice && a.List != nil && a.List.ElementRelationship == schema.Associative:
			if len(a.List.Keys) == 0 {
				l.out[own+"set"] = true
			} else {
				l.out[own+"map "+l.keys(s, a.List)] = true
			}
		case ft.Kind() == reflect.Map && a.Map != nil && a.Map.ElementRelationship == schema.Atomic,
			ft.Kind() == reflect.Struct && sf.Type.ElementRelationship != nil && *sf.Type.ElementRelationship == schema.Atomic:
			l.out[own+"atomic"] = true
		case ft.Kind() == reflect.Struct && sf.Type.ElementRelationship != nil && *sf.Type.ElementRelationship == schema.Separable:
			l.out[own+"granular"] = true
		}
		l.visit(s, sf.Type, f.Type)
	}
}

func (l *lister) keys(s *schema.Schema, list *schema.List) string {
	var out []string
	item, _ := s.Resolve(list.ElementType)
	for _, k := range list.Keys {
		if f, ok := item.FindField(k); ok && f.Default != nil {
			b, _ := json.Marshal(f.Default)
			k += "=" + string(b)
		}
		out = append(out, k)
	}
	return strings.Join(out, " ")
}
