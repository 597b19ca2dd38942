package plugins

import (
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	schedv1 "k8s.io/kube-scheduler/config/v1"

	"proa/internal/sched"
)

// NodeResourcesFit keeps pods off nodes that do not have what they ask for, and
// prefers nodes with more left, or as its scoring strategy says.
var NodeResourcesFit = &sched.Plugin{
	Name:      "NodeResourcesFit",
	Wakes:     sched.NodeAdded | sched.NodeResources | sched.PodGone,
	Helps:     freesWhatIsShort,
	Configure: configured(fit, checkFit),
	For:       fit(&schedv1.NodeResourcesFitArgs{}),
}

func checkFit(a *schedv1.NodeResourcesFitArgs) (errs field.ErrorList) {
	if s := a.ScoringStrategy; s != nil {
		at := field.NewPath("scoringStrategy")
		errs = checkResources(at.Child("resources"), s.Resources)
		switch s.Type {
		case "", schedv1.LeastAllocated, schedv1.MostAllocated:
		case schedv1.RequestedToCapacityRatio:
			var shape []schedv1.UtilizationShapePoint
			if s.RequestedToCapacityRatio != nil {
				shape = s.RequestedToCapacityRatio.Shape
			}
			errs = append(errs, checkShape(at.Child("requestedToCapacityRatio", "shape"), shape)...)
		default:
			errs = append(errs, field.NotSupported(at.Child("type"), s.Type,
				[]schedv1.ScoringStrategyType{schedv1.LeastAllocated, schedv1.MostAllocated, schedv1.RequestedToCapacityRatio}))
		}
	}
	for i, g := range a.IgnoredResourceGroups {
		if strings.Contains(g, "/") {
			errs = append(errs, field.Invalid(field.NewPath("ignoredResourceGroups").Index(i), g, "must be the part of a resource's name before the /"))
		}
	}
	return errs
}

var cpuAndMemory = []schedv1.ResourceSpec{{Name: string(corev1.ResourceCPU), Weight: 1}, {Name: string(corev1.ResourceMemory), Weight: 1}}

func fit(args *schedv1.NodeResourcesFitArgs) sched.Look {
	strategy := schedv1.ScoringStrategy{}
	if args.ScoringStrategy != nil {
		strategy = *args.ScoringStrategy
	}
	if len(strategy.Resources) == 0 {
		strategy.Resources = cpuAndMemory
	}
	ignored := func(name corev1.ResourceName) bool {
		group, _, _ := strings.Cut(string(name), "/")
		return slices.Contains(args.IgnoredResources, string(name)) || slices.Contains(args.IgnoredResourceGroups, group)
	}
	return func(pod *sched.Pod, _ *sched.State) *sched.Check {
		r := pod.Req
		r.Others = nil
		for name, v := range pod.Req.Others {
			if !ignored(name) {
				if r.Others == nil {
					r.Others = map[corev1.ResourceName]int64{}
				}
				r.Others[name] = v
			}
		}
		return &sched.Check{
			Fits: func(n *sched.Node) sched.Verdict {
				if len(r.Others) == 0 && r.FitsBeside(&n.Used, &n.Alloc) {
					return sched.Verdict{}
				}
				return short(&r, n)
			},
			Score: fitScore(&strategy, pod),
		}
	}
}

// short lists everything that a node has too little of.
func short(r *sched.Resources, n *sched.Node) (v sched.Verdict) {
	check := func(name corev1.ResourceName, ask, used, alloc int64) {
		if !sched.Fits(ask, used, alloc) {
			v.Whys = append(v.Whys, "Insufficient "+string(name))
			v.Final = v.Final || ask > alloc
		}
	}
	if n.Used.Pods+1 > n.Alloc.Pods {
		v.Whys = append(v.Whys, "Too many pods")
		v.Final = n.Alloc.Pods == 0
	}
	check(corev1.ResourceCPU, r.CPU, n.Used.CPU, n.Alloc.CPU)
	check(corev1.ResourceMemory, r.Memory, n.Used.Memory, n.Alloc.Memory)
	check(corev1.ResourceEphemeralStorage, r.Ephemeral, n.Used.Ephemeral, n.Alloc.Ephemeral)
	for name, ask := range r.Others {
		check(name, ask, n.Used.Others[name], n.Alloc.Others[name])
	}
	return v
}

// freesWhatIsShort: a node that has come or grown must be able to hold the pod
// at all, and a pod that asks for less than before must have let go of something
// that the pod needs.
func freesWhatIsShort(pod *sched.Pod, s *sched.State, c *sched.Change) bool {
	if c.What&sched.PodGone != 0 {
		switch {
		case c.Pod == nil:
			return true
		case c.Was != nil: // it is still there and asks for less
			return s.Nominated(pod.UID) != "" || frees(&c.Was.Req, &c.Pod.Req, &pod.Req)
		case c.Pod.Spec.NodeName != "":
			return s.Opens(c.Pod.Spec.NodeName, pod)
		}
		return true // a place among a node's pods at least
	}
	if c.Node == nil {
		return true
	}
	n := s.Node(c.Node.Name)
	return n == nil || short(&pod.Req, &sched.Node{Node: n.Node, Alloc: n.Alloc}).OK()
}

// frees says whether going from was to now frees something that is asked for.
func frees(was, now, ask *sched.Resources) bool {
	if ask.CPU > 0 && was.CPU > now.CPU || ask.Memory > 0 && was.Memory > now.Memory || ask.Ephemeral > 0 && was.Ephemeral > now.Ephemeral {
		return true
	}
	for name := range ask.Others {
		if was.Others[name] > now.Others[name] {
			return true
		}
	}
	return false
}

// fitScore makes the weighted mean of what each resource scores.
func fitScore(s *schedv1.ScoringStrategy, pod *sched.Pod) func(*sched.Node) int64 {
	one := left
	switch s.Type {
	case schedv1.MostAllocated:
		one = full
	case schedv1.RequestedToCapacityRatio:
		one = ratio(s.RequestedToCapacityRatio.Shape)
	}
	if len(s.Resources) == 2 && s.Resources[0] == cpuAndMemory[0] && s.Resources[1] == cpuAndMemory[1] && s.Type != schedv1.RequestedToCapacityRatio {
		return func(n *sched.Node) int64 {
			if n.Alloc.CPU == 0 || n.Alloc.Memory == 0 {
				return weighted(s, pod, n, one)
			}
			return (one(pod.Scored.CPU, n.Scored.CPU, n.Alloc.CPU) + one(pod.Scored.Memory, n.Scored.Memory, n.Alloc.Memory)) / 2
		}
	}
	return func(n *sched.Node) int64 { return weighted(s, pod, n, one) }
}

func weighted(s *schedv1.ScoringStrategy, pod *sched.Pod, n *sched.Node, one func(ask, used, alloc int64) int64) int64 {
	sum, weights := int64(0), int64(0)
	for _, r := range s.Resources {
		name := corev1.ResourceName(r.Name)
		ask, alloc := pod.Scored.Of(name), n.Alloc.Of(name)
		if alloc == 0 || ask == 0 && extended(name) {
			continue
		}
		v := one(ask, n.Scored.Of(name), alloc)
		if v == 0 && s.Type == schedv1.RequestedToCapacityRatio {
			continue // a resource that scores nothing does not count
		}
		sum += v * r.Weight
		weights += r.Weight
	}
	if weights == 0 {
		return 0
	}
	if s.Type == schedv1.RequestedToCapacityRatio {
		return int64(math.Round(float64(sum) / float64(weights)))
	}
	return sum / weights
}

func extended(name corev1.ResourceName) bool {
	return name != corev1.ResourceCPU && name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage
}

// left is which part of a node's resource is left with the pod on it, in hundredths.
func left(ask, used, alloc int64) int64 {
	if alloc == 0 || ask+used > alloc {
		return 0
	}
	return (alloc - used - ask) * 100 / alloc
}

// full is which part is taken.
func full(ask, used, alloc int64) int64 {
	if alloc == 0 {
		return 0
	}
	return min(ask+used, alloc) * 100 / alloc
}

// ratio is a function of the part that is taken, by the points of its graph,
// with straight lines between them. Its scores of 0 to 10 become 0 to 100.
func ratio(shape []schedv1.UtilizationShapePoint) func(ask, used, alloc int64) int64 {
	return func(ask, used, alloc int64) int64 {
		at := int64(100)
		if alloc > 0 && ask+used <= alloc {
			at = (ask + used) * 100 / alloc
		}
		for i, p := range shape {
			x, y := int64(p.Utilization), int64(p.Score)*10
			if at > x {
				continue
			}
			if i == 0 {
				return y
			}
			x0, y0 := int64(shape[i-1].Utilization), int64(shape[i-1].Score)*10
			return y0 + (y-y0)*(at-x0)/(x-x0)
		}
		return int64(shape[len(shape)-1].Score) * 10
	}
}

// NodeResourcesBalancedAllocation prefers nodes whose CPU and memory, or the
// resources that it is told, would be used up at the same pace.
var NodeResourcesBalancedAllocation = &sched.Plugin{
	Name:      "NodeResourcesBalancedAllocation",
	Configure: configured(balanced, checkBalanced),
	For:       balanced(&schedv1.NodeResourcesBalancedAllocationArgs{}),
}

func checkBalanced(a *schedv1.NodeResourcesBalancedAllocationArgs) (errs field.ErrorList) {
	at := field.NewPath("resources")
	errs = checkResources(at, a.Resources)
	for i, r := range a.Resources {
		if r.Weight != 1 {
			errs = append(errs, field.Invalid(at.Index(i).Child("weight"), r.Weight, "must be 1"))
		}
	}
	return errs
}

func balanced(args *schedv1.NodeResourcesBalancedAllocationArgs) sched.Look {
	var names []corev1.ResourceName
	for _, r := range args.Resources {
		names = append(names, corev1.ResourceName(r.Name))
	}
	if len(names) == 0 {
		names = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}
	}
	return func(pod *sched.Pod, _ *sched.State) *sched.Check {
		if !slices.ContainsFunc(names, func(name corev1.ResourceName) bool { return pod.Req.Of(name) > 0 }) {
			return nil
		}
		return &sched.Check{Score: func(n *sched.Node) int64 {
			var room [8]float64
			parts := room[:0]
			for _, name := range names {
				ask, alloc := pod.Req.Of(name), n.Alloc.Of(name)
				if alloc == 0 || ask == 0 && extended(name) {
					continue
				}
				parts = append(parts, min(float64(ask+n.Used.Of(name))/float64(alloc), 1))
			}
			return int64((1 - deviation(parts)) * 100)
		}}
	}
}

// deviation is the standard deviation of parts.
func deviation(parts []float64) float64 {
	switch len(parts) {
	case 0, 1:
		return 0
	case 2:
		return math.Abs(parts[0]-parts[1]) / 2
	}
	mean, sum := 0.0, 0.0
	for _, p := range parts {
		mean += p / float64(len(parts))
	}
	for _, p := range parts {
		sum += (p - mean) * (p - mean)
	}
	return math.Sqrt(sum / float64(len(parts)))
}
