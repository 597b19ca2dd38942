// Package usage measures what nodes and pods use, and answers metrics.k8s.io.
//
//	nodes' agents ── every 15 s ──> Meter: the last reading of each counter, and the
//	                                rate since the one before ──> NodeMetrics, PodMetrics
//
// A reading is taken from each node once in a pass. Requests are answered from
// memory: however often somebody asks, no node is asked more often. A rate is made
// of two readings of the same counter, never of one: what is newer than two
// readings has no metrics yet.
package usage

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/kubeletapi"
)

// Config is what a Meter is made from. Agent is required.
type Config struct {
	// Agent finds the agent of a node; [kubeletapi.Nodes.Agent] does.
	Agent func(ctx context.Context, h api.Handler, node string) (kubeletapi.Agent, error)

	Every   time.Duration // between the beginnings of two passes; 15 s if 0
	Timeout time.Duration // of one node's answer; 3 s if 0
	Log     *slog.Logger
}

// A Meter measures nodes and pods. Make one with [New], and Run it.
type Meter struct {
	Config

	mu    sync.RWMutex
	nodes map[string]*node
}

const (
	// atOnce is how many nodes are asked at the same time.
	atOnce = 16
	// early is how many passes at the start come three times as quickly as later ones.
	early = 3
	// longest is over how many passes a rate may be made, if those between failed.
	longest = 4
	// mostRest is how many passes a node is left out at most that does not answer.
	mostRest = 7
)

// New returns a Meter that knows nothing yet.
func New(c Config) *Meter {
	if c.Every == 0 {
		c.Every = 15 * time.Second
	}
	if c.Timeout == 0 {
		c.Timeout = 3 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Meter{Config: c, nodes: map[string]*node{}}
}

// Run measures the nodes that h has until ctx ends.
func (m *Meter) Run(ctx context.Context, h api.Handler) {
	for n := 0; ctx.Err() == nil; n++ {
		began := time.Now()
		m.Pass(ctx, h)
		pause := m.Every
		if n < early {
			pause /= 3
		}
		t := time.NewTimer(pause - time.Since(began))
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// Pass takes one reading of each node. It takes no longer than there is time
// until the next: nodes that were not asked by then are left out.
func (m *Meter) Pass(ctx context.Context, h api.Handler) {
	list, err := core.Node.List(ctx, h, "", api.Selectors{})
	if err != nil {
		if ctx.Err() == nil {
			m.Log.Warn("Nodes cannot be measured", "err", err)
		}
		return
	}
	ctx, cancel := context.WithTimeout(ctx, m.Every)
	defer cancel()
	todo := make(chan string)
	var workers sync.WaitGroup
	for range min(atOnce, len(list)) {
		workers.Go(func() {
			for name := range todo {
				m.ask(ctx, h, name)
			}
		})
	}
	there := make(map[string]bool, len(list))
	for _, n := range list {
		there[n.Name] = true
		if m.rests(n) {
			continue
		}
		select {
		case todo <- n.Name:
		case <-ctx.Done():
			m.put(n.Name, m.get(n.Name).quiet())
		}
	}
	close(todo)
	workers.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.nodes {
		if !there[name] {
			delete(m.nodes, name)
		}
	}
}

// rests says whether a node is not to be asked in this pass: the cluster has lost
// it, or it has not answered lately.
func (m *Meter) rests(n *corev1.Node) bool {
	have := m.get(n.Name)
	if c := core.NodeCondition(n, corev1.NodeReady); c != nil && c.Status == corev1.ConditionUnknown {
		if have != nil {
			next := have.quiet()
			next.fails, next.rest = 0, 0 // it is asked at once when it is back
			m.put(n.Name, next)
		}
		return true
	}
	if have == nil || have.rest == 0 {
		return false
	}
	next := *have
	next.rest--
	m.put(n.Name, &next)
	return true
}

func (m *Meter) ask(ctx context.Context, h api.Handler, name string) {
	ctx, cancel := context.WithTimeout(ctx, m.Timeout)
	defer cancel()
	a, err := m.Agent(ctx, h, name)
	var r *kubeletapi.Resources
	if err == nil {
		r, err = a.Resources(ctx)
	}
	if err != nil {
		m.Log.Debug("A node does not say what it uses", "node", name, "err", err)
		m.put(name, m.get(name).failed())
		return
	}
	m.put(name, m.get(name).read(r, longest*m.Every))
}

func (m *Meter) get(name string) *node {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.nodes[name]
}

func (m *Meter) put(name string, n *node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nodes[name] = n
}

// A node is what is known of one node. It is not changed: the next pass makes another.
type node struct {
	silent bool // it did not answer in the last pass, or was not asked
	fails  int  // passes in a row in which it did not answer
	rest   int  // passes in which it is not to be asked
	self   meter
	pods   map[pod][]container // by name
}

type pod struct{ namespace, name string }

type container struct {
	name  string
	began time.Time
	meter
}

// quiet is the node after a pass in which it was not asked.
func (n *node) quiet() *node {
	next := node{}
	if n != nil {
		next = *n
	}
	next.silent = true
	return &next
}

// failed is the node after a pass in which it did not answer. Each time it is left
// alone for longer.
func (n *node) failed() *node {
	next := *n.quiet()
	next.fails++
	next.rest = min(1<<(min(next.fails, 10)-1)-1, mostRest)
	return &next
}

// read is the node after it has answered. Readings that are further apart than
// most make no rate.
func (n *node) read(r *kubeletapi.Resources, most time.Duration) *node {
	if n == nil {
		n = &node{}
	}
	next := &node{self: n.self.read(r.Node, most), pods: make(map[pod][]container, len(n.pods))}
	for _, c := range r.Containers {
		key := pod{c.Namespace, c.Pod}
		now := container{name: c.Container, began: c.Began}
		was := meter{}
		for _, old := range n.pods[key] {
			if old.name == c.Container && old.began.Equal(c.Began) {
				was = old.meter
			}
		}
		now.meter = was.read(c.Use, most)
		next.pods[key] = append(next.pods[key], now)
	}
	for _, list := range next.pods {
		slices.SortFunc(list, func(a, b container) int { return strings.Compare(a.name, b.name) })
	}
	return next
}

// A meter is the last reading of one counter, and the rate that it and the one
// before make, if they do.
type meter struct {
	last   kubeletapi.Use
	window time.Duration // 0: there is no rate
	cpu    uint64        // billionths of a processor
}

// read is the meter after another reading.
func (m meter) read(is kubeletapi.Use, most time.Duration) meter {
	w := is.Time.Sub(m.last.Time)
	switch {
	case is.Time.IsZero():
		return meter{}
	case m.last.Time.IsZero():
	case w == 0:
		return m // the same reading once more
	case w < 0, w > most, is.CPU < m.last.CPU: // a clock was set, nobody looked for long, the counter began anew
	default:
		return meter{last: is, window: w, cpu: uint64(math.Round(float64(is.CPU-m.last.CPU) / w.Seconds()))}
	}
	return meter{last: is}
}
