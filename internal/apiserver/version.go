package apiserver

import (
	"context"
	"iter"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
)

// A request for a custom resource is answered in the version that it names, from
// objects that may be stored in another. They are converted before anything
// else is done with them; where a webhook does that, many at a time.

func (s *Server) isCustom(res *api.Resource) bool {
	return res.Family != nil || s.byPtr[res] == nil && s.byName[res.GroupResource()] == nil && s.custom.named(res.GroupResource()) != nil
}

// current is the resource of the same name as it is defined now.
func (s *Server) current(res *api.Resource) *api.Resource {
	if res.Hub != nil || s.byPtr[res] != nil {
		return res
	}
	t := s.custom.named(res.GroupResource())
	if t == nil {
		return res
	}
	if res.Version == "" {
		return t.res
	}
	if now := t.res.Family.In(res.Version); now != nil {
		return now
	}
	return res
}

// customResource answers a request for a custom resource. One that names no
// version means the one for storage.
func (s *Server) customResource(ctx context.Context, r *api.Request) (*api.Response, error) {
	t := s.custom.named(r.Resource.GroupResource())
	if t == nil {
		return nil, unserved(r)
	}
	q := *r
	q.Resource = s.current(r.Resource)
	f := t.res.Family
	if q.Resource.Family != f || r.Resource.Version != "" && !f.Serves(q.Resource) {
		return nil, unserved(r)
	}
	var resp *api.Response
	var err error
	switch {
	case q.Sub != "":
		resp, err = s.sub(ctx, &q)
	case !q.Resource.Can(q.Verb):
		return nil, apierrors.NewMethodNotSupported(q.Resource.GroupResource(), string(q.Verb))
	default:
		resp, err = s.answer(ctx, &q)
	}
	if err != nil {
		return nil, err
	}
	return resp, s.present(ctx, q.Resource, resp)
}

func unserved(r *api.Request) error {
	return apierrors.NewGenericServerResponse(404, string(r.Verb), schema.GroupResource{}, "", "the server could not find the requested resource", 0, true)
}

// present puts an answer into the version that was asked for.
func (s *Server) present(ctx context.Context, res *api.Resource, resp *api.Response) (err error) {
	if resp.Item != nil {
		if resp.Item, err = s.inVersion(ctx, resp.Item, res); err != nil {
			return err
		}
	}
	if l := resp.List; l != nil {
		if l.Items, err = s.allInVersion(ctx, l.Items, res); err != nil {
			return err
		}
	}
	if resp.Events != nil {
		resp.Events = s.eventsInVersion(ctx, res, resp.Events)
	}
	return nil
}

// inVersion is an item in another version, converted.
func (s *Server) inVersion(ctx context.Context, item *api.Item, res *api.Resource) (*api.Item, error) {
	if res.Family == nil || item.Resource == res {
		return item, nil
	}
	out, err := s.allInVersion(ctx, []*api.Item{item}, res)
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

func (s *Server) allInVersion(ctx context.Context, items []*api.Item, res *api.Resource) ([]*api.Item, error) {
	out := make([]*api.Item, len(items))
	var objs []api.Object
	var at []int
	for i, item := range items {
		out[i] = item.In(res)
		if !out[i].Converted() {
			at, objs = append(at, i), append(objs, item.Object())
		}
	}
	if len(at) == 0 {
		return out, nil
	}
	objs, err := s.convert(ctx, objs, res)
	if err != nil {
		return nil, err
	}
	for n, i := range at {
		out[i].Adopt(objs[n])
	}
	return out, nil
}

// conversionTimeout is how long a webhook may take.
const conversionTimeout = 30 * time.Second

func (s *Server) convert(ctx context.Context, objs []api.Object, res *api.Resource) ([]api.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, conversionTimeout)
	defer cancel()
	return res.Family.Convert(ctx, objs, res)
}

func (s *Server) eventsInVersion(ctx context.Context, res *api.Resource, events iter.Seq2[api.Event, error]) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		for e, err := range events {
			if e.Item != nil {
				if e.Item, err = s.inVersion(ctx, e.Item, res); err != nil {
					yield(api.Event{}, apierrors.NewInternalError(err))
					return
				}
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// terms is the resource by whose names a request selects.
func (t *table) terms(r *api.Request) *api.Resource {
	if t.res.Family != nil {
		return r.Resource
	}
	return t.res
}

// seen is the object that a selector judges. That of a custom resource is in the
// version asked for, which may take a conversion.
func (s *Server) seen(ctx context.Context, t *table, r *api.Request, item *api.Item) (api.Object, error) {
	if t.res.Family == nil || t.res.Family.Plain {
		return item.Object(), nil
	}
	v, err := s.inVersion(ctx, item, r.Resource)
	if err != nil {
		return nil, err
	}
	return v.Object(), nil
}
