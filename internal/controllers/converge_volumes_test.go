package controllers_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// A storageTrial makes, uses and deletes claims and volumes at random.
type storageTrial struct {
	names   int
	claims  map[types.UID]*corev1.PersistentVolumeClaim
	volumes map[types.UID]*corev1.PersistentVolume // by the UID of the claim that each names
	all     []*corev1.PersistentVolume
	pods    []*corev1.Pod
	used    map[types.UID]types.UID // the claims of pods
}

func (s *storageTrial) name(of string) string {
	s.names++
	return fmt.Sprintf("%s%d", of, s.names)
}

// look reads what there is.
func (s *storageTrial) look(w *world, h api.Handler) error {
	claims, err := core.PersistentVolumeClaim.List(w.t.Context(), h, "default", api.Selectors{})
	if err != nil {
		return err
	}
	if s.all, err = core.PersistentVolume.List(w.t.Context(), h, "", api.Selectors{}); err != nil {
		return err
	}
	if s.pods, err = core.Pod.List(w.t.Context(), h, "default", api.Selectors{}); err != nil {
		return err
	}
	s.claims, s.volumes = map[types.UID]*corev1.PersistentVolumeClaim{}, map[types.UID]*corev1.PersistentVolume{}
	for _, p := range claims {
		s.claims[p.UID] = p
	}
	for _, v := range s.all {
		if r := v.Spec.ClaimRef; r != nil {
			if other := s.volumes[r.UID]; other != nil && s.claims[r.UID] != nil && s.claims[r.UID].Status.Phase == corev1.ClaimBound {
				return fmt.Errorf("the volumes %s and %s are both of the claim %s", v.Name, other.Name, r.Name)
			}
			s.volumes[r.UID] = v
		}
	}
	return nil
}

func (s *storageTrial) edit(w *world, h api.Handler) error {
	if err := s.look(w, h); err != nil {
		return err
	}
	ctx, r := w.t.Context(), w.rand
	class := []string{"a", "b"}[r.IntN(2)]
	size := corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(int64(1+r.IntN(3)), resource.BinarySI)}
	var claim *corev1.PersistentVolumeClaim
	for _, p := range s.claims {
		if claim == nil || p.Name < claim.Name {
			claim = p // the map's order must not matter
		}
	}
	var err error
	switch what := r.IntN(10); {
	case what < 3:
		_, err = core.PersistentVolume.Create(ctx, h, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: s.name("v")}, Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Capacity: size, StorageClassName: class,
			PersistentVolumeReclaimPolicy: []corev1.PersistentVolumeReclaimPolicy{corev1.PersistentVolumeReclaimRetain, corev1.PersistentVolumeReclaimDelete}[r.IntN(2)],
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/v"}}}})
	case what < 6:
		p := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: s.name("c"), Namespace: "default"}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{Requests: size}}}
		if len(s.all) > 0 && r.IntN(4) == 0 {
			p.Spec.VolumeName = s.all[r.IntN(len(s.all))].Name
		}
		_, err = core.PersistentVolumeClaim.Create(ctx, h, p)
	case what == 6 && claim != nil:
		err = core.PersistentVolumeClaim.Delete(ctx, h, "default", claim.Name, api.Options{})
	case what == 7 && len(s.all) > 0:
		err = core.PersistentVolume.Delete(ctx, h, "", s.all[r.IntN(len(s.all))].Name, api.Options{})
	case what == 8 && len(s.all) > 0:
		if v := s.all[r.IntN(len(s.all))].DeepCopy(); v.Status.Phase == corev1.VolumeReleased || v.Status.Phase == corev1.VolumeFailed {
			v.Spec.ClaimRef = nil
			_, err = core.PersistentVolume.Update(ctx, h, v)
		}
	case what == 9 && claim != nil && claim.DeletionTimestamp == nil:
		var p *corev1.Pod
		p, err = core.Pod.Create(ctx, h, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: s.name("p"), Namespace: "default"}, Spec: corev1.PodSpec{
			NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "img"}},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name}}}}}})
		if err == nil {
			s.used[p.UID] = claim.UID
		}
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// check finds claims that share a volume, have one that is not theirs, or went under a pod.
func (s *storageTrial) check(w *world, h api.Handler) error {
	if err := s.look(w, h); err != nil {
		return err
	}
	for uid, p := range s.claims {
		if v := s.volumes[uid]; p.Status.Phase == corev1.ClaimBound && (v == nil || v.Name != p.Spec.VolumeName) {
			return fmt.Errorf("the claim %s is bound to %s, which is not its volume", p.Name, p.Spec.VolumeName)
		}
	}
	for _, p := range s.pods {
		if s.claims[s.used[p.UID]] == nil {
			return fmt.Errorf("the claim %s is gone, which the pod %s uses", p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName, p.Name)
		}
	}
	return nil
}

// end finds what does not belong together, or should.
func (s *storageTrial) end(w *world, h api.Handler) error {
	if err := s.check(w, h); err != nil {
		return err
	}
	for _, v := range s.all {
		want := corev1.VolumeAvailable
		if r := v.Spec.ClaimRef; r != nil && s.claims[r.UID] != nil {
			want = corev1.VolumeBound
		} else if r != nil {
			want = corev1.VolumeReleased
			if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete && v.DeletionTimestamp == nil {
				want = corev1.VolumeFailed
			}
		}
		if v.Status.Phase != want {
			return fmt.Errorf("the volume %s is %s, not %s", v.Name, v.Status.Phase, want)
		}
		if v.DeletionTimestamp != nil && want != corev1.VolumeBound {
			return fmt.Errorf("the volume %s is still there", v.Name)
		}
		if want != corev1.VolumeAvailable {
			continue
		}
		for _, p := range s.claims {
			need, has := p.Spec.Resources.Requests[corev1.ResourceStorage], v.Spec.Capacity[corev1.ResourceStorage]
			if p.Status.Phase == corev1.ClaimPending && p.DeletionTimestamp == nil && *p.Spec.StorageClassName == v.Spec.StorageClassName && has.Cmp(need) >= 0 &&
				(p.Spec.VolumeName == "" || p.Spec.VolumeName == v.Name) {
				return fmt.Errorf("the claim %s could have the volume %s", p.Name, v.Name)
			}
		}
	}
	users := map[types.UID]bool{}
	for _, p := range s.pods {
		users[s.used[p.UID]] = true
	}
	for uid, p := range s.claims {
		if p.DeletionTimestamp != nil && !users[uid] {
			return fmt.Errorf("the claim %s is still there", p.Name)
		}
	}
	return nil
}

// TestVolumesConverge checks that at no time two claims have one volume, none goes
// while a pod uses it, and that in the end nobody waits for what is there.
func TestVolumesConverge(t *testing.T) {
	trials(t, func() trial {
		s := &storageTrial{used: map[types.UID]types.UID{}}
		return trial{make: s.edit, edit: s.edit, check: s.check, end: s.end}
	})
}
