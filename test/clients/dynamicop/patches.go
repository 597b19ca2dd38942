package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/pager"
)

func (w *world) setBeds(ctx context.Context, name string, beds int) (*unstructured.Unstructured, error) {
	return w.gardens().Patch(ctx, name, types.MergePatchType, fmt.Appendf(nil, `{"spec":{"beds":%d}}`, beds), metav1.PatchOptions{})
}

func (w *world) patches(ctx context.Context) error {
	patch := func(t types.PatchType, body, wantPath, want string, sub ...string) error {
		o, err := w.gardens().Patch(ctx, "roses", t, []byte(body), metav1.PatchOptions{FieldManager: "patcher"}, sub...)
		if err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
		if got, _, err := unstructured.NestedString(o.Object, strings.Split(wantPath, ".")...); got != want || err != nil {
			return fmt.Errorf("%s: %s is %q: %v: %w", t, wantPath, got, o, err)
		}
		return nil
	}
	err := errors.Join(
		patch(types.MergePatchType, `{"spec":{"soil":"clay"},"status":{"by":"nobody"}}`, "status.by", ""),
		patch(types.MergePatchType, `{"spec":{"soil":"sand"},"status":{"by":"merge"}}`, "status.by", "merge", "status"),
		patch(types.JSONPatchType, `[{"op":"test","path":"/spec/soil","value":"clay"},{"op":"replace","path":"/spec/soil","value":"loam"}]`, "spec.soil", "loam"),
		patch(types.JSONPatchType, `[{"op":"replace","path":"/status/by","value":"json"}]`, "status.by", "json", "status"),
	)
	if err != nil {
		return err
	}
	_, err = w.gardens().Patch(ctx, "roses", types.StrategicMergePatchType, []byte(`{}`), metav1.PatchOptions{})
	if !apierrors.IsUnsupportedMediaType(err) {
		return fmt.Errorf("a strategic merge patch: %w", err)
	}
	_, err = w.gardens().Patch(ctx, "roses", types.JSONPatchType, []byte(`[{"op":"test","path":"/spec/soil","value":"ice"}]`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) {
		return fmt.Errorf("a test that fails: %w", err)
	}
	applied, err := w.gardens().Apply(ctx, "lilies", garden("lilies", map[string]any{"beds": int64(0), "soil": "peat"}), metav1.ApplyOptions{FieldManager: "ann"})
	if err != nil {
		return err
	}
	if soil, _, _ := unstructured.NestedString(applied.Object, "spec", "soil"); soil != "peat" || len(applied.GetManagedFields()) != 1 || applied.GetManagedFields()[0].Operation != metav1.ManagedFieldsOperationApply {
		return fmt.Errorf("applied %v", applied)
	}
	_, err = w.gardens().Apply(ctx, "lilies", garden("lilies", map[string]any{"soil": "sand"}), metav1.ApplyOptions{FieldManager: "bob"})
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), ".spec.soil") {
		return fmt.Errorf("a conflict: %w", err)
	}
	_, err = w.gardens().Patch(ctx, "roses", types.MergePatchType, []byte(`{"spec":{"beds":"many"}}`), metav1.PatchOptions{})
	var status apierrors.APIStatus
	if !apierrors.IsInvalid(err) || !errors.As(err, &status) || status.Status().Details == nil || len(status.Status().Details.Causes) == 0 || status.Status().Details.Causes[0].Field != "spec.beds" {
		return fmt.Errorf("a wrong type: %w", err)
	}
	return nil
}

// scale works as the autoscaler does.
func (w *world) scale(ctx context.Context) error {
	config := rest.CopyConfig(w.config) // this client reads no CBOR
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	scales, err := scale.NewForConfig(config, w.mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(w.core.Discovery()))
	if err != nil {
		return err
	}
	of := scales.Scales(ns)
	s, err := of.Get(ctx, gardens.GroupResource(), "roses", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if s.Spec.Replicas != 1 || s.Status.Replicas != 1 || s.Status.Selector != "garden=roses" {
		return fmt.Errorf("got %+v", s)
	}
	s.Spec.Replicas = 3
	if s, err = of.Update(ctx, gardens.GroupResource(), s, metav1.UpdateOptions{}); err != nil || s.Spec.Replicas != 3 {
		return fmt.Errorf("updated to %+v: %w", s, err)
	}
	if s, err = of.Patch(ctx, gardens, "roses", types.MergePatchType, []byte(`{"spec":{"replicas":4}}`), metav1.PatchOptions{}); err != nil || s.Spec.Replicas != 4 {
		return fmt.Errorf("patched to %+v: %w", s, err)
	}
	o, err := w.gardens().Get(ctx, "roses", metav1.GetOptions{}, "scale")
	if err != nil {
		return err
	}
	if o.GetAPIVersion() != autoscalingv1.SchemeGroupVersion.String() || o.GetKind() != "Scale" {
		return fmt.Errorf("the scale is a %s %s", o.GetAPIVersion(), o.GetKind())
	}
	g, err := w.gardens().Get(ctx, "roses", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if beds, _, _ := unstructured.NestedInt64(g.Object, "spec", "beds"); beds != 4 {
		return fmt.Errorf("after the scale there are %d beds", beds)
	}
	_, err = w.setBeds(ctx, "roses", 1)
	return err
}

// cbor looks at what the requests and answers were written in so far.
func (w *world) cbor(context.Context) error {
	w.types.Lock()
	defer w.types.Unlock()
	both := runtime.ContentTypeCBOR + " > " + runtime.ContentTypeCBOR
	if w.types.seen[both] == 0 {
		return fmt.Errorf("no request and answer in CBOR: %v", w.types.seen)
	}
	return nil
}

// pages lists in pages of ten what is made in one go.
func (w *world) pages(ctx context.Context) error {
	const all, page = 35, 10
	for i := range all {
		if _, err := w.gardens().Create(ctx, garden(fmt.Sprintf("page-%02d", i), map[string]any{"beds": int64(0), "kind": "page"}), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	var asked int
	p := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		asked++
		l, err := w.gardens().List(ctx, o)
		if err == nil && asked == 1 && (l.GetContinue() == "" || l.GetRemainingItemCount() == nil || *l.GetRemainingItemCount() < all-page) {
			err = fmt.Errorf("the first page: continue %q, remaining %v", l.GetContinue(), l.GetRemainingItemCount())
		}
		return l, err
	})
	p.PageSize = page
	var names []string
	err := p.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
		names = append(names, o.(*unstructured.Unstructured).GetName())
		return nil
	})
	if err != nil {
		return err
	}
	if len(names) != all+2 || asked != 4 || !slices.IsSorted(names) {
		return fmt.Errorf("%d in %d pages: %v", len(names), asked, names)
	}
	if err := w.gardens().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name!=roses,metadata.name!=lilies"}); err != nil {
		return err
	}
	l, err := w.gardens().List(ctx, metav1.ListOptions{})
	if err == nil && len(l.Items) != 2 {
		err = fmt.Errorf("%d are left", len(l.Items))
	}
	return err
}

func (w *world) metadataClient(ctx context.Context) error {
	in := w.metadata.Resource(gardens).Namespace(ns)
	l, err := in.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if len(l.Items) != 2 || l.Items[1].Name != "roses" {
		return fmt.Errorf("listed %+v", l)
	}
	events, err := in.Watch(ctx, metav1.ListOptions{ResourceVersion: l.ResourceVersion})
	if err != nil {
		return err
	}
	defer events.Stop()
	if _, err := in.Patch(ctx, "roses", types.MergePatchType, []byte(`{"metadata":{"annotations":{"seen":"yes"}}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	select {
	case e := <-events.ResultChan():
		o, err := meta.Accessor(e.Object)
		if err != nil || e.Type != watch.Modified || o.GetAnnotations()["seen"] != "yes" {
			return fmt.Errorf("event %+v: %w", e, err)
		}
	case <-ctx.Done():
		return errors.New("no event")
	}
	return nil
}
