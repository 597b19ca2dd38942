package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/retry"
)

// change changes the definition of gardens.
func (w *world) change(ctx context.Context, f func(*apiextensionsv1.CustomResourceDefinition)) error {
	crds := w.crds.ApiextensionsV1().CustomResourceDefinitions()
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		crd, err := crds.Get(ctx, gardenDefinition().Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		f(crd)
		_, err = crds.Update(ctx, crd, metav1.UpdateOptions{})
		return err
	})
}

// stricter allows less than is stored: what is there may stay as it is.
func (w *world) stricter(ctx context.Context) error {
	if _, err := w.setBeds(ctx, "lilies", 50); err != nil {
		return err
	}
	err := w.change(ctx, func(crd *apiextensionsv1.CustomResourceDefinition) {
		spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
		beds := spec.Properties["beds"]
		beds.Maximum = new(float64(10))
		spec.Properties["beds"] = beds
	})
	if err != nil {
		return err
	}
	err = until(ctx, "the new schema is in force", func() (bool, error) {
		_, err := w.gardens().Create(ctx, garden("trial", map[string]any{"beds": int64(11)}), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if apierrors.IsInvalid(err) {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		return err
	}
	if _, err := w.gardens().Patch(ctx, "lilies", types.MergePatchType, []byte(`{"spec":{"soil":"chalk"}}`), metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("what was there is refused: %w", err)
	}
	if _, err := w.setBeds(ctx, "lilies", 51); !apierrors.IsInvalid(err) {
		return fmt.Errorf("a new value that is too large: %w", err)
	}
	_, err = w.setBeds(ctx, "lilies", 0)
	return err
}

// secondVersion serves the same objects in one more version, and stores in it.
func (w *world) secondVersion(ctx context.Context) error {
	events, err := w.gardens().Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer events.Stop()
	err = w.change(ctx, func(crd *apiextensionsv1.CustomResourceDefinition) {
		v2 := crd.Spec.Versions[0].DeepCopy()
		v2.Name = "v2"
		crd.Spec.Versions[0].Storage = false
		crd.Spec.Versions = append(crd.Spec.Versions, *v2)
	})
	if err != nil {
		return err
	}
	second := gardens.GroupVersion().WithResource("gardens")
	second.Version = "v2"
	in := w.dynamic.Resource(second).Namespace(ns)
	var l *unstructured.UnstructuredList
	err = until(ctx, "v2 is served", func() (bool, error) {
		l, err = in.List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	made := garden("second", map[string]any{"beds": int64(0)})
	made.SetAPIVersion("plants.example.com/v2")
	if made, err = in.Create(ctx, made, metav1.CreateOptions{}); err != nil {
		return err
	}
	if made.GetAPIVersion() != "plants.example.com/v2" || l.GetAPIVersion() != "plants.example.com/v2" || len(l.Items) != 2 || l.Items[0].GetAPIVersion() != "plants.example.com/v2" {
		return fmt.Errorf("made %v, listed %v", made, l)
	}
	old, err := w.gardens().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, o := range old.Items {
		if o.GetAPIVersion() != "plants.example.com/v1" {
			return fmt.Errorf("in a list of v1 there is %v", o)
		}
	}
	if err := w.seen(ctx, events, old.GetResourceVersion()); err != nil {
		return err
	}
	crd, err := w.crds.ApiextensionsV1().CustomResourceDefinitions().Get(ctx, gardenDefinition().Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if fmt.Sprint(crd.Status.StoredVersions) != "[v1 v2]" {
		return fmt.Errorf("stored versions %v", crd.Status.StoredVersions)
	}
	return until(ctx, "v2 is preferred", func() (bool, error) {
		w.mapper.Reset()
		m, err := w.mapper.RESTMapping(schema.GroupKind{Group: gardens.Group, Kind: "Garden"})
		return err == nil && m.Resource.Version == "v2", err
	})
}

// seen waits for the new garden on a watch that was there before the
// definition changed; it may have been ended, as the watches of a kind are when it changes.
func (w *world) seen(ctx context.Context, events watch.Interface, _ string) error {
	for {
		select {
		case e, open := <-events.ResultChan():
			if !open {
				again, err := w.gardens().Watch(ctx, metav1.ListOptions{})
				if err != nil {
					return err
				}
				defer again.Stop()
				events = again
				continue
			}
			if o, err := meta.Accessor(e.Object); err == nil && o.GetName() == "second" {
				if got := e.Object.GetObjectKind().GroupVersionKind().Version; got != "v1" {
					return fmt.Errorf("the watch of v1 has an object of %s", got)
				}
				return nil
			}
		case <-ctx.Done():
			return errors.New("the watch does not tell of the new garden")
		}
	}
}

// garbage deletes owners in each of the three ways.
func (w *world) garbage(ctx context.Context) error {
	stop, err := w.start(ctx)
	if err != nil {
		return err
	}
	defer stop()
	for _, how := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
		name := map[metav1.DeletionPropagation]string{"Background": "back", "Foreground": "fore", "Orphan": "orphan"}[how]
		made, err := w.gardens().Create(ctx, garden(name, map[string]any{"beds": int64(3)}), metav1.CreateOptions{})
		if err != nil {
			return err
		}
		owned := &corev1.ConfigMap{}
		owned.Name, owned.OwnerReferences = name, plant(made, "").GetOwnerReferences()
		if _, err := w.core.CoreV1().ConfigMaps(ns).Create(ctx, owned, metav1.CreateOptions{}); err != nil {
			return err
		}
		if err := w.planted(ctx, name, 3); err != nil {
			return err
		}
		if err := w.gardens().Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &how}); err != nil {
			return err
		}
		err = until(ctx, string(how), func() (bool, error) {
			_, gone := w.gardens().Get(ctx, name, metav1.GetOptions{})
			l, err := w.plants().List(ctx, metav1.ListOptions{LabelSelector: "garden=" + name})
			if err != nil {
				return false, err
			}
			_, err = w.core.CoreV1().ConfigMaps(ns).Get(ctx, name, metav1.GetOptions{})
			if how != metav1.DeletePropagationOrphan {
				return apierrors.IsNotFound(gone) && len(l.Items) == 0 && apierrors.IsNotFound(err), nil
			}
			if len(l.Items) != 3 || err != nil {
				return false, fmt.Errorf("orphans: %d plants: %w", len(l.Items), err)
			}
			return apierrors.IsNotFound(gone) && l.Items[0].GetOwnerReferences() == nil, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// end deletes a definition while an object of it has a finalizer.
func (w *world) end(ctx context.Context) error {
	if _, err := w.gardens().Patch(ctx, "roses", types.MergePatchType, []byte(`{"metadata":{"finalizers":["example.com/winter"]}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	crds := w.crds.ApiextensionsV1().CustomResourceDefinitions()
	for _, name := range []string{gardenDefinition().Name, plantDefinition().Name} {
		if err := crds.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	err := until(ctx, "what has no finalizer is gone", func() (bool, error) {
		l, err := w.gardens().List(ctx, metav1.ListOptions{})
		return err == nil && len(l.Items) == 1 && l.Items[0].GetDeletionTimestamp() != nil, err
	})
	if err != nil {
		return err
	}
	crd, err := crds.Get(ctx, gardenDefinition().Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if !is(crd, apiextensionsv1.Terminating) || crd.DeletionTimestamp == nil {
		return fmt.Errorf("while it ends: %+v", crd.Status)
	}
	if _, err := w.gardens().Create(ctx, garden("late", nil), metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "definition is terminating") {
		return fmt.Errorf("a create while it ends: %w", err)
	}
	if _, err := w.gardens().Patch(ctx, "roses", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	return until(ctx, "the group is gone", func() (bool, error) {
		if _, err := crds.Get(ctx, gardenDefinition().Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return false, err
		}
		if _, err := w.gardens().List(ctx, metav1.ListOptions{}); !apierrors.IsNotFound(err) {
			return false, err
		}
		groups, err := w.core.Discovery().ServerGroups()
		if err != nil {
			return false, err
		}
		for _, g := range groups.Groups {
			if g.Name == gardens.Group {
				return false, nil
			}
		}
		paths, err := w.core.Discovery().OpenAPIV3().Paths()
		if err != nil || paths["apis/plants.example.com/v1"] != nil {
			return false, err
		}
		w.mapper.Reset()
		_, err = w.mapper.RESTMapping(schema.GroupKind{Group: gardens.Group, Kind: "Garden"})
		if meta.IsNoMatchError(err) {
			return true, nil
		}
		return false, err
	})
}

// again defines the same kind: nothing of before is in it. Now it is of the cluster.
func (w *world) again(ctx context.Context) error {
	crd := gardenDefinition()
	crd.Spec.Scope = apiextensionsv1.ClusterScoped
	if err := w.establish(ctx, crd); err != nil {
		return err
	}
	all := w.dynamic.Resource(gardens)
	err := until(ctx, "it is served again", func() (bool, error) {
		l, err := all.List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		if err == nil && len(l.Items) > 0 {
			err = fmt.Errorf("there is %v", l.Items)
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	made, err := all.Create(ctx, garden("wide", nil), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if made.GetNamespace() != "" {
		return fmt.Errorf("made %v", made)
	}
	if _, err := w.gardens().List(ctx, metav1.ListOptions{}); !apierrors.IsNotFound(err) {
		return fmt.Errorf("a list in a namespace: %w", err)
	}
	return w.crds.ApiextensionsV1().CustomResourceDefinitions().Delete(ctx, crd.Name, metav1.DeleteOptions{})
}
