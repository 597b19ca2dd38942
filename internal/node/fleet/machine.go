// Package fleet plays the machines of pretend nodes: each has a node agent, a
// pretend runtime, a cable to the API and a power switch. What happens to them is
// said by a script (see [Parse]), which a [Player] plays, or by whoever calls their
// methods. All else is real: the API, the controllers, the scheduler, the agents.
//
//	           Boot                  StopAgent
//	off ──────────────────> up ──────────────────> up, without an agent
//	    <────────────────── ↑ ↓ <──────────────────
//	           Fail      Mend│ │Cut   StartAgent
//	                         up, and silent
//
// A script's faults are chosen by its seed alone, and times are those of a clock
// that is handed in, so that they can be played in made-up time.
package fleet

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api/record"
	"proa/internal/kinds/core"
	"proa/internal/kubeletapi"
	"proa/internal/node"
	"proa/internal/node/cri/pretend"
	"proa/internal/store"
)

// A Machine is one pretend node. It is off until it is booted. Its methods may be
// called from many goroutines; a change is made when they return.
type Machine struct {
	agent   node.Config // of every run of the agent
	runtime pretend.Options
	cable   *Cable
	calls   calls // that the agent answers

	change sync.Mutex // held by who changes the machine
	boots  int
	stop   func() // the agent's run; nil if there is none

	mu    sync.Mutex
	rt    *pretend.Runtime // nil while the machine is off
	runs  *node.Agent      // nil if there is none
	slow  time.Duration
	short map[corev1.NodeConditionType]bool
}

// NewMachine returns a machine whose agent is as c says: but its runtime is a
// pretend one as o says, anew with each boot, its API is behind a cable that can be
// cut, and what it has left is the machine's to say. Without c.Events, events are
// written through the same cable.
func NewMachine(c node.Config, o pretend.Options) *Machine {
	if c.Clock == nil {
		c.Clock = store.SystemClock{}
	}
	if o.Clock == nil {
		o.Clock = c.Clock
	}
	if o.Seed == "" {
		o.Seed = c.Name
	}
	m := &Machine{agent: c, runtime: o, cable: NewCable(c.Handler), short: map[corev1.NodeConditionType]bool{}}
	m.agent.Handler, m.agent.Measure = m.cable, m.left
	return m
}

// Name is the node's.
func (m *Machine) Name() string { return m.agent.Name }

// Runtime is what runs the containers; nil while the machine is off.
func (m *Machine) Runtime() *pretend.Runtime {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rt
}

// Agent is the agent that runs, or nil.
func (m *Machine) Agent() *node.Agent {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.runs
}

// On says whether the machine has power.
func (m *Machine) On() bool { return m.Runtime() != nil }

// Boot switches the machine on, if it is off: no container runs, and the agent
// starts, which ends with ctx at the latest.
func (m *Machine) Boot(ctx context.Context) error {
	m.change.Lock()
	defer m.change.Unlock()
	if m.On() {
		return nil
	}
	o := m.runtime
	o.Seed = fmt.Sprintf("%s boot %d", o.Seed, m.boots) // no container has the ID of one from before
	m.boots++
	rt := pretend.New(o)
	m.mu.Lock()
	m.rt = rt
	rt.Slow(m.slow)
	m.mu.Unlock()
	return m.start(ctx)
}

// Fail switches the machine off: all that ran on it is gone.
func (m *Machine) Fail() {
	m.change.Lock()
	defer m.change.Unlock()
	m.end()
	m.mu.Lock()
	rt := m.rt
	m.rt = nil
	m.mu.Unlock()
	if rt != nil {
		rt.Off()
	}
}

// StopAgent ends the agent, at whatever it is. Containers run on, and what clients
// have open into them breaks.
func (m *Machine) StopAgent() {
	m.change.Lock()
	defer m.change.Unlock()
	m.end()
}

// StartAgent starts the agent, if the machine is on and there is none.
func (m *Machine) StartAgent(ctx context.Context) error {
	m.change.Lock()
	defer m.change.Unlock()
	if !m.On() || m.stop != nil {
		return nil
	}
	return m.start(ctx)
}

// Cut makes the machine silent: nothing passes between it and the API until Mend.
// What clients have open into its containers breaks, as it does when a machine dies.
func (m *Machine) Cut() {
	m.cable.Cut()
	m.calls.breakOff()
}

// Mend ends the silence.
func (m *Machine) Mend() { m.cable.Mend() }

// Slow makes every pull and every start of a container take d longer; 0 ends that.
func (m *Machine) Slow(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slow = d
	if m.rt != nil {
		m.rt.Slow(d)
	}
}

// Short says whether the node runs out of something, which is named by the
// condition that tells of it. The agent looks every 10 s, and says that there is
// enough again when it was so for five minutes.
func (m *Machine) Short(of corev1.NodeConditionType, is bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.short[of] = is
}

// left is what the agent measures.
func (m *Machine) left(context.Context) node.Signals {
	m.mu.Lock()
	defer m.mu.Unlock()
	amount := func(of corev1.NodeConditionType) node.Left {
		if m.short[of] {
			return node.Left{Free: 0, Total: 1 << 40}
		}
		return node.Left{Free: 1 << 40, Total: 1 << 40}
	}
	return node.Signals{Memory: amount(corev1.NodeMemoryPressure), Disk: amount(corev1.NodeDiskPressure), PIDs: amount(corev1.NodePIDPressure)}
}

// start runs an agent. The machine is being changed.
func (m *Machine) start(ctx context.Context) error {
	c := m.agent
	rt := m.Runtime()
	c.Runtime = rt
	if c.Used == nil {
		c.Used = func() (kubeletapi.Use, error) {
			cpu, memory := rt.Used()
			return kubeletapi.Use{Time: c.Clock.Now(), CPU: cpu, Memory: memory}, nil
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	wait := func() {}
	if c.Events == nil {
		told := record.New(core.Event, m.cable, "kubelet", c.Name, c.Clock.Now, c.Log)
		wait, c.Events = told.Start(ctx), told
	}
	agent, err := node.New(c)
	if err != nil {
		cancel()
		return err
	}
	var runs sync.WaitGroup
	runs.Go(func() { _ = agent.Run(ctx) }) // it returns why ctx ended
	m.stop = func() {
		cancel()
		runs.Wait()
		wait()
	}
	m.mu.Lock()
	m.runs = agent
	m.mu.Unlock()
	return nil
}

// end ends the agent's run. The machine is being changed.
func (m *Machine) end() {
	m.mu.Lock()
	m.runs = nil
	m.mu.Unlock()
	m.calls.breakOff()
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
}

// answers returns the agent if it can be reached, and else why not.
func (m *Machine) answers() (*node.Agent, error) {
	agent, why := m.Agent(), ""
	switch {
	case !m.On():
		why = "it is off"
	case !m.cable.Whole():
		why = "nothing comes through to it"
	case agent == nil:
		why = "its agent does not run"
	default:
		return agent, nil
	}
	return nil, fmt.Errorf("node %s does not answer: %s", m.Name(), why)
}

// ServeHTTP answers as the node's own server does; who asks in vain is told so at
// once, and what is open when the machine can be reached no more breaks.
func (m *Machine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// First it is known, and then it is looked whether it can be answered: what
	// happens in between breaks it.
	c, r := m.calls.begin(w, r)
	defer m.calls.end(c)
	agent, err := m.answers()
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	kubeletapi.Serve(agent).ServeHTTP(c, r)
}

// Answers is what those get who ask the agent without a connection: of one that cannot be
// reached, what it has used is an error at once.
func (m *Machine) Answers() kubeletapi.Agent {
	agent, err := m.answers()
	if err != nil {
		return silent{err: err}
	}
	return agent
}

// A silent agent is asked in vain by who measures; nobody asks it for more.
type silent struct {
	kubeletapi.Agent
	err error
}

func (s silent) Healthy(context.Context) error { return s.err }

func (s silent) Summary(context.Context) (*kubeletapi.Summary, error) { return nil, s.err }

func (s silent) Resources(context.Context) (*kubeletapi.Resources, error) { return nil, s.err }
