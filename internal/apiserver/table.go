package apiserver

import (
	"slices"
	"strings"

	"github.com/tidwall/btree"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"

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
	fields map[string]*btree.Set[string] // "value\x00key" by field, or label; built when first asked for
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
		t.reindex(ix, name, key, old, item)
	}
	return old
}

// labelled begins the name under which the index of a label is kept. No field's
// name has a space.
const labelled = "label "

// value is what an index has of an object; an index of a label leaves out those
// without it.
func (t *table) value(index string, o api.Object) (value string, in bool) {
	if label, ok := strings.CutPrefix(index, labelled); ok {
		value = o.GetLabels()[label]
		return value, value != ""
	}
	return t.res.Fields[index](o), true
}

func (t *table) reindex(ix *btree.Set[string], index, key string, old, item *api.Item) {
	var was, is string
	var wasIn, isIn bool
	if old != nil {
		was, wasIn = t.value(index, old.Object())
	}
	if item != nil {
		is, isIn = t.value(index, item.Object())
	}
	if wasIn && isIn && was == is {
		return
	}
	if wasIn {
		ix.Delete(was + "\x00" + key)
	}
	if isIn {
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

// index makes the index of a field, or of a label, if there is none yet. It reads a snapshot
// without holding the lock, and then catches up.
func (s *Server) index(t *table, field string) {
	for range 3 {
		snap := s.Snapshot()
		v := snap.views[t.slot]
		if v.fields[field] != nil {
			return
		}
		ix := new(btree.Set[string])
		v.items.Scan(func(key string, item *api.Item) bool {
			t.reindex(ix, field, key, nil, item)
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
		t.reindex(ix, field, e.key, e.prev, now)
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

// Indexes of labels are made for whatever labels clients select by, in tables
// where that saves something, and not without end.
const (
	maxLabelIndexes   = 8
	minLabelIndexSize = 100 // objects
)

// exactLabel returns the index of a label that a selector compares with one
// value, if the view has it or may have it.
func (v *view) exactLabel(sel api.Selectors) (index, value string, ok bool) {
	if sel.Labels == nil || sel.Labels.Empty() || v.items.Len() < minLabelIndexSize {
		return "", "", false
	}
	have := 0
	for name := range v.fields {
		if strings.HasPrefix(name, labelled) {
			have++
		}
	}
	all, _ := sel.Labels.Requirements() // a selector of nothing has none
	for _, r := range all {
		one := r.Operator() == selection.Equals || r.Operator() == selection.DoubleEquals || r.Operator() == selection.In
		values := r.ValuesUnsorted()
		if !one || len(values) != 1 {
			continue
		}
		value := values[0]
		if index := labelled + r.Key(); value != "" && (v.fields[index] != nil || have < maxLabelIndexes) {
			return index, value, true
		}
	}
	return "", "", false
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
