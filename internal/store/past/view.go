package past

import "proa/internal/store"

// A View makes of what History yields what store.Historian's Past is to yield.
type View struct {
	Keeping *store.Keeping
	At      store.Revision // 0: now

	key         string
	full, light int
}

// Take says whether a version is to be yielded, and makes it the present one if
// it was that. It is asked about the versions of one key after the other, newest first.
func (w *View) Take(v *store.Version) bool {
	if v.Key != w.key {
		w.key, w.full, w.light = v.Key, 0, 0
	}
	switch {
	case w.At != 0 && v.Revision > w.At:
		return false
	case w.At != 0 && v.Until > w.At:
		v.Until = 0
	}
	switch {
	case v.Until == 0:
		return true
	case v.Weight == store.Passing || w.full > w.Keeping.Full:
		return false
	case v.Weight == store.Light:
		w.light++
		return w.light <= w.Keeping.Light
	}
	w.full++
	return w.full <= w.Keeping.Full
}
