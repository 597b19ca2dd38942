package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "proa/test/clients/operator/api/v1"
	"proa/test/clients/operator/api/v1alpha1"
	"proa/test/clients/operator/api/v1beta1"
)

// A check is one thing that must hold; its name is what is printed.
type check struct {
	name string
	bare bool // holds on a server that has custom resources and nothing else
	do   func(context.Context) error
}

func (w *world) play(ctx context.Context, serve *serving, mgr ctrl.Manager) error {
	select {
	case <-mgr.Elected():
		fmt.Println("ok elected")
	case <-ctx.Done():
		return errors.New("the manager was not elected")
	}
	if err := w.trust(ctx, serve); err != nil {
		return err
	}
	for _, c := range []check{
		{"defaults by the schema", true, w.defaults},
		{"a beta is stored as the hub", true, w.beta},
		{"an alpha is stored as the hub, with a warning", true, w.alpha},
		{"a list of each version", true, w.lists},
		{"what the webhook refuses", true, w.unconvertible},
		{"finalizer, status and conditions", true, w.conditions},
		{"status and the rest are apart", true, w.apart},
		{"children are owned", false, w.children},
		{"an event", false, w.event},
		{"printer columns", true, w.columns},
		{"scale", true, w.scale},
		{"rules", true, w.rules},
		{"apply", true, w.apply},
		{"a conflict", true, w.conflict},
		{"strict fields", true, w.strict},
		{"selectable fields", true, w.selectable},
		{"an informer of a selection", true, w.selection},
		{"an informer of another version", true, w.otherVersion},
		{"an informer of metadata", true, w.metadata},
		{"stored versions", true, w.storedVersions},
		{"deletion", true, w.deletion},
	} {
		if w.bare && !c.bare {
			continue
		}
		if err := c.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		fmt.Println("ok", c.name)
	}
	return nil
}

func at(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: ns, Name: name} }
func key(name string) client.ObjectKey { return client.ObjectKey{Namespace: ns, Name: name} }
func (w *world) site(name string) *v1.Website {
	return &v1.Website{ObjectMeta: at(name), Spec: v1.Spec{Image: w.image}}
}

// trust gives the server the CA, and waits until it converts by the webhook.
func (w *world) trust(ctx context.Context, serve *serving) error {
	probe := func() error {
		return w.client.Create(ctx, &v1beta1.Website{ObjectMeta: at("probe"), Spec: v1beta1.Spec{Image: w.image}}, client.DryRunAll)
	}
	err := until(ctx, "the webhook is not trusted", func() (bool, error) {
		err := probe()
		if err := refused(err, nil, "conversion webhook for sites.example.com/v1beta1, Kind=Website failed"); err != nil {
			return false, fmt.Errorf("without the CA: %w", err)
		}
		return strings.Contains(err.Error(), "certificate"), nil // else the service does not lead here yet
	})
	if err != nil {
		return err
	}
	if err := serve.injectCA(ctx, w.client, w.crd.Name); err != nil {
		return err
	}
	return until(ctx, "the webhook is trusted", func() (bool, error) { return probe() == nil, nil })
}

func (w *world) defaults(ctx context.Context) error {
	s := w.site("one")
	s.Spec.Slack, s.Spec.Pages = new(intstr.FromString("25%")), map[string]string{"index.html": "hello"}
	if err := w.client.Create(ctx, s); err != nil {
		return err
	}
	if s.UID == "" || s.Generation != 1 || *s.Spec.Replicas != 1 || s.Spec.Class != "standard" || s.Spec.Slack.StrVal != "25%" {
		return fmt.Errorf("made %+v", s)
	}
	if len(s.Spec.Ports) != 1 || s.Spec.Ports[0] != (v1.Port{Name: "http", Number: 80, Protocol: "TCP"}) {
		return fmt.Errorf("ports %+v", s.Spec.Ports)
	}
	return nil
}

func (w *world) beta(ctx context.Context) error {
	b := &v1beta1.Website{ObjectMeta: at("beta"), Spec: v1beta1.Spec{Image: w.image, Class: "gold"}}
	if err := w.client.Create(ctx, b); err != nil {
		return err
	}
	if b.UID == "" || *b.Spec.Size != 2 || b.Spec.Port != 8080 {
		return fmt.Errorf("made %+v", b)
	}
	var s v1.Website
	if err := w.client.Get(ctx, key("beta"), &s); err != nil {
		return err
	}
	if s.UID != b.UID || *s.Spec.Replicas != 2 || s.Spec.Class != "gold" || s.Spec.Ports[0] != (v1.Port{Name: "http", Number: 8080, Protocol: "TCP"}) {
		return fmt.Errorf("as v1 %+v", s)
	}
	// What beta cannot say survives a write as beta.
	err := w.client.Patch(ctx, &s, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"slack":3}}`)))
	if err == nil {
		err = w.client.Patch(ctx, b, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"port":8081}}`)))
	}
	if err == nil {
		err = w.client.Get(ctx, key("beta"), &s)
	}
	if err != nil {
		return err
	}
	if s.Spec.Slack == nil || s.Spec.Slack.IntVal != 3 || s.Spec.Ports[0].Number != 8081 || s.Annotations[v1beta1.Whole] != "" {
		return fmt.Errorf("after a write as beta %+v", s)
	}
	return nil
}

func (w *world) alpha(ctx context.Context) error {
	w.warnings.take()
	a := &v1alpha1.Website{ObjectMeta: at("alpha"), Spec: v1alpha1.Spec{Image: w.image, Size: "large"}}
	if err := w.client.Create(ctx, a); err != nil {
		return err
	}
	if got := w.warnings.take(); got != "sites.example.com/v1alpha1 Website will go; use v1" {
		return fmt.Errorf("warnings %q", got)
	}
	var s v1.Website
	if err := w.client.Get(ctx, key("alpha"), &s); err != nil {
		return err
	}
	if *s.Spec.Replicas != 4 || s.Spec.Class != "standard" || len(s.Spec.Ports) != 1 {
		return fmt.Errorf("as v1 %+v", s)
	}
	return nil
}

func (w *world) lists(ctx context.Context) error {
	var l v1.WebsiteList
	var b v1beta1.WebsiteList
	var a v1alpha1.WebsiteList
	for _, list := range []client.ObjectList{&l, &b, &a} {
		if err := w.client.List(ctx, list, client.InNamespace(ns), client.Limit(500)); err != nil {
			return err
		}
	}
	if len(l.Items) != 3 || len(b.Items) != 3 || len(a.Items) != 3 {
		return fmt.Errorf("%d, %d and %d", len(l.Items), len(b.Items), len(a.Items))
	}
	for i := range l.Items {
		x, y, z := l.Items[i], b.Items[i], a.Items[i]
		if x.Name != y.Name || x.Name != z.Name || x.UID != z.UID || *x.Spec.Replicas != *y.Spec.Size || z.Spec.Size == "" {
			return fmt.Errorf("%v, %v, %v", x, y, z)
		}
	}
	return nil
}

func (w *world) unconvertible(ctx context.Context) error {
	err := w.client.Create(ctx, &v1alpha1.Website{ObjectMeta: at("odd"), Spec: v1alpha1.Spec{Image: w.image, Size: "huge"}})
	return refused(err, nil, "conversion webhook for sites.example.com/v1alpha1, Kind=Website failed", `no size is called "huge"`)
}

func (w *world) conditions(ctx context.Context) error {
	for _, name := range []string{"one", "beta", "alpha"} {
		var s v1.Website
		err := until(ctx, name+" is ready", func() (bool, error) {
			err := w.client.Get(ctx, key(name), &s)
			return err == nil && meta.IsStatusConditionTrue(s.Status.Conditions, ready) && s.Status.ObservedGeneration == s.Generation, err
		})
		if err != nil {
			return fmt.Errorf("%w: %+v", err, s.Status)
		}
		if len(s.Finalizers) != 1 || s.Status.Selector != "site="+name || s.Status.Replicas != *s.Spec.Replicas {
			return fmt.Errorf("%+v", s)
		}
	}
	return nil
}

func (w *world) apart(ctx context.Context) error {
	var s v1.Website
	if err := w.client.Get(ctx, key("one"), &s); err != nil {
		return err
	}
	generation := s.Generation
	s.Status.Selector, s.Spec.Image = "nonsense", "changed"
	bad := s.DeepCopy()
	if err := w.client.Status().Update(ctx, bad); err != nil {
		return err
	}
	if bad.Spec.Image != w.image || bad.Generation != generation || bad.Status.Selector != "nonsense" {
		return fmt.Errorf("a status update: %+v", bad)
	}
	bad.Status.Selector = ""
	bad.Annotations = map[string]string{"a": "b"}
	if err := w.client.Update(ctx, bad); err != nil {
		return err
	}
	if bad.Generation != generation || bad.Status.Selector != "nonsense" {
		return fmt.Errorf("an update without a change of the spec: %+v", bad)
	}
	bad.Status.Conditions[0].Status = "Perhaps"
	if err := refused(w.client.Status().Update(ctx, bad), apierrors.IsInvalid, "status.conditions[0].status: Unsupported value"); err != nil {
		return err
	}
	err := w.client.Status().Patch(ctx, &s, client.RawPatch("application/merge-patch+json", []byte(`{"status":{"selector":"site=one"}}`)))
	if err == nil && s.Status.Selector != "site=one" {
		err = fmt.Errorf("a status patch: %+v", s.Status)
	}
	return err
}

func (w *world) scale(ctx context.Context) error {
	s, scale := w.site("one"), &autoscalingv1.Scale{}
	if err := w.client.SubResource("scale").Get(ctx, s, scale); err != nil {
		return err
	}
	if scale.Spec.Replicas != 1 || scale.Status.Replicas != 1 || scale.Status.Selector != "site=one" || scale.Name != "one" || scale.ResourceVersion == "" {
		return fmt.Errorf("got %+v", scale)
	}
	scale.Spec.Replicas = 3
	if err := w.client.SubResource("scale").Update(ctx, s, client.WithSubResourceBody(scale)); err != nil {
		return err
	}
	return until(ctx, "three replicas", func() (bool, error) {
		err := w.client.Get(ctx, key("one"), s)
		return err == nil && *s.Spec.Replicas == 3 && s.Status.Replicas == 3 && s.Status.ObservedGeneration == s.Generation, err
	})
}

func (w *world) rules(ctx context.Context) error {
	s := w.site("rules")
	s.Spec.Replicas = new(int32(6))
	err := refused(w.client.Create(ctx, s), apierrors.IsInvalid, "spec.replicas: Forbidden: more than five replicas are for gold")
	if err != nil {
		return err
	}
	s = w.site("rules")
	s.Spec.Ports = []v1.Port{{Name: "ssh", Number: 22}}
	if err := refused(w.client.Create(ctx, s), apierrors.IsInvalid, "spec.ports[0]: Invalid value", "port ssh is reserved"); err != nil {
		return err
	}
	s = w.site("rules")
	s.Spec.Replicas, s.Spec.Class = new(int32(11)), "brass"
	if err := refused(w.client.Create(ctx, s), apierrors.IsInvalid, "spec.replicas: Invalid value: 11", `spec.class: Unsupported value: "brass"`); err != nil {
		return err
	}
	err = w.client.Patch(ctx, w.site("one"), client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"class":"gold"}}`)))
	if err := refused(err, apierrors.IsInvalid, "spec.class: Invalid value", "the class stays as it is"); err != nil {
		return err
	}
	s = w.site("rules")
	s.Spec.Ports = []v1.Port{{Name: "a", Number: 1}, {Name: "a", Number: 2}}
	return refused(w.client.Create(ctx, s), apierrors.IsInvalid, "spec.ports[1]: Duplicate value")
}

func (w *world) apply(ctx context.Context) error {
	one := &v1.SpecApply{Image: &w.image, Replicas: new(int32(2)), Ports: []v1.PortApply{{Name: new("web"), Number: new(int32(8000))}}}
	if err := w.client.Apply(ctx, v1.NewApply(ns, "applied", one), client.FieldOwner("ann")); err != nil {
		return err
	}
	two := &v1.SpecApply{Ports: []v1.PortApply{{Name: new("admin"), Number: new(int32(9000))}}, Pages: map[string]string{"a": "b"}}
	if err := w.client.Apply(ctx, v1.NewApply(ns, "applied", two), client.FieldOwner("bob")); err != nil {
		return err
	}
	var s v1.Website
	if err := w.client.Get(ctx, key("applied"), &s); err != nil {
		return err
	}
	if len(s.Spec.Ports) != 2 || s.Spec.Pages["a"] != "b" || s.Spec.Class != "standard" {
		return fmt.Errorf("two owners: %+v", s.Spec)
	}
	three := v1.NewApply(ns, "applied", &v1.SpecApply{Replicas: new(int32(1))})
	if err := refused(w.client.Apply(ctx, three, client.FieldOwner("bob")), apierrors.IsConflict, `conflict with "ann"`, ".spec.replicas"); err != nil {
		return err
	}
	three = v1.NewApply(ns, "applied", &v1.SpecApply{Replicas: new(int32(1))})
	if err := w.client.Apply(ctx, three, client.FieldOwner("bob"), client.ForceOwnership); err != nil {
		return err
	}
	if err := w.client.Get(ctx, key("applied"), &s); err != nil {
		return err
	}
	if len(s.Spec.Ports) != 1 || s.Spec.Ports[0].Name != "web" || s.Spec.Pages != nil || *s.Spec.Replicas != 1 {
		return fmt.Errorf("after the second gave up its fields: %+v", s.Spec)
	}
	err := w.client.Apply(ctx, v1.NewApply(ns, "absent", two).WithUID("not-this-one"), client.FieldOwner("bob"))
	return refused(err, nil, "")
}

func (w *world) conflict(ctx context.Context) error {
	var s v1.Website
	if err := w.client.Get(ctx, key("applied"), &s); err != nil {
		return err
	}
	stale := s.DeepCopy()
	stale.ResourceVersion = "1"
	stale.Spec.Image = "other:1"
	return refused(w.client.Update(ctx, stale), apierrors.IsConflict, "the object has been modified")
}

func (w *world) strict(ctx context.Context) error {
	u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"image": w.image, "colour": "red"}}}
	u.SetGroupVersionKind(v1.GroupVersion.WithKind("Website"))
	u.SetNamespace(ns)
	u.SetName("strict")
	err := client.WithFieldValidation(w.client, metav1.FieldValidationStrict).Create(ctx, u.DeepCopy())
	if err := refused(err, apierrors.IsBadRequest, `strict decoding error: unknown field "spec.colour"`); err != nil {
		return err
	}
	w.warnings.take()
	made := u.DeepCopy()
	if err := client.WithFieldValidation(w.client, metav1.FieldValidationWarn).Create(ctx, made, client.DryRunAll); err != nil {
		return err
	}
	if got := w.warnings.take(); got != `unknown field "spec.colour"` {
		return fmt.Errorf("warnings %q", got)
	}
	if _, has, _ := unstructured.NestedString(made.Object, "spec", "colour"); has {
		return errors.New("an unknown field was not pruned")
	}
	return nil
}

func (w *world) storedVersions(ctx context.Context) error {
	var crd apiextensionsv1.CustomResourceDefinition
	if err := w.client.Get(ctx, client.ObjectKey{Name: w.crd.Name}, &crd); err != nil {
		return err
	}
	if len(crd.Status.StoredVersions) != 1 || crd.Status.StoredVersions[0] != "v1" || crd.Status.AcceptedNames.Kind != "Website" {
		return fmt.Errorf("%+v", crd.Status)
	}
	crd.Spec.Versions = crd.Spec.Versions[1:]
	crd.Spec.Versions[0].Storage = true
	return refused(w.client.Update(ctx, &crd), apierrors.IsInvalid, `status.storedVersions[0]: Invalid value: "v1"`, "missing from spec.versions")
}
