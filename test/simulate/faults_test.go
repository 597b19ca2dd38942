package simulate

import (
	"context"
	"time"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fault has something break, and arranges for its end.
func (w *world) fault() {
	r := w.rand
	span := func(least, most time.Duration) time.Duration {
		return least + time.Duration(r.Int64N(int64(most-least)))
	}
	m := w.nodes[r.IntN(len(w.nodes))]
	switch r.IntN(9) {
	case 0: // the machine fails, and comes back empty
		off := 0
		for _, n := range w.nodes {
			if n.runtime == nil {
				off++
			}
		}
		if m.runtime == nil || off >= len(w.nodes)/3 {
			return
		}
		w.count("nodes failed")
		m.off()
		w.agenda.after(span(30*time.Second, 20*time.Minute), func() {
			if m.runtime == nil {
				m.boot()
			}
		})
	case 1: // the agent ends; containers run on
		if m.agent == nil {
			return
		}
		w.count("agents crashed")
		m.crash()
		w.agenda.after(span(0, time.Minute), func() {
			if m.agent == nil && m.runtime != nil {
				m.startAgent()
			}
		})
	case 2: // the network is cut
		w.count("networks cut")
		m.cut = time.Now().Add(span(5*time.Second, 8*time.Minute))
		m.healthy = m.cut
	case 3:
		if len(w.plane) > 0 {
			w.count("controllers crashed")
			w.restart(w.plane[0])
		}
	case 4:
		if len(w.plane) > 0 {
			w.count("schedulers crashed")
			w.restart(w.plane[1])
		}
	case 5: // the control plane is away
		if w.server == nil {
			return
		}
		w.count("control planes away")
		w.down()
		w.agenda.after(span(time.Second, 12*time.Minute), func() {
			if w.server == nil {
				w.up()
			}
		})
	case 6: // a bad time for all
		w.count("bad times")
		w.mood = mood{refuse: 0.05, lose: 0.05, sever: 0.02, fail: 0.03, slow: 0.3, late: span(50*time.Millisecond, 10*time.Second)}
		w.agenda.after(span(time.Minute, 10*time.Minute), func() { w.mood = mood{} })
	case 7: // what happened is forgotten: watchers that are behind begin anew
		if w.server != nil {
			w.count("compactions")
			_ = w.engine.Compact(context.Background(), w.engine.Revision())
		}
	case 8:
		if m.runtime == nil {
			return
		}
		cs, err := m.runtime.ListContainers(context.Background(), &v1.ContainerFilter{State: &v1.ContainerStateValue{State: v1.ContainerState_CONTAINER_RUNNING}})
		if err == nil && len(cs) > 0 {
			w.count("containers killed")
			m.runtime.Kill(cs[r.IntN(len(cs))].Id, 137)
		}
	}
}

func (w *world) count(what string) { w.stats.faults[what]++ }

// mend brings back what is broken.
func (w *world) mend() {
	w.mood = mood{}
	w.rules.rough = time.Now()
	if w.server == nil {
		w.up()
	}
	for _, m := range w.nodes {
		m.cut = time.Time{}
		switch {
		case m.runtime == nil:
			m.boot()
		case m.agent == nil:
			m.startAgent()
		}
	}
}
