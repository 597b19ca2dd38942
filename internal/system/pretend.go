package system

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/api/record"
	"proa/internal/kinds/core"
	"proa/internal/node"
	"proa/internal/node/cri/pretend"
	"proa/internal/node/fleet"
	"proa/internal/node/steps"
)

// pretendMachine is what a pretend node says it has.
var pretendMachine = node.Machine{MilliCPU: 32_000, Memory: 256 << 30, Storage: 1 << 40,
	Info: corev1.NodeSystemInfo{OSImage: "Pretend", KernelVersion: "pretend"}}

// readScript reads what is to happen to the pretend nodes.
func (c *Config) readScript() (*fleet.Script, error) {
	var text []byte
	if c.PretendScript != "" {
		var err error
		if text, err = os.ReadFile(c.PretendScript); err != nil {
			return nil, fmt.Errorf("read the script of the pretend nodes: %w", err)
		}
	}
	script, err := fleet.Parse(string(text), max(c.Nodes, 1))
	if err != nil {
		return nil, fmt.Errorf("script of the pretend nodes, %s: %w", c.PretendScript, err)
	}
	return script, nil
}

// Check says what is wrong with the files that the configuration names, before
// anything is started.
func (c *Config) Check() error {
	if _, err := c.readScript(); err != nil {
		return err
	}
	_, err := schedulerConfig(c.SchedulerConfig)
	return err
}

// startPretend starts nodes whose containers exist in memory only.
func (s *system) startPretend(ctx context.Context, p *plane) {
	var machines []*fleet.Machine
	for i, name := range s.nodeNames() {
		m := fleet.NewMachine(node.Config{
			Name:    name,
			Handler: p.asNode(name),
			RootDir: filepath.Join(s.Places.Node(), name),
			Bare:    true,
			Labels:  s.script.Labels(i + 1),
			Machine: pretendMachine,
			Steps:   steps.Pretend(),
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("172.%d.%d.%d", 16+i>>16, i>>8&255, i&255)},
				{Type: corev1.NodeHostName, Address: name},
			},
			Log:    s.Log.With("node", name),
			Domain: s.id.Domain,
		}, pretend.Options{})
		p.agents.set(name, m, m.Answers)
		machines = append(machines, m)
	}
	player := fleet.NewPlayer(machines, s.script)
	player.Log = s.Log
	own := api.As(api.User{Name: "proa:pretend", Groups: []string{api.GroupMasters}}, p.Server)
	events := record.New(core.Event, own, "pretend", "", s.now, s.Log)
	player.Events = events
	s.parts.Go(func() { events.Run(ctx) })
	s.parts.Go(func() { player.Obey(ctx, own) })
	s.part(ctx, "the pretend nodes", player.Run)
}

// startAgent starts the agent of one node, which asks the server in that node's
// name. after is called when it has ended.
func (s *system) startAgent(ctx context.Context, p *plane, c node.Config, after func()) (*node.Agent, error) {
	c.Handler = p.asNode(c.Name)
	events := record.New(core.Event, c.Handler, "kubelet", c.Name, s.now, s.Log)
	s.parts.Go(func() { events.Run(ctx) })
	c.Events, c.Log, c.Domain = events, s.Log.With("node", c.Name), s.id.Domain
	agent, err := node.New(c)
	if err != nil {
		return nil, err
	}
	p.agents.add(c.Name, agent)
	s.part(ctx, "the agent of node "+c.Name, func(ctx context.Context) error {
		defer after()
		return agent.Run(ctx)
	})
	return agent, nil
}
