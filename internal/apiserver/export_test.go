package apiserver

import (
	"context"
	"iter"
	"time"

	"proa/internal/api"
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

// All yields the objects of a kind in a namespace, or in all of them.
func All[T api.Object](n *Snapshot, k *api.Kind[T], ns string) iter.Seq[T] {
	return func(yield func(T) bool) {
		for item := range n.Items(k.Def().GroupResource(), ns) {
			if !yield(item.Object().(T)) {
				return
			}
		}
	}
}

// One returns an object of a kind.
func One[T api.Object](n *Snapshot, k *api.Kind[T], ns, name string) (t T, ok bool) {
	item := n.Item(k.Def().GroupResource(), ns, name)
	if item == nil {
		return t, false
	}
	return item.Object().(T), true
}
