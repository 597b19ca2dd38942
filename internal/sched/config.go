package sched

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	schedv1 "k8s.io/kube-scheduler/config/v1"
	"sigs.k8s.io/yaml"
)

// What a KubeSchedulerConfiguration calls the parts of the scheduler that are
// not plugins here.
const (
	prioritySort      = "PrioritySort"
	schedulingGates   = "SchedulingGates"
	defaultBinder     = "DefaultBinder"
	defaultPreemption = "DefaultPreemption"
)

// Load reads a KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1 for
// a scheduler that has these plugins. Leader election, the connection and what
// else is about a process of its own is read and has no effect.
func Load(text []byte, plugins []*Plugin) (c Config, err error) {
	var in schedv1.KubeSchedulerConfiguration
	if err := yaml.UnmarshalStrict(text, &in); err != nil {
		return c, err
	}
	if in.Kind != "KubeSchedulerConfiguration" || in.APIVersion != schedv1.SchemeGroupVersion.String() {
		return c, fmt.Errorf("it is a %q of %q; it must be a KubeSchedulerConfiguration of %s", in.Kind, in.APIVersion, schedv1.SchemeGroupVersion)
	}
	l := loader{plugins: plugins}
	l.general(&in, &c)
	if len(in.Profiles) == 0 {
		in.Profiles = []schedv1.KubeSchedulerProfile{{}}
	}
	if len(in.Profiles) == 1 && in.Profiles[0].SchedulerName == nil {
		name := corev1.DefaultSchedulerName
		in.Profiles[0].SchedulerName = &name
	}
	names := map[string]bool{}
	for i := range in.Profiles {
		at := field.NewPath("profiles").Index(i)
		p := l.profile(at, &in.Profiles[i], c.Percent)
		switch {
		case p.Name == "":
			l.errs = append(l.errs, field.Required(at.Child("schedulerName"), "with more than one profile each needs its name"))
		case names[p.Name]:
			l.errs = append(l.errs, field.Duplicate(at.Child("schedulerName"), p.Name))
		}
		names[p.Name] = true
		c.Profiles = append(c.Profiles, p)
	}
	return c, l.errs.ToAggregate()
}

type loader struct {
	plugins []*Plugin
	errs    field.ErrorList
}

func (l *loader) invalid(at *field.Path, v int64, why string) {
	l.errs = append(l.errs, field.Invalid(at, v, why))
}

func (l *loader) general(in *schedv1.KubeSchedulerConfiguration, c *Config) {
	if p := in.Parallelism; p != nil && *p <= 0 {
		l.invalid(field.NewPath("parallelism"), int64(*p), "must be more than 0")
	}
	c.Percent = l.percent(field.NewPath("percentageOfNodesToScore"), in.PercentageOfNodesToScore, 0)
	first, most := int64(firstPause/time.Second), int64(mostPause/time.Second)
	if s := in.PodInitialBackoffSeconds; s != nil {
		if first = *s; first <= 0 {
			l.invalid(field.NewPath("podInitialBackoffSeconds"), first, "must be more than 0")
		}
	}
	if s := in.PodMaxBackoffSeconds; s != nil {
		most = *s
	}
	if most < first {
		l.invalid(field.NewPath("podMaxBackoffSeconds"), most, fmt.Sprintf("must not be less than podInitialBackoffSeconds, %d", first))
	}
	c.FirstPause, c.MostPause = time.Duration(first)*time.Second, time.Duration(most)*time.Second
	if len(in.Extenders) > 0 {
		l.errs = append(l.errs, field.Forbidden(field.NewPath("extenders"), "this scheduler asks no webhooks; use a profile's plugins"))
	}
}

func (l *loader) percent(at *field.Path, p *int32, otherwise int) int {
	if p == nil {
		return otherwise
	}
	if *p < 0 || *p > 100 {
		l.invalid(at, int64(*p), "must be from 0 to 100")
	}
	return int(*p)
}

// A draft is a profile on the way.
type draft struct {
	uses    []Use
	preempt bool
}

func (d *draft) use(name string) *Use {
	for i := range d.uses {
		if d.uses[i].Name == name {
			return &d.uses[i]
		}
	}
	return nil
}

func (l *loader) profile(at *field.Path, in *schedv1.KubeSchedulerProfile, percent int) Profile {
	out := Profile{Percent: l.percent(at.Child("percentageOfNodesToScore"), in.PercentageOfNodesToScore, percent)}
	if in.SchedulerName != nil {
		out.Name = *in.SchedulerName
	}
	d := &draft{uses: UsesOf(l.plugins), preempt: true}
	if in.Plugins != nil {
		l.apply(at.Child("plugins"), in.Plugins, d)
	}
	preempt := DefaultPreemption
	l.configure(at.Child("pluginConfig"), in.PluginConfig, d, &preempt)
	if d.preempt {
		out.Preempt = &preempt
	}
	out.Uses = slices.DeleteFunc(d.uses, func(u Use) bool { return u.NoFits && u.NoScore })
	return out
}

// apply takes plugins in and out: first for all points, then for single ones.
func (l *loader) apply(at *field.Path, in *schedv1.Plugins, d *draft) {
	all := at.Child("multiPoint")
	l.each(all.Child("disabled"), in.MultiPoint.Disabled, func(at *field.Path, name string, _ int64) {
		switch {
		case name == "*":
			d.uses, d.preempt = nil, false
		case name == defaultPreemption:
			d.preempt = false
		case l.fixed(at, name):
		default:
			d.uses = slices.DeleteFunc(d.uses, func(u Use) bool { return u.Name == name })
		}
	})
	l.each(all.Child("enabled"), in.MultiPoint.Enabled, func(_ *field.Path, name string, weight int64) {
		if name == defaultPreemption {
			d.preempt = true
		} else if p := l.plugin(name); p != nil {
			if u := d.use(name); u != nil {
				u.Weight = weight
			} else {
				d.uses = append(d.uses, Use{Plugin: p, Weight: weight})
			}
		}
	})
	points := []struct {
		name string
		set  schedv1.PluginSet
		off  func(u *Use) *bool
	}{
		{"preFilter", in.PreFilter, func(u *Use) *bool { return &u.NoFits }},
		{"filter", in.Filter, func(u *Use) *bool { return &u.NoFits }},
		{"preScore", in.PreScore, func(u *Use) *bool { return &u.NoScore }},
		{"score", in.Score, func(u *Use) *bool { return &u.NoScore }},
	}
	for _, p := range points {
		l.each(at.Child(p.name, "disabled"), p.set.Disabled, func(_ *field.Path, name string, _ int64) {
			for i := range d.uses {
				if name == "*" || d.uses[i].Name == name {
					*p.off(&d.uses[i]) = true
				}
			}
		})
		l.each(at.Child(p.name, "enabled"), p.set.Enabled, func(_ *field.Path, name string, weight int64) {
			plugin := l.plugin(name)
			if plugin == nil {
				return
			}
			u := d.use(name)
			if u == nil {
				d.uses = append(d.uses, Use{Plugin: plugin, NoFits: true, NoScore: true})
				u = &d.uses[len(d.uses)-1]
			}
			if *p.off(u) = false; p.name == "score" {
				u.Weight = weight
			}
		})
	}
	l.each(at.Child("postFilter", "disabled"), in.PostFilter.Disabled, func(_ *field.Path, name string, _ int64) {
		d.preempt = d.preempt && name != "*" && name != defaultPreemption
	})
	l.each(at.Child("postFilter", "enabled"), in.PostFilter.Enabled, func(at *field.Path, name string, _ int64) {
		if name != defaultPreemption {
			l.errs = append(l.errs, field.NotSupported(at, name, []string{defaultPreemption}))
		}
		d.preempt = true
	})
	l.rest(at, in)
}

// rest looks at the points where nothing can be chosen: whatever is disabled there must be enabled again.
func (l *loader) rest(at *field.Path, in *schedv1.Plugins) {
	for _, p := range []struct {
		name string
		set  schedv1.PluginSet
	}{
		{"preEnqueue", in.PreEnqueue}, {"queueSort", in.QueueSort}, {"reserve", in.Reserve}, {"permit", in.Permit}, {"preBind", in.PreBind},
		{"bind", in.Bind}, {"postBind", in.PostBind}, {"placementGenerate", in.PlacementGenerate}, {"placementScore", in.PlacementScore},
		{"podGroupPostFilter", in.PodGroupPostFilter},
	} {
		l.each(at.Child(p.name, "enabled"), p.set.Enabled, func(*field.Path, string, int64) {})
		l.each(at.Child(p.name, "disabled"), p.set.Disabled, func(at *field.Path, name string, _ int64) {
			if name != "*" && !slices.ContainsFunc(p.set.Enabled, func(o schedv1.Plugin) bool { return o.Name == name }) {
				l.errs = append(l.errs, field.Forbidden(at, fmt.Sprintf("%s can not be left out here; disable it under multiPoint if it is not wanted at all", name)))
			}
		})
	}
}

// each calls do for every plugin of a set whose name is known. A weight that is left out is 1.
func (l *loader) each(at *field.Path, set []schedv1.Plugin, do func(at *field.Path, name string, weight int64)) {
	seen := map[string]bool{}
	for i, p := range set {
		at := at.Index(i)
		weight := int64(1)
		if p.Weight != nil && *p.Weight != 0 {
			if weight = int64(*p.Weight); weight < 0 {
				l.invalid(at.Child("weight"), weight, "must not be negative")
			}
		}
		if l.known(at.Child("name"), p.Name, seen, p.Name == "*") {
			do(at, p.Name, weight)
		}
	}
}

// known complains if a name is not that of a part, unless it is special, or is
// not new in its list.
func (l *loader) known(at *field.Path, name string, seen map[string]bool, special bool) bool {
	if seen[name] {
		l.errs = append(l.errs, field.Duplicate(at, name))
		return false
	}
	seen[name] = true
	if !special && !slices.Contains(l.names(), name) {
		l.errs = append(l.errs, field.NotSupported(at, name, l.names()))
		return false
	}
	return true
}

func (l *loader) names() []string {
	out := []string{prioritySort, schedulingGates, defaultBinder, defaultPreemption}
	for _, p := range l.plugins {
		out = append(out, p.Name)
	}
	return out
}

// fixed complains if a part is to be left out that can not be.
func (l *loader) fixed(at *field.Path, name string) bool {
	if name != prioritySort && name != schedulingGates && name != defaultBinder {
		return false
	}
	l.errs = append(l.errs, field.Forbidden(at, name+" can not be left out"))
	return true
}

func (l *loader) plugin(name string) *Plugin {
	for _, p := range l.plugins {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// configure gives plugins their args.
func (l *loader) configure(at *field.Path, in []schedv1.PluginConfig, d *draft, preempt *Preemption) {
	seen := map[string]bool{}
	for i, c := range in {
		at := at.Index(i)
		if !l.known(at.Child("name"), c.Name, seen, false) {
			continue
		}
		if why := wrongKind(c.Args.Raw, c.Name); why != "" {
			l.errs = append(l.errs, field.Invalid(at.Child("args", "kind"), c.Name, why))
			continue
		}
		plugin := l.plugin(c.Name)
		switch {
		case c.Name == defaultPreemption:
			if err := preempt.configure(c.Args.Raw); err != nil {
				l.errs = append(l.errs, field.Invalid(at.Child("args"), c.Name, err.Error()))
			}
		case plugin == nil || plugin.Configure == nil:
			l.errs = append(l.errs, field.Forbidden(at.Child("args"), c.Name+" has no options"))
		default:
			look, err := plugin.Configure(c.Args.Raw)
			if err != nil {
				l.errs = append(l.errs, field.Invalid(at.Child("args"), c.Name, err.Error()))
				continue
			}
			if u := d.use(c.Name); u != nil {
				changed := *plugin
				changed.For = look
				u.Plugin = &changed
			}
		}
	}
}

func wrongKind(args []byte, name string) string {
	var head struct {
		Kind       string `json:"kind"`
		APIVersion string `json:"apiVersion"`
	}
	if yaml.Unmarshal(args, &head) != nil || head.Kind == "" && head.APIVersion == "" {
		return "" // whoever reads the whole says what is wrong
	}
	if head.Kind != "" && head.Kind != name+"Args" || head.APIVersion != "" && head.APIVersion != schedv1.SchemeGroupVersion.String() {
		return fmt.Sprintf("must be %sArgs of %s", name, schedv1.SchemeGroupVersion)
	}
	return ""
}

func (p *Preemption) configure(raw []byte) error {
	var args schedv1.DefaultPreemptionArgs
	if len(raw) > 0 {
		if err := yaml.UnmarshalStrict(raw, &args); err != nil {
			return err
		}
	}
	var errs field.ErrorList
	if v := args.MinCandidateNodesPercentage; v != nil {
		if p.Percent = int(*v); *v < 0 || *v > 100 {
			errs = append(errs, field.Invalid(field.NewPath("minCandidateNodesPercentage"), *v, "must be from 0 to 100"))
		}
	}
	if v := args.MinCandidateNodesAbsolute; v != nil {
		if p.Nodes = int(*v); *v < 0 {
			errs = append(errs, field.Invalid(field.NewPath("minCandidateNodesAbsolute"), *v, "must not be negative"))
		}
	}
	if len(errs) == 0 && p.Percent == 0 && p.Nodes == 0 {
		errs = append(errs, field.Invalid(field.NewPath("minCandidateNodesAbsolute"), 0, "must be more than 0 when minCandidateNodesPercentage is 0"))
	}
	return errs.ToAggregate()
}
