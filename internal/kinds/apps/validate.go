package apps

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/kinds/podspec"
	"proa/internal/kinds/validate"
)

var specPath, statusPath = field.NewPath("spec"), field.NewPath("status")

// resourceOf is the qualified resource of an owner: daemonset.apps.
func resourceOf(o *metav1.OwnerReference) string {
	gv, err := schema.ParseGroupVersion(o.APIVersion)
	kind := strings.ToLower(o.Kind)
	if err != nil || gv.Group == "" {
		return kind
	}
	return kind + "." + gv.Group
}

// zero says whether a count or percentage is 0.
func zero(v *intstr.IntOrString) bool {
	if v == nil {
		return true
	}
	if v.Type == intstr.String {
		n, ok := validate.Percent(*v)
		return ok && n == 0
	}
	return v.IntVal == 0
}

func validateDeployment(d, old *appsv1.Deployment) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	s := &d.Spec
	add(validate.CountOf(s.Replicas, specPath.Child("replicas"))...)
	add(validate.WorkloadSelector(s.Selector, s.Template.Labels, "deployment", specPath)...)
	add(podspec.ValidateTemplate(&s.Template, specPath.Child("template"))...)
	add(podspec.AlwaysRestarts(&s.Template, "ReplicaSet", specPath.Child("template"))...)
	add(validateStrategy(&s.Strategy, specPath.Child("strategy"))...)
	add(validate.Count(s.MinReadySeconds, specPath.Child("minReadySeconds"))...)
	add(validate.CountOf(s.RevisionHistoryLimit, specPath.Child("revisionHistoryLimit"))...)
	if n, at := s.ProgressDeadlineSeconds, specPath.Child("progressDeadlineSeconds"); n != nil {
		add(validate.Count(*n, at)...)
		if *n <= s.MinReadySeconds {
			add(field.Invalid(at, *n, "must be greater than minReadySeconds"))
		}
	}
	if old != nil {
		add(validate.Same(s.Selector, old.Spec.Selector, specPath.Child("selector"))...)
	}
	return errs
}

func validateStrategy(s *appsv1.DeploymentStrategy, path *field.Path) (errs field.ErrorList) {
	at := path.Child("rollingUpdate")
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			errs = append(errs, field.Forbidden(at, "may not be specified when strategy `type` is 'Recreate'"))
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			return append(errs, field.Required(at, "this should be defaulted and never be nil"))
		}
		u := s.RollingUpdate
		errs = append(errs, validate.CountOrPercent(u.MaxUnavailable, at.Child("maxUnavailable"))...)
		errs = append(errs, validate.CountOrPercent(u.MaxSurge, at.Child("maxSurge"))...)
		if zero(u.MaxUnavailable) && zero(u.MaxSurge) {
			errs = append(errs, field.Invalid(at.Child("maxUnavailable"), u.MaxUnavailable, "may not be 0 when `maxSurge` is 0"))
		}
		errs = append(errs, validate.AtMostHundredPercent(u.MaxUnavailable, at.Child("maxUnavailable"))...)
	default:
		errs = append(errs, unknownStrategy(path, *s, string(appsv1.RecreateDeploymentStrategyType), string(appsv1.RollingUpdateDeploymentStrategyType)))
	}
	return errs
}

// unknownStrategy is the error about the type of a strategy: it shows all of it.
func unknownStrategy[S any](path *field.Path, s S, types ...string) *field.Error {
	e := field.NotSupported(path, "", types)
	e.BadValue = s
	return e
}

// A count is one number of a status, by name.
type count struct {
	name  string
	n     int32
	whole bool // messages show where it is
}

// shown is what messages call a count: where it is, for that of all replicas
// and of a StatefulSet's ready ones.
func (c count) shown() string {
	if c.name == "replicas" || c.whole {
		return "status." + c.name
	}
	return c.name
}

// counts checks the numbers of a status: none negative, and those in pairs in order.
func counts(all []count, less ...[2]int) (errs field.ErrorList) {
	for _, c := range all {
		errs = append(errs, validate.Count(c.n, statusPath.Child(c.name))...)
	}
	for _, p := range less {
		low, high := all[p[0]], all[p[1]]
		if low.n > high.n {
			errs = append(errs, field.Invalid(statusPath.Child(low.name), low.n, "cannot be greater than "+high.shown()))
		}
	}
	return errs
}

// collisions checks that a collision count does not go back.
func collisions(now, was *int32) (errs field.ErrorList) {
	at := statusPath.Child("collisionCount")
	errs = validate.CountOf(now, at)
	if was != nil && (now == nil || *now < *was) {
		errs = append(errs, field.Invalid(at, now, "cannot be decremented"))
	}
	return errs
}

func validateDeploymentStatus(d, old *appsv1.Deployment) field.ErrorList {
	s := &d.Status
	errs := validate.Count(s.ObservedGeneration, statusPath.Child("observedGeneration"))
	errs = append(errs, counts([]count{{name: "replicas", n: s.Replicas}, {name: "updatedReplicas", n: s.UpdatedReplicas}, {name: "readyReplicas", n: s.ReadyReplicas},
		{name: "availableReplicas", n: s.AvailableReplicas}, {name: "unavailableReplicas", n: s.UnavailableReplicas}}, [2]int{1, 0}, [2]int{2, 0}, [2]int{3, 0}, [2]int{3, 2})...)
	errs = append(errs, validate.CountOf(s.TerminatingReplicas, statusPath.Child("terminatingReplicas"))...)
	return append(errs, collisions(s.CollisionCount, old.Status.CollisionCount)...)
}

func validateReplicaSet(r, old *appsv1.ReplicaSet) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	s := &r.Spec
	add(validate.CountOf(s.Replicas, specPath.Child("replicas"))...)
	add(validate.Count(s.MinReadySeconds, specPath.Child("minReadySeconds"))...)
	add(validate.WorkloadSelector(s.Selector, s.Template.Labels, "deployment", specPath)...)
	add(podspec.ValidateTemplate(&s.Template, specPath.Child("template"))...)
	add(podspec.AlwaysRestarts(&s.Template, "ReplicaSet", specPath.Child("template"))...)
	if old != nil {
		add(validate.Same(s.Selector, old.Spec.Selector, specPath.Child("selector"))...)
	}
	return errs
}

func validateReplicaSetStatus(r, _ *appsv1.ReplicaSet) field.ErrorList {
	s := &r.Status
	errs := validate.Count(s.ObservedGeneration, statusPath.Child("observedGeneration"))
	errs = append(errs, validate.CountOf(s.TerminatingReplicas, statusPath.Child("terminatingReplicas"))...)
	return append(errs, counts([]count{{name: "replicas", n: s.Replicas}, {name: "fullyLabeledReplicas", n: s.FullyLabeledReplicas}, {name: "readyReplicas", n: s.ReadyReplicas},
		{name: "availableReplicas", n: s.AvailableReplicas}}, [2]int{1, 0}, [2]int{2, 0}, [2]int{3, 0}, [2]int{3, 2})...)
}

func validateDaemonSet(d, old *appsv1.DaemonSet) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	s := &d.Spec
	add(validate.WorkloadSelector(s.Selector, s.Template.Labels, "daemonset", specPath)...)
	add(podspec.ValidateTemplate(&s.Template, specPath.Child("template"))...)
	add(podspec.AlwaysRestarts(&s.Template, "DaemonSet", specPath.Child("template"))...)
	add(validate.Count(s.MinReadySeconds, specPath.Child("minReadySeconds"))...)
	add(validate.CountOf(s.RevisionHistoryLimit, specPath.Child("revisionHistoryLimit"))...)
	at := specPath.Child("updateStrategy")
	switch s.UpdateStrategy.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
	case appsv1.RollingUpdateDaemonSetStrategyType:
		u := s.UpdateStrategy.RollingUpdate
		at := at.Child("rollingUpdate")
		if u == nil {
			add(field.Required(at, ""))
			break
		}
		add(validate.CountOrPercent(u.MaxUnavailable, at.Child("maxUnavailable"))...)
		add(validate.CountOrPercent(u.MaxSurge, at.Child("maxSurge"))...)
		add(validate.AtMostHundredPercent(u.MaxUnavailable, at.Child("maxUnavailable"))...)
		add(validate.AtMostHundredPercent(u.MaxSurge, at.Child("maxSurge"))...)
		switch {
		case !zero(u.MaxUnavailable) && !zero(u.MaxSurge):
			add(field.Invalid(at.Child("maxSurge"), u.MaxSurge, "may not be set when maxUnavailable is non-zero"))
		case zero(u.MaxUnavailable) && zero(u.MaxSurge):
			add(field.Required(at.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
		}
	default:
		add(unknownStrategy(at, s.UpdateStrategy, string(appsv1.RollingUpdateDaemonSetStrategyType), string(appsv1.OnDeleteDaemonSetStrategyType)))
	}
	if old != nil {
		add(validate.Same(s.Selector, old.Spec.Selector, specPath.Child("selector"))...)
	}
	return errs
}

func validateDaemonSetStatus(d, old *appsv1.DaemonSet) field.ErrorList {
	s := &d.Status
	errs := counts([]count{{name: "currentNumberScheduled", n: s.CurrentNumberScheduled}, {name: "numberMisscheduled", n: s.NumberMisscheduled},
		{name: "desiredNumberScheduled", n: s.DesiredNumberScheduled}, {name: "numberReady", n: s.NumberReady}, {name: "updatedNumberScheduled", n: s.UpdatedNumberScheduled},
		{name: "numberAvailable", n: s.NumberAvailable}, {name: "numberUnavailable", n: s.NumberUnavailable}})
	errs = append(errs, validate.Count(s.ObservedGeneration, statusPath.Child("observedGeneration"))...)
	return append(errs, collisions(s.CollisionCount, old.Status.CollisionCount)...)
}

func validateStatefulSet(s, old *appsv1.StatefulSet) (errs field.ErrorList) {
	add := func(e ...*field.Error) { errs = append(errs, e...) }
	spec := &s.Spec
	if p := spec.PodManagementPolicy; p == "" {
		add(field.Required(specPath.Child("podManagementPolicy"), ""))
	} else if p != appsv1.OrderedReadyPodManagement && p != appsv1.ParallelPodManagement {
		add(field.Invalid(specPath.Child("podManagementPolicy"), p,
			fmt.Sprintf("must be '%s' or '%s'", appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement)))
	}
	add(validateStatefulUpdate(&spec.UpdateStrategy, specPath.Child("updateStrategy"))...)
	if p := spec.PersistentVolumeClaimRetentionPolicy; p != nil {
		at := specPath.Child("persistentVolumeClaimRetentionPolicy")
		both := []appsv1.PersistentVolumeClaimRetentionPolicyType{appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType}
		add(validate.Known(p.WhenDeleted, at.Child("whenDeleted"), both...)...)
		add(validate.Known(p.WhenScaled, at.Child("whenScaled"), both...)...)
	}
	add(validate.CountOf(spec.Replicas, specPath.Child("replicas"))...)
	add(validate.Count(spec.MinReadySeconds, specPath.Child("minReadySeconds"))...)
	if spec.Ordinals != nil {
		add(validate.Count(spec.Ordinals.Start, specPath.Child("ordinals", "start"))...)
	}
	if n := spec.RevisionHistoryLimit; old == nil || !equality.Semantic.DeepEqual(n, old.Spec.RevisionHistoryLimit) {
		add(validate.CountOf(n, specPath.Child("revisionHistoryLimit"))...)
	}
	add(validateClaimTemplates(spec.VolumeClaimTemplates, specPath.Child("volumeClaimTemplates"))...)
	if spec.ServiceName != "" {
		add(validate.Subdomain(spec.ServiceName, specPath.Child("serviceName"))...)
	}
	add(validate.WorkloadSelector(spec.Selector, spec.Template.Labels, "statefulset", specPath)...)
	add(podspec.ValidateTemplate(withClaims(s), specPath.Child("template"))...)
	add(podspec.AlwaysRestarts(&spec.Template, "StatefulSet", specPath.Child("template"))...)
	if old != nil && !sameStatefulSpec(spec, &old.Spec) {
		add(field.Forbidden(specPath, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "+
			"'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"))
	}
	return errs
}

// validateClaimTemplates checks what the claims of each pod are made from.
func validateClaimTemplates(claims []corev1.PersistentVolumeClaim, path *field.Path) (errs field.ErrorList) {
	have := map[string]bool{}
	for i := range claims {
		c, at := &claims[i], path.Index(i)
		meta := at.Child("metadata")
		if c.Name == "" {
			errs = append(errs, field.Required(meta.Child("name"), ""))
		} else {
			errs = append(errs, validate.Label(c.Name, meta.Child("name"))...) // volumes are called so too
		}
		if have[c.Name] {
			errs = append(errs, field.Duplicate(meta.Child("name"), c.Name))
		}
		have[c.Name] = true
		errs = append(errs, validate.Labels(c.Labels, meta.Child("labels"))...)
		errs = append(errs, validation.ValidateAnnotations(c.Annotations, meta.Child("annotations"))...)
		errs = append(errs, podspec.ValidateClaimSpec(&c.Spec, at.Child("spec"))...)
	}
	return errs
}

func validateStatefulUpdate(u *appsv1.StatefulSetUpdateStrategy, path *field.Path) (errs field.ErrorList) {
	at := path.Child("rollingUpdate")
	switch u.Type {
	case appsv1.OnDeleteStatefulSetStrategyType:
		if u.RollingUpdate != nil {
			errs = append(errs, field.Invalid(at, u.RollingUpdate, "only allowed for updateStrategy '"+string(appsv1.RollingUpdateStatefulSetStrategyType)+"'"))
		}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if u.RollingUpdate == nil {
			return errs
		}
		errs = append(errs, validate.CountOf(u.RollingUpdate.Partition, at.Child("partition"))...)
		if m := u.RollingUpdate.MaxUnavailable; m != nil {
			errs = append(errs, validate.CountOrPercent(m, at.Child("maxUnavailable"))...)
			if zero(m) {
				errs = append(errs, field.Invalid(at.Child("maxUnavailable"), m.String(), "cannot be 0"))
			}
			errs = append(errs, validate.AtMostHundredPercent(m, at.Child("maxUnavailable"))...)
		}
	case "":
		errs = append(errs, field.Required(path, ""))
	default:
		errs = append(errs, field.Invalid(path, u, fmt.Sprintf("must be '%s' or '%s'",
			appsv1.RollingUpdateStatefulSetStrategyType, appsv1.OnDeleteStatefulSetStrategyType)))
	}
	return errs
}

func sameStatefulSpec(s, old *appsv1.StatefulSetSpec) bool {
	was := old.DeepCopy()
	was.Replicas, was.Template, was.UpdateStrategy, was.MinReadySeconds = s.Replicas, s.Template, s.UpdateStrategy, s.MinReadySeconds
	was.Ordinals, was.RevisionHistoryLimit = s.Ordinals, s.RevisionHistoryLimit
	was.PersistentVolumeClaimRetentionPolicy = s.PersistentVolumeClaimRetentionPolicy
	return equality.Semantic.DeepEqual(s, was)
}

func validateStatefulSetStatus(s, old *appsv1.StatefulSet) field.ErrorList {
	t := &s.Status
	errs := counts([]count{{name: "replicas", n: t.Replicas}, {name: "readyReplicas", n: t.ReadyReplicas, whole: true}, {name: "currentReplicas", n: t.CurrentReplicas},
		{name: "updatedReplicas", n: t.UpdatedReplicas}, {name: "availableReplicas", n: t.AvailableReplicas}},
		[2]int{1, 0}, [2]int{2, 0}, [2]int{3, 0}, [2]int{4, 0}, [2]int{4, 1})
	errs = append(errs, validate.Count(t.ObservedGeneration, statusPath.Child("observedGeneration"))...)
	return append(errs, collisions(t.CollisionCount, old.Status.CollisionCount)...)
}
