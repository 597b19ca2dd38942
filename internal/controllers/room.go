package controllers

import (
	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/core"
)

// roomFor queues the objects that lack something when a quota in their namespace has
// more room than before, or is gone: what it refused would else wait until a pause of
// minutes is over.
func roomFor[T api.Object](k *api.Kind[T], lacks func(T) bool) control.Watch {
	w := control.On(core.ResourceQuota, func(c *control.Cluster, q *corev1.ResourceQuota) (keys []control.Key) {
		for _, o := range control.All(c, k, q.Namespace) {
			if lacks(o) {
				keys = append(keys, control.KeyOf(o))
			}
		}
		return keys
	})
	w.When = func(old, new api.Object) bool {
		return moreRoom(&old.(*corev1.ResourceQuota).Status, &new.(*corev1.ResourceQuota).Status)
	}
	return w
}

// moreRoom says whether of anything more may be used now than before.
func moreRoom(old, new *corev1.ResourceQuotaStatus) bool {
	for name, hard := range new.Hard {
		was, bounded := old.Hard[name]
		if !bounded {
			continue
		}
		hard, was = hard.DeepCopy(), was.DeepCopy()
		hard.Sub(new.Used[name])
		was.Sub(old.Used[name])
		if hard.Cmp(was) > 0 {
			return true
		}
	}
	return len(new.Hard) < len(old.Hard)
}
