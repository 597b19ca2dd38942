package apiserver

import (
	"slices"
	"strings"

	"github.com/tidwall/btree"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
	"proa/internal/apiserver/admit"
)

// A table is the present state of one resource. Server.mu guards it.
type table struct {
	res    *api.Resource
	views  []*api.Resource // what else its objects are served as
	slot   int             // in Server.tables and Snapshot.views
	prefix string          // of its keys in the store
	steps  []*admit.Step
	watch  []func(old, new api.Object) // steps that follow the state

	view          // changed by the applier only
	dirty  bool   // changed since it was last copied for a snapshot
	log    events // what happened lately
	topics topics
}

// A view is the part of a table that a snapshot copies.
type view struct {
	items  *btree.Map[string, *api.Item] // by "namespace/name", or name
	fields map[string]*btree.Set[string] // "value\x00key" by field; built when first asked for
}

func newTable(r *api.Resource, steps []*admit.Step) *table {
	t := &table{res: r, prefix: Prefix(r.GroupResource()), dirty: true}
	t.items = btree.NewMap[string, *api.Item](0)
	t.fields = map[string]*btree.Set[string]{}
	for _, st := range steps {
		if st.Concerns(r) {
			t.steps = append(t.steps, st)
		}
		if f := st.Follow[r.GroupResource()]; f != nil {
			t.watch = append(t.watch, f)
		}
	}
	return t
}

// Prefix is what the store keys of a resource's objects begin with; the
// namespace, if it has them, and the name follow.
func Prefix(gr schema.GroupResource) string {
	group := gr.Group
	if group == "" {
		group = "core"
	}
	return "/" + group + "/" + gr.Resource + "/"
}

// locate finds the table of a store key.
func (s *Server) locate(key string) (*table, string) {
	n := 0
	for i := 1; i < len(key); i++ {
		if key[i] == '/' {
			if n++; n == 2 {
				return s.byPrefix[key[:i+1]], key[i+1:]
			}
		}
	}
	return nil, ""
}

func (t *table) key(ns, name string) string {
	if t.res.Scope == api.Namespaced {
		return ns + "/" + name
	}
	return name
}

// set changes the table and returns what was there.
func (t *table) set(key string, item *api.Item) (old *api.Item) {
	t.dirty = true
	if item == nil {
		old, _ = t.items.Delete(key)
	} else {
		old, _ = t.items.Set(key, item)
	}
	for name, ix := range t.fields {
		reindex(ix, t.res.Fields[name], key, old, item)
	}
	return old
}

func reindex(ix *btree.Set[string], field func(api.Object) string, key string, old, item *api.Item) {
	var was, is string
	if old != nil {
		was = field(old.Object())
	}
	if item != nil {
		is = field(item.Object())
	}
	if old != nil && item != nil && was == is {
		return
	}
	if old != nil {
		ix.Delete(was + "\x00" + key)
	}
	if item != nil {
		ix.Insert(is + "\x00" + key)
	}
}

// copy is the state of the table for good.
func (t *table) copy() view {
	v := view{items: t.items.Copy(), fields: make(map[string]*btree.Set[string], len(t.fields))}
	for name, ix := range t.fields {
		v.fields[name] = ix.Copy()
	}
	return v
}

// index makes the index of a field if there is none yet. It reads a snapshot
// without holding the lock, and then catches up.
func (s *Server) index(t *table, field string) {
	for range 3 {
		snap := s.Snapshot()
		v := snap.views[t.slot]
		if v.fields[field] != nil {
			return
		}
		ix, get := new(btree.Set[string]), t.res.Fields[field]
		v.items.Scan(func(key string, item *api.Item) bool {
			ix.Insert(get(item.Object()) + "\x00" + key)
			return true
		})
		if s.adopt(t, field, ix, snap.rev) {
			return
		}
	}
}

func (s *Server) adopt(t *table, field string, ix *btree.Set[string], rev int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.fields[field] != nil {
		return true
	}
	missed, ok := t.log.after(rev)
	if !ok {
		return false
	}
	for _, e := range missed {
		now := e.item
		if e.gone {
			now = nil
		}
		reindex(ix, t.res.Fields[field], e.key, e.prev, now)
	}
	t.fields[field], t.dirty = ix, true
	s.snap.Store(nil)
	return true
}

// scan yields the items from key from on that lie in the namespace, in key order.
func (v *view) scan(ns, from string, yield func(string, *api.Item) bool) {
	prefix := ""
	if ns != "" {
		prefix = ns + "/"
	}
	v.items.Ascend(max(prefix, from), func(key string, item *api.Item) bool {
		return strings.HasPrefix(key, prefix) && yield(key, item)
	})
}

// scanField yields the items whose field has a value. The view has the index.
func (v *view) scanField(field, value, ns, from string, yield func(string, *api.Item) bool) {
	head := value + "\x00"
	prefix := head
	if ns != "" {
		prefix += ns + "/"
	}
	v.fields[field].Ascend(max(prefix, head+from), func(k string) bool {
		if !strings.HasPrefix(k, prefix) {
			return false
		}
		key := k[len(head):]
		item, ok := v.items.Get(key)
		return !ok || yield(key, item)
	})
}

// exactField returns a declared field that a selector compares with one value.
func exactField(r *api.Resource, sel api.Selectors) (field, value string, ok bool) {
	if sel.Fields == nil || sel.Fields.Empty() {
		return "", "", false
	}
	var names []string
	for name := range r.Fields {
		if _, found := sel.Fields.RequiresExactMatch(name); found {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "", "", false
	}
	slices.Sort(names)
	value, _ = sel.Fields.RequiresExactMatch(names[0])
	return names[0], value, true
}
