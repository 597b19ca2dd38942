package steps

import (
	"context"
	"path"

	"proa/internal/node"
)

// Pretend are the steps of a node with pretend containers: every volume gets a
// path, at which nothing is made, because nothing will ever read it.
func Pretend() []*node.Step {
	return []*node.Step{{Name: "volumes", Start: func(_ context.Context, r *node.Run) error {
		if r.Volumes == nil {
			r.Volumes = map[string]node.Volume{}
		}
		for _, v := range r.Pod.Spec.Volumes {
			r.Volumes[v.Name] = node.Volume{Path: path.Join("/pretend", string(r.Pod.UID), v.Name)}
		}
		return nil
	}}}
}
