package apiserver

import (
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/tidwall/btree"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"

	"proa/internal/api"
	"proa/internal/apiserver/admit"
	"proa/internal/apiserver/crd"
)

// A table is the present state of one resource. Server.mu guards it.
type table struct {
	res    *api.Resource
	views  []*api.Resource // what else its objects are served as
	prefix string          // of its keys in the store
	steps  []*admit.Step
	watch  []func(old, new api.Object) // steps that follow the state

	def      *crd.Definition // of a custom resource
	managers sync.Map        // of a custom resource: field managers by ownerKey

	*rows
}

// rows are what a table holds. When the definition of a custom resource changes
// they become another table's.
type rows struct {
	slot   int    // in the leaves of a snapshot
	view          // changed by the applier only
	dirty  bool   // changed since it was last copied for a snapshot
	era    int    // how often the definition has changed
	gone   bool   // the definition was removed
	log    events // what happened lately
	topics topics
}

// A view is the part of a table that a snapshot copies.
type view struct {
	items  *btree.Map[string, *api.Item] // by "namespace/name", or name
	fields map[string]*btree.Set[string] // "value\x00key" by field, or label; built when first asked for
}

func newTable(r *api.Resource, steps []*admit.Step) *table {
	t := &table{res: r, prefix: Prefix(r.GroupResource()), rows: &rows{}}
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

// behind is the first key behind all that begin with a prefix, which ends in a slash.
func behind(prefix string) string { return prefix[:len(prefix)-1] + "0" }

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

// item is one state of an object, in the version that it is stored in.
func (t *table) item(rev int64, body []byte, obj api.Object) *api.Item {
	res := t.res
	if res.Family != nil && body != nil {
		res = res.Family.StoredAs(body)
	}
	return api.NewItem(res, rev, body, obj)
}

// set changes the table and returns what was there.
func (t *table) set(key string, item *api.Item) (old *api.Item) {
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

// copy is the state of the rows for good.
func (r *rows) copy() view {
	v := view{items: r.items.Copy(), fields: make(map[string]*btree.Set[string], len(r.fields))}
	for name, ix := range r.fields {
		v.fields[name] = ix.Copy()
	}
	return v
}

// breathe is how many objects are decoded in a row before others get the
// processor: at a start with many, requests would else wait for all of them.
const breathe = 32

// index makes the index of a field, or of a label, if there is none yet. It reads a snapshot
// without holding the lock, and then catches up.
func (s *Server) index(t *table, field string) {
	for range 3 {
		snap := s.Snapshot()
		v := snap.view(t)
		if v.fields[field] != nil {
			return
		}
		ix := new(btree.Set[string])
		n := 0
		v.items.Scan(func(key string, item *api.Item) bool {
			if n++; n%breathe == 0 {
				runtime.Gosched()
			}
			if value, in := t.value(field, item.Peek()); in {
				ix.Insert(value + "\x00" + key)
			}
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
	t.fields[field] = ix
	s.soil(t.rows)
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

// exact returns the index by which a selector is answered best, and its value
// there; false if there is none.
func (t *table) exact(v *view, sel api.Selectors) (index, value string, ok bool) {
	if f := t.res.Family; f != nil && !f.Plain {
		return "", "", false // another version's fields and labels may be others
	}
	if index, value, ok = exactField(t.res, sel); ok {
		return index, value, ok
	}
	return v.exactLabel(sel)
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
