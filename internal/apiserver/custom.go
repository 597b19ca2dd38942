package apiserver

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
	"proa/internal/apiserver/crd"
)

// Custom resources. Whatever becomes of a CustomResourceDefinition, the applier
// sees it in the order of revisions like every other change, and makes, changes
// or removes the table in the same step. A changed definition gets a new table
// with the old one's rows, so that requests under way end by the rules by which
// they began; watches end, and are begun anew by their clients.

var definitions = schema.GroupResource{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}

// customs are the tables of custom resources, and what is served altogether.
type customs struct {
	of      *table   // of the definitions; nil if they are not served
	tables  sync.Map // schema.GroupResource → *table
	webhook crd.Webhook
	own     map[string][]*api.Resource // built in, by group

	// The applier's own.
	byName map[string]*table            // by the definition's name
	groups map[string]map[string]*table // by group and the definition's name

	served atomic.Pointer[served]
}

// served is what a server serves at one moment.
type served struct {
	groups  []*api.Group    // by name
	tables  []*table        // of custom resources, by prefix
	stored  []*api.Resource // in the order of the tables, those that are built in first
	changed chan struct{}
}

func (c *customs) init(cfg Config, builtin []*table) {
	c.webhook = cfg.Webhook
	c.own, c.byName, c.groups = map[string][]*api.Resource{}, map[string]*table{}, map[string]map[string]*table{}
	for _, k := range cfg.Kinds {
		r := k.Def()
		c.own[r.Group] = append(c.own[r.Group], r)
	}
	now := &served{changed: make(chan struct{})}
	now.groups = api.Grouped(slices.Concat(slices.Collect(maps.Values(c.own))...))
	for _, t := range builtin {
		now.stored = append(now.stored, t.res)
	}
	c.served.Store(now)
}

func (c *customs) named(gr schema.GroupResource) *table {
	if t, ok := c.tables.Load(gr); ok {
		return t.(*table)
	}
	return nil
}

// Groups returns what is served now, by the groups' names: the same slice until
// something changes, and the same group until that changes.
func (s *Server) Groups() []*api.Group { return s.custom.served.Load().groups }

// Kinds returns the resources that the server stores now, each in the version
// that it is stored in, and a channel that is closed when that has changed.
func (s *Server) Kinds() ([]*api.Resource, <-chan struct{}) {
	now := s.custom.served.Load()
	return now.stored, now.changed
}

// all are the tables of a moment, those of custom resources at the end.
func (s *Server) all() []*table {
	return append(slices.Clip(s.tables), s.custom.served.Load().tables...)
}

// A redefinition is what a change of a definition makes of its table.
type redefinition struct {
	was, now *table // either may be nil
}

// table is the one that there is now, or else the one there was.
func (d redefinition) table() *table {
	if d.now != nil {
		return d.now
	}
	return d.was
}

// define finds out what a change of a definition makes of its table. It is
// called by the applier alone, before the change is made: what it returns is
// settled with [Server.redefine]. Events that follow find the table already.
func (s *Server) define(name string, item *api.Item, rev int64) (redefinition, bool) {
	c := &s.custom
	was := c.byName[name]
	if item == nil {
		if was == nil {
			return redefinition{}, false
		}
		delete(c.byName, name)
		delete(s.byPrefix, was.prefix)
		return redefinition{was: was}, true
	}
	var before *crd.Definition
	if was != nil {
		before = was.def
	}
	d, err := crd.Define(item, before, c.webhook)
	if err != nil {
		s.log.Error("a definition cannot be served", "name", name, "err", err)
		return redefinition{}, false
	}
	if d == before {
		return redefinition{}, false
	}
	gr := d.Family.Storage.GroupResource()
	if s.byName[gr] != nil {
		return redefinition{}, false // what is built in stays
	}
	now := newTable(d.Family.Storage, s.steps)
	now.def = d
	if was != nil {
		now.rows = was.rows
	} else {
		s.recover(now, rev)
	}
	c.byName[name] = now
	s.byPrefix[now.prefix] = now
	return redefinition{was, now}, true
}

// recover reads what the store holds of a resource that was not defined a moment
// ago: nothing, unless somebody has removed a definition without its objects.
func (s *Server) recover(t *table, rev int64) {
	records, _, err := s.engine.Range(context.Background(), t.prefix, behind(t.prefix), rev, 0)
	if err != nil {
		s.log.Error("what is left of a custom resource cannot be read", "resource", t.res.GroupResource(), "err", err)
		return
	}
	for r, err := range records {
		if err != nil {
			s.log.Error("what is left of a custom resource cannot be read", "resource", t.res.GroupResource(), "err", err)
			return
		}
		t.items.Load(r.Key[len(t.prefix):], t.item(r.Revision, r.Value, nil))
	}
}

// redefine makes the change. The caller holds the lock; rev is what it will show.
func (s *Server) redefine(d redefinition, rev int64) {
	c := &s.custom
	t := d.table()
	gr := t.res.GroupResource()
	switch {
	case d.now == nil:
		c.tables.Delete(gr)
		s.close(d.was.rows)
	case d.was == nil:
		s.open(d.now.rows)
		d.now.log.reset(rev)
		c.tables.Store(gr, d.now)
	default:
		d.now.renew(rev)
		s.soil(d.now.rows)
		c.tables.Store(gr, d.now)
	}
	t.era++
	t.topics.all(rev)
	c.publish(d, t.def.Group, s.tables)
}

// renew makes the rows' items anew, whose forms are those of another definition.
func (t *table) renew(rev int64) {
	fresh := newTable(t.res, nil)
	t.items.Scan(func(key string, item *api.Item) bool {
		body, err := item.Body()
		if err == nil {
			fresh.items.Load(key, t.item(item.Revision, body, nil))
		}
		return true
	})
	t.view = fresh.view
	t.log.reset(rev)
}

// publish makes what is served agree with a redefinition.
func (c *customs) publish(d redefinition, name string, builtin []*table) {
	members := c.groups[name]
	if members == nil {
		members = map[string]*table{}
		c.groups[name] = members
	}
	if d.now != nil {
		members[d.now.def.Name] = d.now
	} else {
		delete(members, d.was.def.Name)
	}
	list := slices.Clone(c.own[name])
	for _, t := range members {
		list = append(list, t.def.Family.Served...)
	}
	old := c.served.Load()
	now := &served{groups: replace(old.groups, name, list), tables: d.in(old.tables), changed: make(chan struct{})}
	now.stored = d.stored(old.stored, len(builtin))
	c.served.Store(now)
	close(old.changed)
}

// replace is the groups with one of them changed, or gone if it serves nothing.
func replace(groups []*api.Group, name string, list []*api.Resource) []*api.Group {
	i, found := slices.BinarySearchFunc(groups, name, func(g *api.Group, name string) int { return strings.Compare(g.Name, name) })
	return splice(groups, i, found, api.Grouped(list)...)
}

// splice is a copy of list with put at i, in the place of what is there if found.
func splice[T any](list []T, i int, found bool, put ...T) []T {
	rest := list[i:]
	if found {
		rest = rest[1:]
	}
	return slices.Concat(list[:i], put, rest)
}

// in is the tables after a redefinition.
func (d redefinition) in(tables []*table) []*table {
	i, found := slices.BinarySearchFunc(tables, d.table().prefix, func(h *table, prefix string) int { return strings.Compare(h.prefix, prefix) })
	if d.now == nil {
		return splice(tables, i, found)
	}
	return splice(tables, i, found, d.now)
}

// stored is what the tables hold after a redefinition; the first are built in. A
// definition whose names are not accepted holds nothing yet.
func (d redefinition) stored(list []*api.Resource, builtin int) []*api.Resource {
	i, found := slices.BinarySearchFunc(list[builtin:], d.table().prefix, func(r *api.Resource, prefix string) int {
		return strings.Compare(Prefix(r.GroupResource()), prefix)
	})
	if d.now == nil || len(d.now.res.Family.Served) == 0 {
		return splice(list, builtin+i, found)
	}
	return splice(list, builtin+i, found, d.now.res)
}

// adoptDefinitions takes over the definitions, and what their tables hold, that
// a server which has just read the whole state has found.
func (s *Server) adoptDefinitions(fresh *Server) {
	c := &s.custom
	for name, was := range c.byName {
		if fresh.custom.byName[name] == nil {
			delete(c.byName, name)
			delete(s.byPrefix, was.prefix)
			s.redefine(redefinition{was: was}, fresh.rev)
		}
	}
	for name, found := range fresh.custom.byName {
		was, now := c.byName[name], newTable(found.res, s.steps)
		now.def = found.def
		if was != nil {
			now.rows = was.rows
		}
		now.view = found.view
		c.byName[name], s.byPrefix[now.prefix] = now, now
		s.redefine(redefinition{was, now}, fresh.rev)
	}
}
