package controllers

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/podspec"
)

// A history is the pod templates that an object has had, each in a
// ControllerRevision. kubectl rollout reads them, and undoes by patching with one.
type history[P api.Object] struct {
	c          *control.Cluster
	kind       *api.Kind[P]
	owner      P
	template   *corev1.PodTemplateSpec
	hashLabel  string // of the revisions
	all        []*appsv1.ControllerRevision
	collisions *int32          // as the status is to have it
	fresh      map[string]bool // hashes of the revisions of the template as it is now; there may be several if somebody made one
}

// load finds the revisions of the owner, the oldest first.
func (h *history[P]) load(ctx context.Context, sel labels.Selector) (err error) {
	if h.all, err = claim(ctx, h.c, h.kind, apps.ControllerRevision, h.owner, sel); err != nil {
		return err
	}
	slices.SortStableFunc(h.all, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), olderFirst(a, b))
	})
	return nil
}

// named is the revision of a name, or nil.
func (h *history[P]) named(name string) *appsv1.ControllerRevision {
	for _, r := range h.all {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// newest is the revision of the template as it is now. It is made if there is
// none; an older one of the same template becomes the newest again.
func (h *history[P]) newest(ctx context.Context) (*appsv1.ControllerRevision, error) {
	data, err := revisionData(h.template)
	if err != nil {
		return nil, err
	}
	last := int64(0)
	var same *appsv1.ControllerRevision
	h.fresh = map[string]bool{}
	for _, r := range h.all {
		last = max(last, r.Revision)
		if h.holds(r, data) {
			same = r
			h.fresh[r.Labels[h.hashLabel]] = true
		}
	}
	delete(h.fresh, "")
	if same == nil {
		same, err = h.add(ctx, data, last+1)
		if err == nil {
			h.fresh[same.Labels[h.hashLabel]] = true
		}
		return same, err
	}
	hash := same.Labels[h.hashLabel]
	if same.Revision == last && hash != "" {
		return same, nil
	}
	next := api.Clone(same)
	next.Revision = last
	if same.Revision < last {
		next.Revision++
	}
	if hash == "" { // somebody made it
		hash = same.Name[max(len(same.Name)-63, 0):]
		metav1.SetMetaDataLabel(&next.ObjectMeta, h.hashLabel, hash)
		h.fresh[hash] = true
	}
	got, err := apps.ControllerRevision.Update(ctx, h.c, next)
	if err != nil {
		return nil, err
	}
	h.all = append(slices.DeleteFunc(h.all, func(r *appsv1.ControllerRevision) bool { return r.UID == got.UID }), got)
	return got, nil
}

// holds says whether a revision is of the template that data is made of. One
// that an earlier release wrote may lack what has a default since.
func (h *history[P]) holds(r *appsv1.ControllerRevision, data []byte) bool {
	if bytes.Equal(r.Data.Raw, data) {
		return true
	}
	t, err := revisionTemplate(r)
	return err == nil && equality.Semantic.DeepEqual(t, h.template)
}

func (h *history[P]) add(ctx context.Context, data []byte, number int64) (*appsv1.ControllerRevision, error) {
	const room = 253 - 30 // for the hash
	hash := hashName(data, h.collisions)
	prefix := h.owner.GetName()
	r := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Name: prefix[:min(len(prefix), room)] + "-" + hash, Namespace: h.owner.GetNamespace(),
			Labels: maps.Clone(h.template.Labels), Annotations: maps.Clone(h.owner.GetAnnotations()),
			OwnerReferences: []metav1.OwnerReference{control.OwnerRef(h.kind, h.owner)},
		},
		Data: runtime.RawExtension{Raw: data}, Revision: number,
	}
	metav1.SetMetaDataLabel(&r.ObjectMeta, h.hashLabel, hash)
	got, err := apps.ControllerRevision.Create(ctx, h.c, r)
	if apierrors.IsAlreadyExists(err) {
		there, geterr := apps.ControllerRevision.Get(ctx, h.c, r.Namespace, r.Name)
		switch {
		case geterr != nil:
			return nil, geterr
		case metav1.IsControlledBy(there, h.owner) && h.holds(there, data):
			return there, nil // it was made before this was known here
		}
		h.collisions = oneMore(h.collisions)
		return nil, err
	}
	if err == nil {
		h.all = append(h.all, got)
	}
	return got, err
}

// prune removes the oldest revisions that are not in use, beyond a limit.
func (h *history[P]) prune(ctx context.Context, limit *int32, used func(*appsv1.ControllerRevision) bool) error {
	if limit == nil {
		return nil
	}
	old := slices.DeleteFunc(slices.Clone(h.all), func(r *appsv1.ControllerRevision) bool { return used(r) || r.DeletionTimestamp != nil })
	for _, r := range old[:max(len(old)-int(*limit), 0)] {
		if err := apps.ControllerRevision.Delete(ctx, h.c, r.Namespace, r.Name, api.Options{UID: &r.UID}); ignoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

// revisionData is the patch that gives an object a template.
func revisionData(t *corev1.PodTemplateSpec) ([]byte, error) {
	b, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	var template map[string]any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&template); err != nil {
		return nil, err
	}
	template["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": template}})
}

// revisionTemplate is the template that a revision holds.
func revisionTemplate(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var patch struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &patch); err != nil {
		return nil, fmt.Errorf("read controller revision %s/%s: %w", r.Namespace, r.Name, err)
	}
	podspec.DefaultTemplate(&patch.Spec.Template)
	return &patch.Spec.Template, nil
}
