package memory

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/btree"

	"proa/internal/store"
	"proa/internal/store/past"
)

// overhead is what an entry of the history counts besides its key, user and value.
const overhead = 64

// A history is what has fallen below the horizon and is kept.
type history struct {
	store.Keeping
	keys  map[string]*kept
	order btree.Map[store.Revision, string] // keys by the change that ended a version
	bytes int64
}

type kept struct {
	entries  []past.Entry                     // ascending
	versions map[store.Revision]store.Version // by the entries' revisions
}

// move takes over the versions of a key that a compaction leaves out. They are
// ascending; next is the one that followed the last of them.
func (h *history) move(key string, gone []version, next store.Revision) {
	if !h.Keeps(key) {
		return
	}
	for i, v := range gone {
		until := next
		if v.deleted {
			until = v.Revision
		} else if i+1 < len(gone) {
			until = gone[i+1].Revision
		}
		h.keep(v.past(until))
	}
}

// keep takes over one version, unless it is there or not to be kept.
func (h *history) keep(v store.Version) {
	if v.Weight == store.Passing || !h.Keeps(v.Key) {
		return
	}
	k := h.keys[v.Key]
	if k == nil {
		k = &kept{versions: map[store.Revision]store.Version{}}
	}
	v.Expires = time.Time{}
	x := past.Index{Entries: k.entries}
	size := int64(overhead + len(v.Key) + len(v.User) + len(v.Value))
	if !x.Insert(past.Entry{Revision: v.Revision, Until: v.Until, Size: size, Light: v.Weight == store.Light}) {
		return
	}
	k.versions[v.Revision] = v
	h.order.Set(v.Until, v.Key)
	h.bytes += size
	var out []past.Entry
	k.entries, out = past.Trim(x.Entries, &h.Keeping)
	h.drop(v.Key, k, out)
}

// drop lets go of versions that are no longer among the entries of k.
func (h *history) drop(key string, k *kept, gone []past.Entry) {
	for _, e := range gone {
		delete(k.versions, e.Revision)
		h.bytes -= e.Size
		if !slices.ContainsFunc(k.entries, func(o past.Entry) bool { return o.Until == e.Until }) {
			h.order.Delete(e.Until)
		}
	}
	if len(k.entries) == 0 {
		delete(h.keys, key)
	} else {
		h.keys[key] = k
	}
}

// fit drops what ended first until the rest is no larger than it may be.
func (h *history) fit() {
	for h.bytes > h.Bytes {
		until, key, ok := h.order.Min()
		if !ok {
			return
		}
		k := h.keys[key]
		var gone []past.Entry
		k.entries = slices.DeleteFunc(k.entries, func(e past.Entry) bool {
			if e.Until == until {
				gone = append(gone, e)
			}
			return e.Until == until
		})
		h.drop(key, k, gone)
	}
}

// past is the version as history shows it.
func (v *version) past(until store.Revision) store.Version {
	p := store.Version{Record: v.Record, Deleted: v.deleted, Weight: v.weight, Prev: v.prev, Until: until}
	if v.was != 0 {
		p.Was, p.Prev = v.was, v.before
	}
	if v.deleted {
		p.Value, p.Codec = nil, 0
	}
	return p
}

// History is store.Historian's.
func (e *Engine) History(ctx context.Context, key string) (iter.Seq2[store.Version, error], error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closed {
		return nil, store.ErrClosed
	}
	if !e.past.Keeps(key) {
		return nil, store.ErrNoHistory
	}
	var out []store.Version
	vs, _ := e.keys.Get(key)
	until := store.Revision(0)
	for i := range slices.Backward(vs) {
		if vs[i].deleted {
			until = vs[i].Revision
		}
		out = append(out, vs[i].past(until))
		until = vs[i].Revision
	}
	if k := e.past.keys[key]; k != nil {
		for _, en := range slices.Backward(k.entries) {
			out = append(out, k.versions[en.Revision])
		}
	}
	return func(yield func(store.Version, error) bool) {
		for _, v := range out {
			if !yield(v, nil) {
				return
			}
		}
	}, nil
}

// Past is store.Historian's.
func (e *Engine) Past(ctx context.Context, at store.Revision) (iter.Seq2[store.Version, error], error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	switch {
	case e.closed:
		return nil, store.ErrClosed
	case e.past.Keep == nil:
		return nil, store.ErrNoHistory
	}
	keys := slices.Collect(maps.Keys(e.past.keys))
	e.keys.Scan(func(key string, _ []version) bool {
		keys = append(keys, key)
		return true
	})
	slices.Sort(keys)
	keys = slices.Compact(keys)
	return func(yield func(store.Version, error) bool) {
		w := past.View{Keeping: &e.past.Keeping, At: at}
		for _, key := range keys {
			versions, err := e.History(ctx, key)
			if errors.Is(err, store.ErrNoHistory) {
				continue
			}
			if err != nil {
				yield(store.Version{}, err)
				return
			}
			for v := range versions {
				if w.Take(&v) && !yield(v, nil) {
					return
				}
			}
		}
	}, nil
}

// Adopt is store.Historian's.
func (e *Engine) Adopt(_ context.Context, versions []store.Version) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return store.ErrClosed
	}
	for _, v := range past.Ascending(versions) {
		e.past.keep(v)
	}
	e.past.fit()
	return nil
}

// Forget is store.Historian's.
func (e *Engine) Forget(_ context.Context, prefix string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return store.ErrClosed
	}
	for key, k := range e.past.keys {
		if strings.HasPrefix(key, prefix) {
			gone := k.entries
			k.entries = nil
			e.past.drop(key, k, gone)
		}
	}
	return nil
}
