package apiserver

import (
	"context"
	"time"
)

var noContext = context.Background()

// ForgetEvents empties the logs, as if everything in them were old.
func (s *Server) ForgetEvents() { s.age(time.Now().Add(time.Hour)) }

// Sweep is what happens once a minute.
func (s *Server) Sweep() { s.sweep() }

// ForgetLists lets go of the snapshots kept for limited lists.
func (s *Server) ForgetLists() { s.recent.forget(1 << 62) }

// Reload reads the state anew, as after the engine has dropped the server.
func (s *Server) Reload() error { return s.reload(noContext) }
