package system

import (
	"context"

	"proa/internal/apiserver/access"
)

// bootstrap creates what every cluster starts with.
func (s *system) bootstrap(ctx context.Context, p *plane) error {
	return access.Ensure(ctx, p.Server)
}
