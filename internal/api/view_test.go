package api_test

import (
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
)

// asTemplate shows a pod as a pod template: another Go type in another version.
var asTemplate = &api.View[*corev1.PodTemplate, *corev1.Pod]{
	API: "example.com/v2", Of: widget,
	To: func(t *corev1.PodTemplate) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Template.Spec}
		p.Spec.NodeName = t.Template.Name
		return p
	},
	From: func(p *corev1.Pod) *corev1.PodTemplate {
		t := &corev1.PodTemplate{ObjectMeta: p.ObjectMeta, Template: corev1.PodTemplateSpec{Spec: p.Spec}}
		t.Template.Name, t.Template.Spec.NodeName = p.Spec.NodeName, ""
		return t
	},
	Default: func(t *corev1.PodTemplate) {
		if t.Template.Name == "" {
			t.Template.Name = "n0"
		}
	},
	Validate: func(p, old *corev1.Pod) field.ErrorList {
		if old != nil && old.Spec.NodeName != p.Spec.NodeName {
			return field.ErrorList{field.Forbidden(field.NewPath("template"), "moved")}
		}
		return nil
	},
	Fields: map[string]string{"template.name": "spec.nodeName"},
}

func TestViewResource(t *testing.T) {
	r := asTemplate.Def()
	if r != asTemplate.Def() || r.Stored() != widget.Def() || r.Hub.Resource != widget.Def() || widget.Def().Stored() != widget.Def() {
		t.Fatal("the view has lost its hub")
	}
	if r.Path("a") != "/apis/example.com/v2/namespaces/a/pods" || r.Kind != "Pod" || !r.Can(api.Watch) {
		t.Errorf("%s %s", r.Path("a"), r.Kind)
	}
	o := r.New().(*corev1.PodTemplate)
	r.Default(o)
	if o.Template.Name != "n0" || o.APIVersion != "example.com/v2" {
		t.Errorf("defaulted: %+v", o)
	}
	if r.Fields["template.name"](o) != "n0" || r.Fields["spec.nodeName"] != nil {
		t.Error("fields")
	}
	moved := api.Clone(o)
	moved.Template.Name = "n1"
	if errs := r.Validate(moved, o); len(errs) != 1 || len(r.Validate(o, o)) != 0 || len(r.Validate(o, nil)) != 0 {
		t.Errorf("validated: %v", errs)
	}
	for _, c := range r.Columns {
		if c.Name == "Node" && c.Cell(o) != "n0" {
			t.Errorf("column: %v", c.Cell(o))
		}
	}
}

// An item of a view is made once, however many ask for it, and goes when nobody does.
func TestItemIn(t *testing.T) {
	item, _ := stored(t, 42)
	r := asTemplate.Def()
	if item.In(widget.Def()) != item || item.Stored() != item {
		t.Error("an item is itself in its own version")
	}
	var all [8]*api.Item
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			all[i] = item.In(r)
			_, _ = all[i].JSON()
		})
	}
	wg.Wait()
	v := all[0]
	for _, other := range all {
		if other != v || other.Object() != v.Object() {
			t.Fatal("it was converted twice")
		}
	}
	o := v.Object().(*corev1.PodTemplate)
	if o.Template.Name != "n1" || o.ResourceVersion != "42" || o.GroupVersionKind() != r.GVK() || v.Stored() != item || v.Revision != 42 {
		t.Errorf("%+v", o)
	}
	if item.Object().GetObjectKind().GroupVersionKind() != widget.Def().GVK() {
		t.Error("the stored object was changed")
	}
	if err := item.Verify(); err != nil {
		t.Error(err)
	}
	one, err := v.Body()
	if err != nil {
		t.Fatal(err)
	}
	two, err := v.Body()
	if err != nil || &one[0] != &two[0] {
		t.Error("it was encoded twice")
	}
	n, err := v.RawSize()
	if b, err2 := v.RawProtobuf(nil); err != nil || err2 != nil || len(b) != n {
		t.Errorf("%d bytes, said %d: %v %v", len(b), n, err, err2)
	}
	item.Sweep() // forgets who has asked
	if item.In(r) != v {
		t.Error("it was dropped while it was used")
	}
	item.Sweep()
	item.Sweep()
	if item.In(r) == v {
		t.Error("it was kept, though nobody asked for it")
	}
	// What came over the wire has no stored item behind it, and makes one.
	alone := api.NewItem(r, 7, nil, api.Clone(o))
	if s := alone.Stored(); s.Resource != widget.Def() || s.Object().(*corev1.Pod).Spec.NodeName != "n1" || s.Revision != 7 {
		t.Errorf("%+v", s)
	}
}
