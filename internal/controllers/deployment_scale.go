package controllers

import (
	"cmp"
	"context"
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/internal/api"
	"proa/internal/kinds/apps"
)

// fenceposts are how many pods there may be above the wanted number, and how
// many may be missing. They are never both zero.
func fenceposts(d *appsv1.Deployment) (surge, unavailable int32) {
	ru := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || ru == nil {
		return 0, 0
	}
	part := func(v *intstr.IntOrString, up bool) int32 {
		zero := intstr.FromInt32(0)
		n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(v, zero), int(*d.Spec.Replicas), up)
		if err != nil {
			return 0
		}
		return int32(n)
	}
	surge, unavailable = part(ru.MaxSurge, true), part(ru.MaxUnavailable, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, min(unavailable, *d.Spec.Replicas)
}

func wanted(sets []*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		n += *rs.Spec.Replicas
	}
	return n
}

// availableIn is how many pods of a set are available and stay: its status may
// still speak of those that it was just asked to end.
func availableIn(rs *appsv1.ReplicaSet) int32 {
	return min(rs.Status.AvailableReplicas, *rs.Spec.Replicas)
}

func availableOf(sets []*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		n += availableIn(rs)
	}
	return n
}

// newReplicas is the size the new replica set may have now. Extra is how many more
// pods there still are than the replica sets are to have.
func newReplicas(d *appsv1.Deployment, all []*appsv1.ReplicaSet, rs *appsv1.ReplicaSet, extra int32) int32 {
	want, have := *d.Spec.Replicas, *rs.Spec.Replicas
	if have >= want || d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return want
	}
	surge, _ := fenceposts(d)
	room := want + surge - wanted(all) - extra
	if room <= 0 {
		return have
	}
	return have + min(room, want-have)
}

// A size is what a replica set is to be scaled to.
type size struct {
	set  *appsv1.ReplicaSet
	size int32
}

// shrinkOld decides which old replica sets become smaller now, so that enough
// pods stay available: first those pods go that are not, then others.
func shrinkOld(d *appsv1.Deployment, rs *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) (out []size) {
	_, unavailable := fenceposts(d)
	least := *d.Spec.Replicas - unavailable
	all := append(slices.Clone(old), rs)
	spare := wanted(all) - least - (*rs.Spec.Replicas - availableIn(rs))
	if wanted(old) == 0 || spare <= 0 {
		return nil
	}
	old = slices.Clone(old)
	slices.SortStableFunc(old, olderFirst)
	to := make([]int32, len(old))
	for i, s := range old { // the unhealthy
		to[i] = *s.Spec.Replicas
		n := min(spare, to[i]-availableIn(s))
		to[i] -= n
		spare -= n
	}
	healthy := availableOf(all) - least
	for i := range old {
		n := min(max(healthy, 0), to[i])
		to[i] -= n
		healthy -= n
	}
	for i, s := range old {
		if to[i] != *s.Spec.Replicas {
			out = append(out, size{s, to[i]})
		}
	}
	return out
}

// resize scales a replica set, and notes what it was scaled for.
func (r *rollout) resize(ctx context.Context, rs *appsv1.ReplicaSet, n int32) error {
	next := api.Clone(rs)
	from := *rs.Spec.Replicas
	next.Spec.Replicas = &n
	annotateSize(next, r.d)
	if equality.Semantic.DeepEqual(next, rs) {
		return nil
	}
	got, err := apps.ReplicaSet.Update(ctx, r.c, next)
	if err != nil {
		return err
	}
	r.replace(got)
	if from != n {
		verb := "up"
		if n < from {
			verb = "down"
		}
		r.c.Eventf(r.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", verb, rs.Name, from, n)
	}
	return nil
}

func (r *rollout) replace(rs *appsv1.ReplicaSet) {
	if r.new != nil && r.new.UID == rs.UID {
		r.new = rs
	}
	for i, o := range r.old {
		if o.UID == rs.UID {
			r.old[i] = rs
		}
	}
}

// scale spreads a new size of the deployment over its replica sets without
// taking the rollout forward.
func (r *rollout) scale(ctx context.Context) error {
	for _, s := range r.planScale() {
		if err := r.resize(ctx, s.set, s.size); err != nil {
			return err
		}
	}
	return nil
}

func (r *rollout) planScale() (out []size) {
	running := func(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
		return slices.DeleteFunc(slices.Clone(sets), func(rs *appsv1.ReplicaSet) bool { return *rs.Spec.Replicas == 0 })
	}
	want := *r.d.Spec.Replicas
	sets := running(r.all())
	switch {
	case len(sets) == 1:
		return []size{{sets[0], want}}
	case len(sets) == 0 && r.new != nil:
		return []size{{r.new, want}}
	case len(sets) == 0 && len(r.old) > 0:
		return []size{{r.old[len(r.old)-1], want}}
	case len(sets) == 0:
		return nil
	}
	if r.saturated() {
		for _, rs := range running(r.old) {
			out = append(out, size{rs, 0})
		}
		return out
	}
	if r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || !r.resized() {
		return nil // another surge is no other size, and takes no pod that works
	}
	return proportional(r.d, sets)
}

// saturated says whether the new replica set has all the pods there should be.
func (r *rollout) saturated() bool {
	if r.new == nil {
		return false
	}
	n, ok := number(r.new, desiredAnnotation)
	want := *r.d.Spec.Replicas
	return ok && n == want && *r.new.Spec.Replicas == want && r.new.Status.AvailableReplicas == want
}

// proportional gives each replica set the share of the new size that it had of
// the old one; the largest takes what rounding leaves.
func proportional(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) (out []size) {
	surge, _ := fenceposts(d)
	allowed := int32(0)
	if *d.Spec.Replicas > 0 {
		allowed = *d.Spec.Replicas + surge
	}
	add := allowed - wanted(sets)
	sets = slices.Clone(sets)
	slices.SortStableFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		age := olderFirst(a, b)
		if add > 0 {
			age = -age
		}
		return cmp.Or(cmp.Compare(*b.Spec.Replicas, *a.Spec.Replicas), age)
	})
	added := int32(0)
	for _, rs := range sets {
		n := int32(0)
		if add != 0 && add != added {
			n = share(d, rs, surge)
			if add > 0 {
				n = min(n, add-added)
			} else {
				n = max(n, add-added)
			}
		}
		added += n
		out = append(out, size{rs, *rs.Spec.Replicas + n})
	}
	out[0].size = max(out[0].size+add-added, 0)
	return out
}

func share(d *appsv1.Deployment, rs *appsv1.ReplicaSet, surge int32) int32 {
	have := *rs.Spec.Replicas
	if *d.Spec.Replicas == 0 {
		return -have
	}
	before, ok := number(rs, maxAnnotation)
	if !ok || before == 0 {
		before = d.Status.Replicas
	}
	if before == 0 {
		return 0
	}
	return int32(math.Round(float64(have)*float64(*d.Spec.Replicas+surge)/float64(before))) - have
}
