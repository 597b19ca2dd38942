package controllers

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
)

// available says whether a pod has been ready for min seconds, and if it is
// ready but has not, how long that still takes.
func available(p *corev1.Pod, min int32, now time.Time) (ok bool, wait time.Duration) {
	if !core.PodReady(p) {
		return false, 0
	}
	if min == 0 {
		return true, 0
	}
	since := core.PodCondition(p, corev1.PodReady).LastTransitionTime
	if since.IsZero() {
		return false, 0
	}
	wait = since.Add(time.Duration(min) * time.Second).Sub(now)
	return wait <= 0, max(wait, 0)
}

// sooner is the shorter of two waits, of which zero means none.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// active says whether a pod runs, or may come to, and is not on its way out.
func active(p *corev1.Pod) bool { return !core.PodFinished(p) && p.DeletionTimestamp == nil }

// fromTemplate makes a pod of a template, controlled by owner.
func fromTemplate(t *corev1.PodTemplateSpec, owner api.Object, ref metav1.OwnerReference) *corev1.Pod {
	t = t.DeepCopy()
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: podPrefix(owner.GetName()), Namespace: owner.GetNamespace(),
			Labels: t.Labels, Annotations: t.Annotations, Finalizers: t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{ref},
		},
		Spec: t.Spec,
	}
}

// podPrefix is what the pods' names of an owner begin with.
func podPrefix(owner string) string {
	const most = 63 - 5 // names are labels of DNS; the server adds five letters
	return owner[:min(len(owner), most-1)] + "-"
}

// gradually calls do for 0 to n-1, few at first and more as they succeed, so that
// what can not work costs one request and not n. It returns how many succeeded.
func gradually(c *control.Cluster, n int, do func(i int) error) (made int, err error) {
	for batch := 1; made < n; batch *= 2 {
		first, size := made, min(batch, n-made)
		done := make([]bool, size)
		err := c.Each(size, func(i int) error {
			err := do(first + i)
			done[i] = err == nil
			return err
		})
		for _, ok := range done {
			if ok {
				made++
			}
		}
		if err != nil {
			return made, err
		}
	}
	return made, nil
}

// createPods makes n pods, and tells of each. It returns how many were made.
func createPods(ctx context.Context, c *control.Cluster, owner api.Object, n int, pod func(i int) *corev1.Pod) (made int, err error) {
	return gradually(c, n, func(i int) error {
		p, err := core.Pod.Create(ctx, c, pod(i))
		switch {
		case err == nil:
			c.Eventf(owner, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", p.Name)
		case !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			c.Eventf(owner, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return err
	})
}

// deletePods removes pods on behalf of owner.
func deletePods(ctx context.Context, c *control.Cluster, owner api.Object, pods []*corev1.Pod) error {
	return c.Each(len(pods), func(i int) error {
		p := pods[i]
		err := core.Pod.Delete(ctx, c, p.Namespace, p.Name, api.Options{UID: &p.UID})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			c.Eventf(owner, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
			return err
		}
		c.Eventf(owner, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", p.Name)
		return nil
	})
}

// leastUseful sorts pods in the order in which they go when there are too many.
// crowd says how many pods of the same kind are on the pod's node.
func leastUseful(pods []*corev1.Pod, crowd func(*corev1.Pod) int, now time.Time) {
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(
			cmp.Compare(truth(a.Spec.NodeName != ""), truth(b.Spec.NodeName != "")),
			cmp.Compare(phaseRank(a), phaseRank(b)),
			cmp.Compare(truth(core.PodReady(a)), truth(core.PodReady(b))),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			cmp.Compare(crowd(b), crowd(a)),
			younger(readySince(a), readySince(b), a, b, now),
			cmp.Compare(restarts(b), restarts(a)),
			younger(a.CreationTimestamp, b.CreationTimestamp, a, b, now),
		)
	})
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

func phaseRank(p *corev1.Pod) int {
	switch p.Status.Phase {
	case corev1.PodRunning:
		return 2
	case corev1.PodUnknown:
		return 1
	}
	return 0
}

// deletionCost reads controller.kubernetes.io/pod-deletion-cost (KEP-2255).
func deletionCost(p *corev1.Pod) int64 {
	n, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return n
}

func readySince(p *corev1.Pod) metav1.Time {
	if !core.PodReady(p) {
		return metav1.Time{}
	}
	return core.PodCondition(p, corev1.PodReady).LastTransitionTime
}

func restarts(p *corev1.Pod) (n int32) {
	for _, s := range p.Status.ContainerStatuses {
		n = max(n, s.RestartCount)
	}
	return n
}

// younger orders the younger time first, an unset one before all. Ages in the
// same power of two count as equal and are ordered by UID, which is as good as
// by chance (KEP-2185).
func younger(a, b metav1.Time, x, y *corev1.Pod, now time.Time) int {
	if a.Equal(&b) {
		return 0
	}
	if a.IsZero() || b.IsZero() {
		return cmp.Compare(truth(!a.IsZero()), truth(!b.IsZero()))
	}
	if magnitude(now.Sub(a.Time)) == magnitude(now.Sub(b.Time)) {
		return cmp.Compare(x.UID, y.UID)
	}
	return b.Compare(a.Time)
}

func magnitude(d time.Duration) int {
	if d <= 0 {
		return -1
	}
	return int(math.Log2(float64(d)))
}
