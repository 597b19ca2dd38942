package controllers

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/apps"
)

// Annotations that a deployment keeps on its replica sets, and kubectl reads.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"
	rollbackAnnotation = "deprecated.deployment.rollback.to"
)

// historyLength is how many characters of former revisions a replica set remembers.
const historyLength = 2000

// notCopied are the annotations that stay with the deployment.
var notCopied = map[string]bool{
	corev1.LastAppliedConfigAnnotation: true,
	revisionAnnotation:                 true,
	historyAnnotation:                  true,
	desiredAnnotation:                  true,
	maxAnnotation:                      true,
	rollbackAnnotation:                 true,
	rollbackChoice:                     true,
	configChoice:                       true,
	rolledBackRecord:                   true,
	configRecord:                       true,
	configUndo:                         true,
	healthyRecord:                      true,
}

func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	x, y := *a, *b
	x.Labels, y.Labels = without(a.Labels, appsv1.DefaultDeploymentUniqueLabelKey), without(b.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(x, y)
}

func without(m map[string]string, key string) map[string]string {
	if _, ok := m[key]; !ok {
		return m
	}
	m = maps.Clone(m)
	delete(m, key)
	return m
}

// templateHash names a template; collisions tells apart templates whose hashes are the same.
func templateHash(t *corev1.PodTemplateSpec, collisions *int32) string {
	b, _ := json.Marshal(t) // the API's types always have a JSON form
	return hashName(b, collisions)
}

// hashName is a short name for b, made of letters that spell no words.
func hashName(b []byte, collisions *int32) string {
	f := fnv.New32a()
	f.Write(b)
	if collisions != nil {
		f.Write(binary.LittleEndian.AppendUint64(nil, uint64(*collisions)))
	}
	return rand.SafeEncodeString(fmt.Sprint(f.Sum32()))
}

// oneMore counts a collision.
func oneMore(collisions *int32) *int32 {
	if collisions == nil {
		return new(int32(1))
	}
	return new(*collisions + 1)
}

func olderFirst[T api.Object](a, b T) int {
	was, is := a.GetCreationTimestamp(), b.GetCreationTimestamp()
	return cmp.Or(was.Compare(is.Time), cmp.Compare(a.GetName(), b.GetName()))
}

func byRevision(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(cmp.Compare(revisionOf(a), revisionOf(b)), olderFirst(a, b))
}

func revisionOf(o api.Object) int64 {
	n, _ := strconv.ParseInt(o.GetAnnotations()[revisionAnnotation], 10, 64)
	return n
}

func number(o api.Object, annotation string) (int32, bool) {
	n, err := strconv.ParseInt(o.GetAnnotations()[annotation], 10, 32)
	return int32(n), err == nil
}

// syncRevision brings the new replica set's annotations and the deployment's
// revision up to date; it makes the new replica set if there is none and create says so.
func (r *rollout) syncRevision(ctx context.Context, create bool) error {
	last := int64(0)
	for _, rs := range r.old {
		last = max(last, revisionOf(rs))
	}
	switch {
	case r.new != nil:
		again := false // an earlier revision has become the newest: it has the whole deadline before it
		next := api.Clone(r.new)
		annotate(next, r.d, last+1, true)
		next.Spec.MinReadySeconds = r.d.Spec.MinReadySeconds
		if !equality.Semantic.DeepEqual(next, r.new) {
			got, err := apps.ReplicaSet.Update(ctx, r.c, next)
			if err != nil {
				return err
			}
			again = revisionOf(got) > revisionOf(r.new)
			r.new = got
		}
		if cond := r.condition(appsv1.DeploymentProgressing); hasDeadline(r.d) && (cond == nil || again && cond.Reason == reasonTimedOut) {
			r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "FoundNewReplicaSet", fmt.Sprintf("Found new replica set %q", r.new.Name))
		}
	case create:
		if err := r.makeSet(ctx, last+1); err != nil {
			return err
		}
	default:
		return nil
	}
	return r.noteRevision(ctx)
}

// noteRevision copies the new replica set's revision to the deployment.
func (r *rollout) noteRevision(ctx context.Context) error {
	rev := r.new.Annotations[revisionAnnotation]
	if r.d.Annotations[revisionAnnotation] == rev {
		return nil
	}
	next := api.Clone(r.d)
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, revisionAnnotation, rev)
	got, err := apps.Deployment.Update(ctx, r.c, next)
	if err == nil {
		r.d = got
	}
	return err
}

// annotate copies the deployment's annotations to its new replica set and gives
// it a revision, if that is later than the one it has.
func annotate(rs *appsv1.ReplicaSet, d *appsv1.Deployment, revision int64, exists bool) {
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	for k, v := range d.Annotations {
		if !notCopied[k] {
			rs.Annotations[k] = v
		}
	}
	if old := rs.Annotations[revisionAnnotation]; revisionOf(rs) < revision {
		rs.Annotations[revisionAnnotation] = strconv.FormatInt(revision, 10)
		if exists && old != "" {
			rs.Annotations[historyAnnotation] = addHistory(rs.Annotations[historyAnnotation], old)
		}
	}
	if !exists {
		annotateSize(rs, d)
	}
}

func addHistory(history, old string) string {
	if history == "" {
		return old
	}
	all := strings.Split(history, ",")
	if all[len(all)-1] == old {
		return history
	}
	all = append(all, old)
	for len(all) > 1 && len(strings.Join(all, ",")) > historyLength {
		all = all[1:]
	}
	return strings.Join(all, ",")
}

func annotateSize(rs *appsv1.ReplicaSet, d *appsv1.Deployment) {
	surge, _ := fenceposts(d)
	metav1.SetMetaDataAnnotation(&rs.ObjectMeta, desiredAnnotation, fmt.Sprint(*d.Spec.Replicas))
	metav1.SetMetaDataAnnotation(&rs.ObjectMeta, maxAnnotation, fmt.Sprint(*d.Spec.Replicas+surge))
}

// makeSet creates the replica set of the current template.
func (r *rollout) makeSet(ctx context.Context, revision int64) error {
	d := r.d
	hash := templateHash(&d.Spec.Template, r.collisions)
	t := d.Spec.Template.DeepCopy()
	metav1.SetMetaDataLabel(&t.ObjectMeta, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	sel := d.Spec.Selector.DeepCopy()
	if sel.MatchLabels == nil {
		sel.MatchLabels = map[string]string{}
	}
	sel.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: d.Name + "-" + hash, Namespace: d.Namespace, Labels: maps.Clone(t.Labels),
			OwnerReferences: []metav1.OwnerReference{control.OwnerRef(apps.Deployment, d)},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: new(int32), MinReadySeconds: d.Spec.MinReadySeconds, Selector: sel, Template: *t},
	}
	n := newReplicas(d, append(r.all(), rs), rs, r.extra())
	rs.Spec.Replicas = &n
	annotate(rs, d, revision, false)
	name := rs.Name
	got, err := apps.ReplicaSet.Create(ctx, r.c, rs)
	if apierrors.IsAlreadyExists(err) {
		got, err = r.collision(ctx, name, err)
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return err
	}
	if err != nil {
		msg := fmt.Sprintf("Failed to create new replica set %q: %v", name, err)
		if hasDeadline(d) {
			r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, "ReplicaSetCreateError", msg)
		}
		r.c.Eventf(d, corev1.EventTypeWarning, "ReplicaSetCreateError", "%s", msg)
		return err
	}
	r.new = got
	if n > 0 {
		r.c.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", got.Name, n)
	}
	if hasDeadline(d) {
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", got.Name))
	}
	return nil
}

// collision finds out whose the name is that the new replica set was to have:
// its own, made before this was known here, or another template's.
func (r *rollout) collision(ctx context.Context, name string, exists error) (*appsv1.ReplicaSet, error) {
	rs, err := apps.ReplicaSet.Get(ctx, r.c, r.d.Namespace, name)
	if err != nil {
		return nil, err
	}
	if metav1.IsControlledBy(rs, r.d) && sameTemplate(&rs.Spec.Template, &r.d.Spec.Template) {
		return rs, nil
	}
	r.collisions = oneMore(r.collisions)
	return nil, exists
}
