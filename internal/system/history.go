package system

import (
	"context"
	"fmt"

	"proa/internal/apiserver"
	"proa/internal/store"
)

// History says what is kept of objects' earlier states, beyond the minutes that
// clients can list and watch anyway.
type History struct {
	Versions int   // of each object; none at all if 0. Half as many changes of status alone are kept beside them
	Bytes    int64 // of all together
	Secrets  bool  // of Secrets, too
}

// keeping is the history as the store is told.
func (h History) keeping() store.Keeping {
	if h.Versions == 0 {
		return store.Keeping{}
	}
	return store.Keeping{Keep: apiserver.Keeps(h.Secrets), Full: h.Versions, Light: (h.Versions + 1) / 2, Bytes: h.Bytes}
}

// forget drops what an earlier run has kept that this one is not to keep.
func (h History) forget(engine store.Engine) error {
	e, ok := engine.(store.Historian)
	if !ok {
		return nil
	}
	prefix := ""
	switch {
	case h.Versions > 0 && h.Secrets:
		return nil
	case h.Versions > 0:
		prefix = apiserver.SecretKeys
	}
	if err := e.Forget(context.Background(), prefix); err != nil {
		return fmt.Errorf("drop the history that is not to be kept: %w", err)
	}
	return nil
}
