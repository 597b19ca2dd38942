package apiserver

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/internal/api"
	"proa/internal/store"
)

func (s *Server) get(ctx context.Context, t *table, r *api.Request) (*api.Response, error) {
	if r.Past != nil {
		return s.past(ctx, t, r)
	}
	if rev, err := parseRevision(r.At.ResourceVersion); err != nil {
		return nil, err
	} else if rev > 0 {
		if err := s.fresh(ctx, rev); err != nil {
			return nil, err
		}
	}
	item := s.item(t, t.key(r.Namespace, r.Name))
	if item == nil {
		return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
	}
	return &api.Response{Item: item}, nil
}

func (s *Server) item(t *table, key string) *api.Item {
	s.mu.RLock()
	defer s.mu.RUnlock()
	item, _ := t.items.Get(key)
	return item
}

func parseRevision(rv string) (int64, error) {
	if rv == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(rv, 10, 63)
	if err != nil {
		bad := field.Invalid(field.NewPath("resourceVersion"), rv, err.Error())
		return 0, apierrors.NewBadRequest("invalid resource version: " + bad.Error())
	}
	return int64(n), nil
}

// checkOptions refuses options that contradict each other, and selectors of
// fields that the resource does not declare.
func checkOptions(res *api.Resource, r *api.Request) error {
	o := internalversion.ListOptions{
		Watch: r.Verb == api.Watch, ResourceVersion: r.At.ResourceVersion, ResourceVersionMatch: r.At.Match,
		Continue: r.At.Continue, SendInitialEvents: r.At.SendInitialEvents,
	}
	if errs := metavalidation.ValidateListOptions(&o, true); len(errs) > 0 {
		return apierrors.NewInvalid(listOptions, "", errs)
	}
	if r.Select.Fields == nil {
		return nil
	}
	for _, q := range r.Select.Fields.Requirements() {
		if bad := res.SupportsField(q.Field); bad != nil {
			return apierrors.NewBadRequest(bad.Error())
		}
	}
	return nil
}

// scope narrows a request to one namespace or name if its field selector does.
type scope struct {
	ns, name string // name is set only where it makes one key
	nothing  bool   // the namespaces contradict each other
}

func scopeOf(res *api.Resource, r *api.Request) scope {
	c := scope{ns: r.Namespace}
	sel := r.Select.Fields
	if sel == nil {
		sel = fields.Everything()
	}
	if ns, ok := sel.RequiresExactMatch("metadata.namespace"); ok && res.Scope == api.Namespaced {
		c.nothing = c.ns != "" && c.ns != ns
		c.ns = ns
	}
	if name, ok := sel.RequiresExactMatch("metadata.name"); ok && (c.ns != "" || res.Scope == api.Cluster) {
		c.name = name
	}
	return c
}

func (s *Server) list(ctx context.Context, t *table, r *api.Request) (*api.Response, error) {
	if err := checkOptions(t.terms(r), r); err != nil {
		return nil, err
	}
	at, from, err := s.listState(ctx, r)
	if err != nil {
		return nil, err
	}
	if at == 0 {
		return s.listNow(ctx, t, r, s.Snapshot(), from)
	}
	if snap := s.Snapshot(); snap.rev == at {
		return s.listNow(ctx, t, r, snap, from)
	}
	if snap := s.recent.at(at); snap != nil && at >= s.engine.Horizon() {
		return s.listNow(ctx, t, r, snap, from)
	}
	l, err := s.listThen(ctx, t, r, at, from)
	if errors.Is(err, store.ErrCompacted) {
		return nil, expired(r, from)
	}
	return l, err
}

// listState finds the revision that a list is to show (0: any that is new
// enough, which the state now is) and the key that it begins at.
func (s *Server) listState(ctx context.Context, r *api.Request) (at int64, from string, err error) {
	if r.At.Continue != "" {
		at, from, err := parseContinue(r.At.Continue)
		if err != nil {
			return 0, "", err
		}
		if r.At.ResourceVersion != "" && r.At.ResourceVersion != "0" {
			return 0, "", apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
		}
		return max(at, 0), from, nil // below zero: the rest of a list that has become inconsistent
	}
	rev, err := parseRevision(r.At.ResourceVersion)
	if err != nil || rev == 0 {
		return 0, "", err
	}
	if err := s.fresh(ctx, rev); err != nil {
		return 0, "", err
	}
	if r.At.Match == metav1.ResourceVersionMatchExact || r.At.Match == "" && r.At.Limit > 0 {
		return rev, "", nil
	}
	return 0, "", nil
}

// listNow answers from a snapshot.
func (s *Server) listNow(ctx context.Context, t *table, r *api.Request, snap *Snapshot, from string) (*api.Response, error) {
	c := scopeOf(t.res, r)
	p := s.page(ctx, t, r, snap.rev)
	v := snap.view(t)
	if err := p.prepare(ctx, s, t, v, c.ns); err != nil {
		return nil, err
	}
	switch {
	case c.nothing:
	case c.name != "":
		key := t.key(c.ns, c.name)
		if item, ok := v.items.Get(key); ok && key >= from {
			p.add(key, item)
		}
	default:
		field, value, ok := t.exact(v, r.Select)
		if ok && v.fields[field] == nil {
			if snap.rev == s.Revision() {
				s.index(t, field)
			}
			if now := s.Snapshot(); now.rev == snap.rev {
				snap = now
				v = snap.view(t)
			}
			ok = v.fields[field] != nil
		}
		if ok {
			v.scanField(field, value, c.ns, from, p.add)
		} else {
			v.scan(c.ns, from, p.add)
		}
	}
	p.end(func() int64 {
		n := int64(0)
		v.scan(c.ns, p.next, func(string, *api.Item) bool { n++; return true })
		return n
	})
	if p.more {
		s.recent.keep(snap)
	}
	return &api.Response{List: p.list}, p.err
}

// listThen answers from the engine, for a state that is no longer in memory.
func (s *Server) listThen(ctx context.Context, t *table, r *api.Request, at int64, from string) (*api.Response, error) {
	c := scopeOf(t.res, r)
	prefix := t.prefix
	if c.ns != "" && t.res.Scope == api.Namespaced {
		prefix += c.ns + "/"
	}
	records, rev, err := s.engine.Range(ctx, max(prefix, t.prefix+from), behind(prefix), at, 0)
	if err != nil {
		return nil, err
	}
	p := s.page(ctx, t, r, rev)
	rest := int64(0)
	for rec, err := range records {
		switch {
		case err != nil:
			return nil, err
		case p.more:
			rest++
		case c.nothing:
		default:
			key := rec.Key[len(t.prefix):]
			if item := s.item(t, key); item != nil && item.Revision == rec.Revision {
				p.add(key, item)
			} else {
				p.add(key, t.item(rec.Revision, rec.Value, nil))
			}
			if p.more {
				rest = 1
			}
		}
	}
	p.end(func() int64 { return rest })
	return &api.Response{List: p.list}, p.err
}

// A page collects what a list answers.
type page struct {
	r    *api.Request
	res  *api.Resource
	list *api.ItemList
	more bool
	last string // the key of the last item
	next string // the key that the next page begins at, if there is more

	see       func(*api.Item) (api.Object, error) // what selectors judge
	converted map[*api.Item]*api.Item             // those that took a webhook
	err       error
}

func (s *Server) page(ctx context.Context, t *table, r *api.Request, rev int64) *page {
	p := &page{r: r, res: t.terms(r), list: &api.ItemList{Revision: rev}}
	p.see = func(item *api.Item) (api.Object, error) {
		if v := p.converted[item]; v != nil {
			return v.Object(), nil
		}
		return s.seen(ctx, t, r, item)
	}
	return p
}

// prepare converts at once what selectors will have to look at, if that takes a webhook.
func (p *page) prepare(ctx context.Context, s *Server, t *table, v *view, ns string) error {
	if f := t.res.Family; f == nil || f.Plain || p.r.Select.Empty() {
		return nil
	}
	var items []*api.Item
	v.scan(ns, "", func(_ string, item *api.Item) bool { items = append(items, item); return true })
	converted, err := s.allInVersion(ctx, items, p.r.Resource)
	if err != nil {
		return err
	}
	p.converted = make(map[*api.Item]*api.Item, len(items))
	for i, item := range items {
		p.converted[item] = converted[i]
	}
	return nil
}

func (p *page) add(key string, item *api.Item) bool {
	if !p.r.Select.Empty() {
		o, err := p.see(item)
		if err != nil {
			p.err = err
			return false
		}
		if !p.r.Select.Matches(p.res, o) {
			return true
		}
	}
	if p.r.At.Limit > 0 && int64(len(p.list.Items)) == p.r.At.Limit {
		p.more, p.next = true, p.last+"\x00"
		return false
	}
	p.last = key
	p.list.Items = append(p.list.Items, item)
	return true
}

func (p *page) end(remaining func() int64) {
	if !p.more {
		return
	}
	p.list.Continue = formatContinue(p.list.Revision, p.next)
	if p.r.Select.Empty() {
		n := remaining()
		p.list.Remaining = &n
	}
}

// token is what a continue value holds.
type token struct {
	Version  string `json:"v"`
	Revision int64  `json:"rv"`
	Start    string `json:"start"`
}

const tokenVersion = "meta.k8s.io/v1"

func formatContinue(rev int64, start string) string {
	b, _ := json.Marshal(token{tokenVersion, rev, start}) // cannot fail
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseContinue(v string) (rev int64, start string, err error) {
	bad := func(why any) error {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid continue token: continue key is not valid: %v", why))
	}
	b, err := base64.RawURLEncoding.DecodeString(v)
	if err != nil {
		return 0, "", bad(err)
	}
	var t token
	if err := json.Unmarshal(b, &t); err != nil {
		return 0, "", bad(err)
	}
	switch {
	case t.Version != tokenVersion:
		return 0, "", bad("server does not recognize this encoded version " + t.Version)
	case t.Revision == 0:
		return 0, "", bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
	case t.Start == "":
		return 0, "", bad("encoded start key empty (version meta.k8s.io/v1)")
	case "/"+strings.TrimPrefix(t.Start, "/") != path.Clean("/"+strings.TrimPrefix(t.Start, "/")):
		return 0, "", bad(t.Start)
	}
	return t.Revision, strings.TrimPrefix(t.Start, "/"), nil
}

// expired is 410 Gone; after a continue value it carries another one, for those
// who would rather have the rest as it is now than nothing.
func expired(r *api.Request, from string) error {
	if r.At.Continue == "" {
		return apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
	}
	err := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. " +
		"You can start a new list without the continue parameter, or use the continue token in this response to retrieve " +
		"the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that " +
		"were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.")
	err.ErrStatus.Continue = formatContinue(-1, from)
	return err
}
