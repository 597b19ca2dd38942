package controllers

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/control"
	"proa/internal/kinds/core"
)

// How fast the pods of lost nodes are chased away, in one zone.
const (
	chasePeriod = 10 * time.Second  // a node each, as a rule
	slowPeriod  = 100 * time.Second // in a large zone of which most is lost
	largeZone   = 50                // nodes above which a zone is large
	lostShare   = 0.55              // of a zone's nodes are lost: it is the zone rather than the nodes
	lostFew     = 2                 // so few lost nodes never mean that
	chaseCheck  = 5 * time.Second   // how often a node that waits is looked at again
	countsStay  = time.Second       // how long a count of the zones serves, in a large cluster
	manyNodes   = 200
)

// zones is what a monitor remembers of the zones: whose pods are being chased
// away, and when the next node's may be.
type zones struct {
	chased  map[string]bool      // by node
	next    map[string]time.Time // by zone
	all     bool                 // no node at all was well at the last count
	counts  map[string]census
	counted time.Time
}

// A census is how many nodes of a zone are well and how many are not.
type census struct{ well, sick int }

// zoneOf is the zone of a node, in its region; nodes without are one zone.
func zoneOf(n *corev1.Node) string {
	return n.Labels[corev1.LabelTopologyRegion] + "\x00" + n.Labels[corev1.LabelTopologyZone]
}

// count looks at every node. A node whose heartbeat is overdue is not well, though
// nobody may have said so yet: when it was the control plane that was away, all are
// overdue at once, and none may be chased before the others have been looked at.
func (m *monitor) count(c *control.Cluster) map[string]census {
	now := c.Now()
	m.mu.Lock()
	counts, fresh := m.counts, len(m.seen) > manyNodes && now.Sub(m.counted) < countsStay
	m.mu.Unlock()
	if counts != nil && fresh {
		return counts
	}
	counts = map[string]census{}
	well := 0
	for _, n := range control.All(c, core.Node, "") {
		cond := core.NodeCondition(n, corev1.NodeReady)
		if cond == nil {
			continue // it has never said anything
		}
		z := counts[zoneOf(n)]
		if cond.Status == corev1.ConditionTrue && m.left(c, n) > 0 {
			z.well++
			well++
		} else {
			z.sick++
		}
		counts[zoneOf(n)] = z
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all && well > 0 { // the others get the time to come back, too
		for name, h := range m.seen {
			h.at = now
			m.seen[name] = h
		}
	}
	m.all, m.counts, m.counted = well == 0, counts, now
	return counts
}

// chase decides whether the pods of a node that is not ready are chased away,
// and when to ask again if not now. One node of a zone goes after the other, none
// while most of a small zone is lost, and none while every node there is is lost:
// then it is more likely that the fault is here.
func (m *monitor) chase(c *control.Cluster, n *corev1.Node) (bool, time.Duration) {
	counts := m.count(c)
	left := m.left(c, n)
	m.mu.Lock()
	defer m.mu.Unlock()
	zone := zoneOf(n)
	z := counts[zone]
	now := c.Now()
	switch {
	case m.all:
		delete(m.chased, n.Name)
		return false, chaseCheck
	case m.chased[n.Name] || slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoExecute && (t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable)
	}):
		m.chased[n.Name] = true
		return true, chaseCheck
	case core.NodeCondition(n, corev1.NodeReady).Status == corev1.ConditionUnknown && left > 0:
		return false, chaseCheck // it may be about to come back
	}
	period := chasePeriod
	if z.well > 0 && z.sick > lostFew && float64(z.sick) >= lostShare*float64(z.sick+z.well) {
		if z.sick+z.well <= largeZone {
			return false, chaseCheck
		}
		period = slowPeriod
	}
	if wait := m.next[zone].Sub(now); wait > 0 {
		return false, min(wait, chaseCheck)
	}
	m.next[zone] = now.Add(period)
	m.chased[n.Name] = true
	return true, chaseCheck
}

// well says that a node is not to be chased. When no node was well before it,
// the count has to learn of it.
func (m *monitor) well(c *control.Cluster, n *corev1.Node) {
	m.mu.Lock()
	delete(m.chased, n.Name)
	all := m.all
	if all {
		m.counted = time.Time{}
	}
	m.mu.Unlock()
	if all {
		m.count(c)
	}
}
