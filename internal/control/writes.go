package control

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
)

// Handle passes the request to the server, and remembers what a write did.
func (c *Cluster) Handle(ctx context.Context, r *api.Request) (*api.Response, error) {
	if r.Verb.Writes() && !c.task.any && !slices.Contains(c.task.writes, r.Resource) {
		return nil, fmt.Errorf("controller %s does not declare that it writes %s", c.task.name, r.Resource.Resource)
	}
	resp, err := c.engine.server.Handle(ctx, r)
	if r.Verb.Writes() {
		c.engine.wrote(ctx, r, resp, err)
	}
	return resp, err
}

// wrote takes the outcome of an own write into what the engine knows.
func (e *Engine) wrote(ctx context.Context, r *api.Request, resp *api.Response, err error) {
	s := e.find(r.Resource)
	switch {
	case s == nil:
	case apierrors.IsNotFound(err) && r.Verb != api.Create:
		e.check(ctx, s, r.Namespace, r.Name)
	case err != nil:
		if doubtful(err) {
			s.doubts.Add(1)
		}
	case r.Verb == api.DeleteCollection:
		if err := e.sync(ctx, s); err != nil {
			e.cfg.Log.Debug("refresh failed", "kind", r.Resource.Resource, "err", err)
		}
	case resp.Deleted || r.Verb == api.Delete && (resp.Result() == nil || resp.Result().GetDeletionTimestamp() == nil):
		e.check(ctx, s, r.Namespace, r.Name)
	default:
		if o := resp.Result(); o != nil && o.GetObjectKind().GroupVersionKind() == r.Resource.GVK() {
			e.notify(s, s.wrote(o))
		}
	}
}

// doubtful says whether a write that failed so may have happened all the same.
func doubtful(err error) bool {
	return apierrors.ReasonForError(err) == metav1.StatusReasonUnknown || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) ||
		apierrors.IsInternalError(err) || apierrors.IsUnexpectedServerError(err)
}

// check asks the server for the state of one object.
func (e *Engine) check(ctx context.Context, s *source, ns, name string) {
	known, ok := s.get(ns, name)
	if !ok {
		return
	}
	o, err := s.client().Get(ctx, e.server, ns, name)
	switch {
	case err == nil && o.GetUID() == known.GetUID():
		e.notify(s, s.wrote(o))
	case err == nil || apierrors.IsNotFound(err):
		e.notify(s, s.deleted(ns, name, known.GetUID()))
	}
}

// clear reads again what the task writes if a write of it may or may not have happened. It
// does so as long as no such reading has ended: another task's may be on its way for long.
func (e *Engine) clear(ctx context.Context, t *task) error {
	for _, r := range t.writes {
		s := e.find(r)
		if s == nil {
			continue
		}
		for doubts := s.doubts.Load(); s.sure.Load() < doubts; {
			before := s.sure.Load()
			if err := e.sync(ctx, s); err != nil {
				return fmt.Errorf("find out what became of a write: %w", err)
			}
			s.sure.CompareAndSwap(before, doubts)
		}
	}
	return nil
}
