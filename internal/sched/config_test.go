package sched_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"proa/internal/sched"
	"proa/internal/sched/plugins"
)

const configHead = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

// show writes a profile as one line: its plugins that are not as they are by
// default, and whether pods leave for others.
func show(p sched.Profile) string {
	out := []string{p.Name}
	have := map[string]sched.Use{}
	var names []string
	for _, u := range p.Uses {
		have[u.Name] = u
		names = append(names, u.Name)
	}
	missing := 0
	for _, d := range plugins.All {
		u, ok := have[d.Name]
		switch {
		case !ok:
			missing++
			if missing <= 3 {
				out = append(out, "-"+d.Name)
			}
		case u.NoFits:
			out = append(out, fmt.Sprintf("%s:score*%d", d.Name, u.Weight))
		case u.NoScore:
			out = append(out, d.Name+":filter")
		case u.Weight != 0:
			out = append(out, fmt.Sprintf("%s*%d", d.Name, u.Weight))
		}
		if ok && u.Plugin != d {
			out = append(out, d.Name+":args")
		}
	}
	if missing > 3 {
		slices.Sort(names)
		out = append(out[:1], "only", strings.Join(names, " "))
	}
	if p.Percent != 0 {
		out = append(out, fmt.Sprintf("%d%%", p.Percent))
	}
	if p.Preempt == nil {
		out = append(out, "-preemption")
	} else if *p.Preempt != sched.DefaultPreemption {
		out = append(out, fmt.Sprintf("preemption:%d%%,%d", p.Preempt.Percent, p.Preempt.Nodes))
	}
	return strings.Join(out, " ")
}

func TestLoad(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", "default-scheduler"},
		{"what is not about us", "leaderElection: {leaderElect: false}\nclientConnection: {kubeconfig: /x}\nparallelism: 4\nenableProfiling: true\n", "default-scheduler"},
		{"a name", "profiles: [{schedulerName: mine}]", "mine"},
		{"two", "profiles: [{schedulerName: a}, {schedulerName: b, percentageOfNodesToScore: 7}]\npercentageOfNodesToScore: 30", "a 30%; b 7%"},
		{"weights", "profiles: [{plugins: {score: {enabled: [{name: NodeAffinity, weight: 5}, {name: ImageLocality}]}}}]", "default-scheduler NodeAffinity*5 ImageLocality*1"},
		{"weights for all points", "profiles: [{plugins: {multiPoint: {enabled: [{name: NodeAffinity, weight: 5}]}}}]", "default-scheduler NodeAffinity*5"},
		{"without", "profiles: [{plugins: {multiPoint: {disabled: [{name: ImageLocality}, {name: DefaultPreemption}]}}}]", "default-scheduler -ImageLocality -preemption"},
		{"no scores but one", "profiles: [{plugins: {multiPoint: {disabled: [{name: '*'}], enabled: [{name: PrioritySort}, {name: DefaultBinder}, {name: NodeName}]}, score: {enabled: [{name: NodeResourcesFit, weight: 2}]}}}]",
			"default-scheduler only NodeName NodeResourcesFit -preemption"},
		{"at single points", "profiles: [{plugins: {score: {disabled: [{name: NodeAffinity}]}, filter: {disabled: [{name: TaintToleration}]}, postFilter: {disabled: [{name: '*'}]}}}]",
			"default-scheduler TaintToleration:score*0 NodeAffinity:filter -preemption"},
		{"args", "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {apiVersion: kubescheduler.config.k8s.io/v1, kind: NodeResourcesFitArgs, scoringStrategy: {type: MostAllocated}}}, {name: DefaultPreemption, args: {minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 3}}]}]",
			"default-scheduler NodeResourcesFit:args preemption:0%,3"},

		{"unknown field", "profile: []", `unknown field "profile"`},
		{"unknown plugin", "profiles: [{plugins: {score: {enabled: [{name: Coscheduling}]}}}]", `profiles[0].plugins.score.enabled[0].name: Unsupported value: "Coscheduling": supported values: "PrioritySort"`},
		{"twice the same name", "profiles: [{schedulerName: a}, {schedulerName: a}]", `profiles[1].schedulerName: Duplicate value: "a"`},
		{"names are missing", "profiles: [{}, {schedulerName: a}]", "profiles[0].schedulerName: Required value: with more than one profile each needs its name"},
		{"extenders", "extenders: [{urlPrefix: 'http://x'}]", "extenders: Forbidden: this scheduler asks no webhooks"},
		{"pauses", "podInitialBackoffSeconds: 20", "podMaxBackoffSeconds: Invalid value: 10: must not be less than podInitialBackoffSeconds, 20"},
		{"percent", "percentageOfNodesToScore: 101", "percentageOfNodesToScore: Invalid value: 101: must be from 0 to 100"},
		{"no order", "profiles: [{plugins: {queueSort: {disabled: [{name: PrioritySort}]}}}]", "PrioritySort can not be left out here"},
		{"no binder", "profiles: [{plugins: {multiPoint: {disabled: [{name: DefaultBinder}]}}}]", "DefaultBinder can not be left out"},
		{"args of another", "profiles: [{pluginConfig: [{name: NodeAffinity, args: {kind: NodeResourcesFitArgs}}]}]", "must be NodeAffinityArgs of kubescheduler.config.k8s.io/v1"},
		{"args for none", "profiles: [{pluginConfig: [{name: NodeName, args: {}}]}]", "NodeName has no options"},
		{"wrong args", "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: Most}}}]}]", `scoringStrategy.type: Unsupported value: "Most"`},
		{"shape", "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 50, score: 11}, {utilization: 50, score: 1}]}}}}]}]",
			"shape[0].score: Invalid value: 11: must be from 0 to 10, scoringStrategy.requestedToCapacityRatio.shape[1].utilization: Invalid value: 50: must be more than that of the point before, 50"},
		{"no shape", "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio}}}]}]", "scoringStrategy.requestedToCapacityRatio.shape: Required value"},
		{"spread by its own selector", "profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: ScheduleAnyway, labelSelector: {}}]}}]}]",
			"defaultConstraints[0].labelSelector: Forbidden"},
		{"hard weight", "profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}]}]", "hardPodAffinityWeight: Invalid value: 101: must be from 0 to 100"},
		{"no candidates", "profiles: [{pluginConfig: [{name: DefaultPreemption, args: {minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 0}}]}]", "must be more than 0 when minCandidateNodesPercentage is 0"},
		{"balance by weight", "profiles: [{pluginConfig: [{name: NodeResourcesBalancedAllocation, args: {resources: [{name: cpu, weight: 2}]}}]}]", "resources[0].weight: Invalid value: 2: must be 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := sched.Load([]byte(configHead+tt.text), plugins.All)
			if err != nil {
				if !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got error %q, want %q", err, tt.want)
				}
				return
			}
			var all []string
			for _, p := range c.Profiles {
				all = append(all, show(p))
			}
			if got := strings.Join(all, "; "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if _, err := sched.Load([]byte("apiVersion: kubescheduler.config.k8s.io/v1beta3\nkind: KubeSchedulerConfiguration\n"), plugins.All); err == nil {
		t.Error("an old version is taken")
	}
	c, err := sched.Load([]byte(configHead+"podInitialBackoffSeconds: 2\npodMaxBackoffSeconds: 30\n"), plugins.All)
	if err != nil || c.FirstPause != 2*time.Second || c.MostPause != 30*time.Second {
		t.Errorf("pauses %v, %v, %v", c.FirstPause, c.MostPause, err)
	}
}
