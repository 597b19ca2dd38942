package apiserver

import (
	"context"
	"time"
)

var noContext = context.Background()

// ForgetEvents empties the logs, as if everything in them were old.
func (s *Server) ForgetEvents() { s.age(time.Now().Add(time.Hour)) }

// Sweeper is what sweeps again and again.
type Sweeper struct{ w sweeper }

// Sweep says whether memory was given back.
func (w *Sweeper) Sweep(s *Server) bool { return w.w.sweep(s) }

// Sweep is what happens every ten seconds.
func (s *Server) Sweep() { new(sweeper).sweep(s) }

// ForgetLists lets go of the snapshots kept for limited lists.
func (s *Server) ForgetLists() { s.recent.forget(1 << 62) }

// Reload reads the state anew, as after the engine has dropped the server.
func (s *Server) Reload() error { return s.reload(noContext) }
