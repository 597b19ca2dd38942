package system

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api/record"
	"proa/internal/kinds/core"
	"proa/internal/kubeletapi"
	"proa/internal/node"
	"proa/internal/node/cri/pretend"
)

// pretendMachine is what a pretend node says it has.
var pretendMachine = node.Machine{MilliCPU: 32_000, Memory: 256 << 30, Storage: 1 << 40,
	Info: corev1.NodeSystemInfo{OSImage: "Pretend", KernelVersion: "pretend"}}

// pretendVolumes gives every volume a path without making anything there:
// nothing will ever read it.
var pretendVolumes = &node.Step{Name: "volumes", Start: func(_ context.Context, r *node.Run) error {
	if r.Volumes == nil {
		r.Volumes = map[string]node.Volume{}
	}
	for _, v := range r.Pod.Spec.Volumes {
		r.Volumes[v.Name] = node.Volume{Path: filepath.Join("/pretend", string(r.Pod.UID), v.Name)}
	}
	return nil
}}

// startPretend starts nodes whose containers exist in memory only.
func (s *system) startPretend(ctx context.Context, p *plane) error {
	for i, name := range s.nodeNames() {
		rt := pretend.New(pretend.Options{Seed: name})
		if _, err := s.startAgent(ctx, p, node.Config{
			Name:    name,
			Runtime: rt,
			Used:    pretendUse(rt, s.now),
			RootDir: filepath.Join(s.Places.Node(), name),
			Bare:    true,
			Machine: pretendMachine,
			Steps:   []*node.Step{pretendVolumes},
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("172.%d.%d.%d", 16+i>>16, i>>8&255, i&255)},
				{Type: corev1.NodeHostName, Address: name},
			},
		}, func() {}); err != nil {
			return err
		}
	}
	return nil
}

// pretendUse is what a pretend node says that it has used.
func pretendUse(rt *pretend.Runtime, now func() time.Time) func() (kubeletapi.Use, error) {
	return func() (kubeletapi.Use, error) {
		cpu, memory := rt.Used()
		return kubeletapi.Use{Time: now(), CPU: cpu, Memory: memory}, nil
	}
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
