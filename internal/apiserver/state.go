package apiserver

import (
	"context"
	"iter"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
	"proa/internal/apiserver/admit"
)

// state is what admission steps see of the server: always its present state.
type state struct {
	now func() *Snapshot
	s   *Server
}

var _ admit.State = state{}

// Get reads one object without making a snapshot.
func (x state) Get(gr schema.GroupResource, ns, name string) api.Object {
	t := x.s.named(gr)
	if t == nil {
		return nil
	}
	if item := x.s.item(t, t.key(ns, name)); item != nil {
		return item.Object()
	}
	return nil
}

func (x state) Objects(gr schema.GroupResource, ns string) iter.Seq[api.Object] {
	return x.now().Objects(gr, ns)
}

func (x state) Wait(ctx context.Context, gr schema.GroupResource, ready func(admit.Reader) bool) bool {
	t := x.s.named(gr)
	if t == nil {
		return ready(x)
	}
	return x.s.Wait(ctx, t.res, func(n *Snapshot) bool { return ready(n) })
}
