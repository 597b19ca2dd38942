package system

import (
	"context"

	"proa/internal/api"
	"proa/internal/registry"
)

func (p *plane) nodeSubs() map[string]api.SubFunc                                  { return nil }
func (s *system) startNode(ctx context.Context, p *plane) error                    { return nil }
func LoadImages(ctx context.Context, p Places, file string) ([]string, error)      { return nil, nil }
func ListImages(p Places) ([]registry.Image, error)                                { return nil, nil }
func StopContainers(ctx context.Context, p Places, say func(string, ...any)) error { return nil }
func Clean(ctx context.Context, p Places, say func(string, ...any)) error          { return nil }
