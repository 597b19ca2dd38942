package lsm

import (
	"math"
)

// heads remembers the heads of the keys written or asked for last, so that a
// compare-and-swap seldom reads the disk. Only the committer uses it.
type heads struct{ young, old map[string]head }

const headsHalf = 16 << 10

// rotate makes room; it is called between groups, never within one, so that
// what a group has written is found by the rest of it.
func (h *heads) rotate() {
	if h.young == nil || len(h.young) >= headsHalf {
		h.old, h.young = h.young, map[string]head{}
	}
}

func (h *heads) set(key string, v head) { h.young[key] = v }

func (h *heads) get(key string) (head, bool) {
	v, ok := h.young[key]
	if !ok {
		if v, ok = h.old[key]; ok {
			h.young[key] = v
		}
	}
	return v, ok
}

// head returns the head of a key as the groups before and the present one, so
// far, leave it.
func (s *session) head(key string) (head, error) {
	if h, ok := s.heads.get(key); ok {
		return h, nil
	}
	v, ok, err := s.newestVersion(key, math.MaxInt64)
	if err != nil {
		return head{}, err
	}
	h := head{}
	if ok && !v.deleted {
		h = head{rev: v.Revision, created: v.Created, expires: v.expires, weight: v.weight}
	}
	s.heads.set(key, h)
	return h, nil
}
