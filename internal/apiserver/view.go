package apiserver

import (
	"context"
	"iter"

	"k8s.io/apimachinery/pkg/fields"

	"proa/internal/api"
)

// A request for a view (see api.View) is answered by the table of its hub. What
// comes in is converted to the hub where it is decoded, and what goes out is
// converted here, once for all readers: see api.Item.In.

// through answers a request for a view.
func (s *Server) through(ctx context.Context, r *api.Request) (*api.Response, error) {
	q := *r
	if r.Verb == api.List || r.Verb == api.Watch || r.Verb == api.DeleteCollection {
		if err := checkOptions(r.Resource, r); err != nil {
			return nil, err
		}
		var err error
		if q.Select.Fields, err = hubFields(r.Resource.Hub, r.Select.Fields); err != nil {
			return nil, err
		}
	}
	resp, err := s.answer(ctx, &q)
	if err != nil {
		return nil, err
	}
	inView(r.Resource, resp)
	return resp, nil
}

// hubFields is a selector of a view's fields with the hub's names for them.
func hubFields(h *api.Hub, sel fields.Selector) (fields.Selector, error) {
	if sel == nil {
		return nil, nil
	}
	return sel.Transform(func(field, value string) (string, string, error) {
		if as, ok := h.Fields[field]; ok {
			field = as
		}
		return field, value, nil
	})
}

// inView makes an answer about the hub's objects one about the view's.
func inView(res *api.Resource, resp *api.Response) {
	if resp.Item != nil {
		resp.Item = resp.Item.In(res)
	}
	if l := resp.List; l != nil {
		for i, item := range l.Items {
			l.Items[i] = item.In(res)
		}
	}
	if resp.Events != nil {
		resp.Events = eventsInView(res, resp.Events)
	}
}

func eventsInView(res *api.Resource, events iter.Seq2[api.Event, error]) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		for e, err := range events {
			if e.Item != nil {
				e.Item = e.Item.In(res)
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// sent returns the object that a request carries as the kind that is stored,
// private to the request.
func (t *table) sent(r *api.Request) (api.Object, []string, error) {
	res := t.asked(r)
	obj, warnings, err := body(r, res.New, res.GVK())
	if err == nil && res.Hub != nil {
		obj = res.Hub.To(obj)
	}
	return obj, warnings, err
}

// asked is the resource that a request is about: the table's, or a view of it.
func (t *table) asked(r *api.Request) *api.Resource {
	if r.Resource.Hub != nil && r.Resource.Hub.Resource == t.res || t.res.Family != nil {
		return r.Resource
	}
	return t.res
}

// versions are the table's resource and the views of it.
func (t *table) versions() []*api.Resource {
	if t.res.Family != nil {
		return t.res.Family.Versions
	}
	return append([]*api.Resource{t.res}, t.views...)
}
