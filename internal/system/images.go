package system

import (
	"context"
	"fmt"

	"proa/internal/node/cri"
	"proa/internal/registry"
)

// LoadImages puts the images of an archive into the node's registry and pulls
// them into its runtime, which must be running. It returns the names loaded.
func LoadImages(ctx context.Context, p Places, file string) ([]string, error) {
	r, err := registry.New(p.Registry(), nil)
	if err != nil {
		return nil, err
	}
	names, err := r.Load(ctx, file)
	if err != nil || len(names) == 0 {
		return names, err
	}
	rt, err := cri.Dial(p.Socket())
	if err != nil {
		return names, fmt.Errorf("the images are in the registry, but the runtime does not answer: %w", err)
	}
	for _, name := range names {
		if _, err := rt.Pull(ctx, name, nil, nil); err != nil {
			return names, fmt.Errorf("the images are in the registry, but the runtime could not take %s: %s", name, cri.Message(err))
		}
	}
	return names, nil
}

// ListImages returns the images in the node's registry.
func ListImages(p Places) ([]registry.Image, error) {
	r, err := registry.New(p.Registry(), nil)
	if err != nil {
		return nil, err
	}
	return r.List()
}
