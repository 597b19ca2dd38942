package system

import (
	"context"
	"errors"
	"sync/atomic"
)

// started says whether a part of the control plane runs. None of them ends
// before the API server does.
type started struct{ atomic.Bool }

func (s *started) probe(context.Context) error {
	if !s.Load() {
		return errors.New("it has not started yet")
	}
	return nil
}
