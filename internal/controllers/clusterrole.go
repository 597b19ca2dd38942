package controllers

import (
	"context"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/rbac"
)

// ClusterRoleAggregation fills cluster roles that have an aggregation rule with
// the rules of those that it selects.
var ClusterRoleAggregation = &control.Controller[*rbacv1.ClusterRole]{
	Name: "clusterrole-aggregation-controller",
	For:  rbac.ClusterRole,
	Watches: []control.Watch{control.On(rbac.ClusterRole, func(c *control.Cluster, _ *rbacv1.ClusterRole) (keys []control.Key) {
		for _, r := range control.All(c, rbac.ClusterRole, "") {
			if r.AggregationRule != nil {
				keys = append(keys, control.KeyOf(r))
			}
		}
		return keys
	})},
	Writes: []api.Definition{rbac.ClusterRole},
	Reconcile: func(ctx context.Context, c *control.Cluster, r *rbacv1.ClusterRole) (time.Duration, error) {
		if r.AggregationRule == nil || r.DeletionTimestamp != nil {
			return 0, nil
		}
		rules, err := gathered(r, control.All(c, rbac.ClusterRole, ""))
		if err != nil || equality.Semantic.DeepEqual(rules, r.Rules) {
			return 0, err
		}
		next := api.Clone(r)
		next.Rules = rules
		_, err = rbac.ClusterRole.Update(ctx, c, next)
		return 0, ignoreNotFound(err)
	},
}

// gathered is what r consists of: the rules of the others that its selectors
// match, in the order of their names, each once.
func gathered(r *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) (rules []rbacv1.PolicyRule, err error) {
	all = slices.SortedFunc(slices.Values(all), func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	for i := range r.AggregationRule.ClusterRoleSelectors {
		sel, err := metav1.LabelSelectorAsSelector(&r.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, err
		}
		for _, from := range all {
			if from.Name == r.Name || !sel.Matches(labels.Set(from.Labels)) {
				continue
			}
			for _, rule := range from.Rules {
				if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(have, rule) }) {
					rules = append(rules, rule)
				}
			}
		}
	}
	return rules, nil
}
