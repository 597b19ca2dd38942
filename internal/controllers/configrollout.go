package controllers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/apps"
	"proa/internal/kinds/core"
)

// ConfigRollout rolls a deployment out anew when a ConfigMap or a Secret changes
// that its pods read, if the deployment asks for that. It keeps copies of what each
// revision read; when the rollout is taken back, these are put back as well.
//
// How far it is stands in the deployment's annotations, so that it may stop
// anywhere: the copies are there before the hash is, the hash changes with the
// template, and what is to be undone is noted with the template that is put back.
var ConfigRollout = &control.Controller[*appsv1.Deployment]{
	Name: "config-rollout",
	For:  apps.Deployment,
	Owns: []api.Definition{apps.ReplicaSet},
	Watches: []control.Watch{
		{Kind: core.ConfigMap, Keys: readers("ConfigMap"), Slim: true},
		{Kind: core.Secret, Keys: readers("Secret"), Slim: true},
	},
	Writes:    []api.Definition{core.ConfigMap, core.Secret},
	Reconcile: reconcileConfig,
}

// Labels and annotation of the copies.
const (
	copyOwner = "proa.dev/config-of"   // the deployment's UID
	copyHash  = "proa.dev/config-hash" // the whole configuration that it is part of
	copyName  = "proa.dev/copy-of"     // the original's name
)

// readers returns the keys of the gated deployments that read the object.
func readers(kind string) func(*control.Cluster, api.Object) []control.Key {
	return func(c *control.Cluster, o api.Object) (keys []control.Key) {
		for _, d := range control.All(c, apps.Deployment, o.GetNamespace()) {
			if configGated(d) && slices.Contains(configRefs(&d.Spec.Template.Spec), configRef{kind, o.GetName()}) {
				keys = append(keys, control.KeyOf(d))
			}
		}
		return keys
	}
}

// A configRef names a ConfigMap or Secret that a pod reads.
type configRef struct{ Kind, Name string }

// configRefs are all that a pod's volumes and variables come from, in order.
func configRefs(s *corev1.PodSpec) (out []configRef) {
	add := func(kind, name string) {
		if r := (configRef{kind, name}); name != "" && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	for _, v := range s.Volumes {
		if v.ConfigMap != nil {
			add("ConfigMap", v.ConfigMap.Name)
		}
		if v.Secret != nil {
			add("Secret", v.Secret.SecretName)
		}
		if v.Projected == nil {
			continue
		}
		for _, p := range v.Projected.Sources {
			if p.ConfigMap != nil {
				add("ConfigMap", p.ConfigMap.Name)
			}
			if p.Secret != nil {
				add("Secret", p.Secret.Name)
			}
		}
	}
	for _, c := range slices.Concat(s.InitContainers, s.Containers) {
		for _, e := range c.EnvFrom {
			if e.ConfigMapRef != nil {
				add("ConfigMap", e.ConfigMapRef.Name)
			}
			if e.SecretRef != nil {
				add("Secret", e.SecretRef.Name)
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
				add("ConfigMap", e.ValueFrom.ConfigMapKeyRef.Name)
			}
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				add("Secret", e.ValueFrom.SecretKeyRef.Name)
			}
		}
	}
	slices.SortFunc(out, func(a, b configRef) int { return slices.Compare([]string{a.Kind, a.Name}, []string{b.Kind, b.Name}) })
	return out
}

// A content is what a ConfigMap or Secret holds.
type content struct {
	Text map[string]string
	Data map[string][]byte
	Type corev1.SecretType
}

func contentOf(o api.Object) *content {
	switch o := o.(type) {
	case *corev1.ConfigMap:
		return &content{Text: o.Data, Data: o.BinaryData}
	case *corev1.Secret:
		return &content{Data: o.Data, Type: o.Type}
	}
	return nil
}

// object is a new object that holds the content.
func (x *content) object(kind string, meta metav1.ObjectMeta) api.Object {
	if kind == "Secret" {
		return &corev1.Secret{ObjectMeta: meta, Data: x.Data, Type: x.Type}
	}
	return &corev1.ConfigMap{ObjectMeta: meta, Data: x.Text, BinaryData: x.Data}
}

func kindOfConfig(kind string) *api.Kind[api.Object] {
	if kind == "Secret" {
		return api.Untyped(core.Secret.Def())
	}
	return api.Untyped(core.ConfigMap.Def())
}

// A configuration is what a deployment's pods read, what is not there left out.
type configuration map[configRef]*content

func (x configuration) hash(refs []configRef) string {
	h := sha256.New()
	for _, ref := range refs {
		b, _ := json.Marshal([]any{ref, x[ref]}) // maps of strings always have a JSON form
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

func readConfig(ctx context.Context, c *control.Cluster, ns string, refs []configRef) (configuration, error) {
	out := configuration{}
	for _, ref := range refs {
		o, err := kindOfConfig(ref.Kind).Get(ctx, c, ns, ref.Name)
		if err == nil {
			if x := contentOf(o); x.Type != corev1.SecretTypeServiceAccountToken { // that is no configuration
				out[ref] = x
			}
		} else if !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	return out, nil
}

func reconcileConfig(ctx context.Context, c *control.Cluster, d *appsv1.Deployment) (time.Duration, error) {
	if !configGated(d) || d.DeletionTimestamp != nil {
		return 0, nil
	}
	if bad := d.Annotations[configUndo]; bad != "" {
		return 0, ignoreTerminating(putBack(ctx, c, d, bad))
	}
	refs := configRefs(&d.Spec.Template.Spec)
	now, err := readConfig(ctx, c, d.Namespace, refs)
	if err != nil {
		return 0, err
	}
	hash, noted := now.hash(refs), d.Annotations[configRecord]
	if hash == noted {
		return 0, forget(ctx, c, d)
	}
	if d.Spec.Paused && noted != "" {
		return 0, nil // it goes out with what else has changed by then
	}
	kept, err := keptConfigs(ctx, c, d)
	if err != nil {
		return 0, err
	}
	if noted == "" && len(kept) == 1 { // the note was lost, or could not be made yet
		for was := range kept {
			return 0, noteConfig(ctx, c, d, was)
		}
	}
	changed := now.changed(kept[noted])
	if changed && !marked(c, d) {
		return time.Second, nil
	}
	if err := keep(ctx, c, d, refs, now, hash); err != nil {
		return 0, ignoreTerminating(err)
	}
	next := api.Clone(d)
	next.Annotations[configRecord] = hash
	if changed {
		metav1.SetMetaDataAnnotation(&next.Spec.Template.ObjectMeta, configRecord, hash)
		c.Eventf(d, corev1.EventTypeNormal, "ConfigChanged", "What the pods read has changed: rolling out anew")
	}
	_, err = apps.Deployment.Update(ctx, c, next)
	return 0, ignoreNotFound(err)
}

// noteConfig writes down which configuration is in use.
func noteConfig(ctx context.Context, c *control.Cluster, d *appsv1.Deployment, hash string) error {
	next := api.Clone(d)
	next.Annotations[configRecord] = hash
	_, err := apps.Deployment.Update(ctx, c, next)
	return ignoreNotFound(err)
}

// marked says whether it is known of the newest replica set with which configuration
// it is healthy, if it is: a rollout waits for that, so that there is a way back.
func marked(c *control.Cluster, d *appsv1.Deployment) bool {
	if *d.Spec.Replicas == 0 || !rolledOut(d, &d.Status) {
		return true
	}
	var last *appsv1.ReplicaSet
	for _, rs := range control.Owned(c, apps.ReplicaSet, d.UID) {
		if last == nil || byRevision(rs, last) > 0 {
			last = rs
		}
	}
	return last == nil || last.Annotations[healthyRecord] == d.Annotations[configRecord]
}

// changed says whether an object that was read before, too, holds something else.
// One that has come or gone, or that the template names anew, is no reason of its own.
func (x configuration) changed(before configuration) bool {
	for ref, was := range before {
		if is := x[ref]; is != nil && !equality.Semantic.DeepEqual(is, was) {
			return true
		}
	}
	return false
}

// keep makes copies of a configuration.
func keep(ctx context.Context, c *control.Cluster, d *appsv1.Deployment, refs []configRef, now configuration, hash string) error {
	for i, ref := range refs {
		if now[ref] == nil {
			continue
		}
		meta := metav1.ObjectMeta{
			Name: fmt.Sprintf("%sconfig-%s-%d", podPrefix(d.Name), hash, i), Namespace: d.Namespace,
			Labels:          map[string]string{copyOwner: string(d.UID), copyHash: hash},
			Annotations:     map[string]string{copyName: ref.Name},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: d.Name, UID: d.UID}},
		}
		if _, err := kindOfConfig(ref.Kind).Create(ctx, c, now[ref].object(ref.Kind, meta)); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("keep a copy of %s %s: %w", ref.Kind, ref.Name, err)
		}
	}
	return nil
}

// copies are those of a deployment's configurations.
func copies(ctx context.Context, c *control.Cluster, d *appsv1.Deployment, visit func(kind string, o api.Object) error) error {
	for _, kind := range []string{"ConfigMap", "Secret"} {
		all, err := kindOfConfig(kind).List(ctx, c, d.Namespace, api.Selectors{Labels: labels.SelectorFromSet(labels.Set{copyOwner: string(d.UID)})})
		if err != nil {
			return err
		}
		for _, o := range all {
			if err := visit(kind, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// keptConfigs are the configurations of which there are copies, by hash.
func keptConfigs(ctx context.Context, c *control.Cluster, d *appsv1.Deployment) (map[string]configuration, error) {
	kept := map[string]configuration{}
	return kept, copies(ctx, c, d, func(kind string, o api.Object) error {
		hash := o.GetLabels()[copyHash]
		if kept[hash] == nil {
			kept[hash] = configuration{}
		}
		kept[hash][configRef{kind, o.GetAnnotations()[copyName]}] = contentOf(o)
		return nil
	})
}

// putBack gives the originals what they held before, where they still hold what
// did not become healthy, and notes that it is done.
func putBack(ctx context.Context, c *control.Cluster, d *appsv1.Deployment, bad string) error {
	kept, err := keptConfigs(ctx, c, d)
	if err != nil {
		return err
	}
	for ref, good := range kept[d.Annotations[configRecord]] {
		k := kindOfConfig(ref.Kind)
		now, err := k.Get(ctx, c, d.Namespace, ref.Name)
		switch {
		case apierrors.IsNotFound(err):
			if kept[bad][ref] != nil {
				continue // somebody else has seen to it
			}
			_, err = k.Create(ctx, c, good.object(ref.Kind, metav1.ObjectMeta{Name: ref.Name, Namespace: d.Namespace}))
		case err == nil && equality.Semantic.DeepEqual(contentOf(now), kept[bad][ref]) && !equality.Semantic.DeepEqual(contentOf(now), good):
			next := api.Clone(now)
			switch o := next.(type) {
			case *corev1.ConfigMap:
				o.Data, o.BinaryData = good.Text, good.Data
			case *corev1.Secret:
				o.Data = good.Data
			}
			_, err = k.Update(ctx, c, next)
		}
		if err != nil {
			return fmt.Errorf("put %s %s back: %w", ref.Kind, ref.Name, err)
		}
	}
	next := api.Clone(d)
	delete(next.Annotations, configUndo)
	if _, err := apps.Deployment.Update(ctx, c, next); err != nil {
		return ignoreNotFound(err)
	}
	c.Eventf(d, corev1.EventTypeWarning, "ConfigRolledBack", "The configuration did not become healthy; put back what the pods read before")
	return nil
}

// forget removes the copies that no revision needs any more.
func forget(ctx context.Context, c *control.Cluster, d *appsv1.Deployment) error {
	needed := map[string]bool{d.Annotations[configRecord]: true}
	for _, rs := range control.Owned(c, apps.ReplicaSet, d.UID) {
		needed[rs.Annotations[healthyRecord]] = true
	}
	return copies(ctx, c, d, func(kind string, o api.Object) error {
		if needed[o.GetLabels()[copyHash]] {
			return nil
		}
		uid := o.GetUID()
		return ignoreNotFound(kindOfConfig(kind).Delete(ctx, c, o.GetNamespace(), o.GetName(), api.Options{UID: &uid}))
	})
}
