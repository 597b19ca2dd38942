package api

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/kinds/core"
	"proa/internal/store"
)

// A knowledge is the log of the objects that are watched, decoded.
type knowledge struct {
	changes []fact
	end     int64 // the revision of the last change of anything
}

// A fact is one change of one object.
type fact struct {
	rev      int64
	key      string
	was, now *corev1.Event // nil: not there
}

const watchedPrefix = "/core/events/"

func newKnowledge(t *testing.T, log []store.Event) *knowledge {
	k := &knowledge{end: int64(len(log))}
	have := map[string]*corev1.Event{}
	for i := range log {
		key, ok := strings.CutPrefix(log[i].Key, watchedPrefix)
		if !ok {
			continue
		}
		f := fact{rev: log[i].Revision, key: key, was: have[key]}
		if !log[i].Deleted {
			o, err := core.Event.Def().Codec.Decode(log[i].Value)
			if err != nil {
				t.Fatalf("revision %d: %v", f.rev, err)
			}
			f.now = o.(*corev1.Event)
		}
		have[key] = f.now
		k.changes = append(k.changes, f)
	}
	return k
}

// A tale is what a watcher must be told: all changes that concern it.
type tale []seen

func (k *knowledge) tale(x *watcher) (out tale) {
	for _, f := range k.changes {
		was, is := f.was != nil && x.selects(f.was), f.now != nil && x.selects(f.now)
		e := seen{rev: f.rev, key: f.key}
		switch {
		case was && is:
			e.typ, e.message = "MODIFIED", f.now.Message
		case is:
			e.typ, e.message = "ADDED", f.now.Message
		case was:
			e.typ, e.message = "DELETED", f.was.Message // the state that was selected, with the new revision
		default:
			continue
		}
		out = append(out, e)
	}
	return out
}

// after is the position of the first event above a revision.
func (t tale) after(rev int64) int {
	n, _ := slices.BinarySearchFunc(t, rev+1, func(e seen, rev int64) int { return cmp.Compare(e.rev, rev) })
	return n
}

// state is what a list at a revision must hold, in the order of keys.
func (t tale) state(rev int64) []seen {
	now := map[string]seen{}
	for _, e := range t[:t.after(rev)] {
		if now[e.key] = (seen{"ADDED", e.rev, e.key, e.message}); e.typ == "DELETED" {
			delete(now, e.key)
		}
	}
	out := make([]seen, 0, len(now))
	for _, s := range now {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b seen) int { return strings.Compare(a.key, b.key) })
	return out
}

// judge compares all that a watcher saw with what it had to.
func (x *watcher) judge(t *testing.T, id int, k *knowledge) {
	tale := k.tale(x)
	for n, s := range x.stories {
		if err := s.judge(tale); err != nil {
			t.Errorf("watcher %d (%v), story %d: %v", id, x, n, err)
			return
		}
	}
}

func (s *story) judge(t tale) error {
	if s.from != unseen {
		if s.isListed && !slices.Equal(s.listed, t.state(s.from)) {
			return fmt.Errorf("the list at revision %d is %v; the state is %v", s.from, s.listed, t.state(s.from))
		}
		return s.follows(t, s.from, s.seen)
	}
	var first error
	for at := s.low; at <= s.high; at++ {
		if at > s.low && t.after(at) == t.after(at-1) {
			continue
		}
		state := t.state(at)
		n := min(len(state), len(s.seen))
		err := error(nil)
		if !slices.Equal(state[:n], s.seen[:n]) {
			err = fmt.Errorf("it begins with %v; the state at revision %d is %v", s.seen[:n], at, state)
		} else if err = s.follows(t, at, s.seen[n:]); err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		first = fmt.Errorf("it began between %d and %d", s.low, s.high)
	}
	return first
}

// follows checks that events are those after a revision, as far as they go, and
// that no bookmark promises more than was shown.
func (s *story) follows(t tale, from int64, events []seen) error {
	rest := t[t.after(from):]
	for n, e := range events {
		if n >= len(rest) {
			return fmt.Errorf("%+v is one event too many", e)
		}
		if rest[n] != e {
			return fmt.Errorf("event %d after revision %d is %+v, but should be %+v", n, from, e, rest[n])
		}
	}
	if s.complete && len(events) < len(rest) {
		return fmt.Errorf("%d events are missing, the first of them %+v", len(rest)-len(events), rest[len(events)])
	}
	skipped := len(s.seen) - len(events)
	for _, b := range s.bookmarks {
		n := b.after - skipped
		if n < 0 {
			return fmt.Errorf("a bookmark of revision %d came before the initial state had ended", b.rev)
		}
		if n < len(rest) && rest[n].rev <= b.rev {
			return fmt.Errorf("a bookmark says revision %d, but %+v had not been shown", b.rev, rest[n])
		}
		if n > 0 && events[n-1].rev > b.rev {
			return fmt.Errorf("a bookmark says revision %d after an event of %d", b.rev, events[n-1].rev)
		}
	}
	return nil
}

// The judge must see what is wrong.
func TestJudge(t *testing.T) {
	object := func(rev int64, typ, message string) *corev1.Event {
		e := &corev1.Event{Type: typ, Message: message}
		e.Namespace, e.Name = "default", "a"
		return e
	}
	k := &knowledge{}
	var was *corev1.Event
	for rev, typ := range []string{"", "Normal", "Warning", "Warning", "Normal", "Warning", ""} {
		if rev == 0 {
			continue
		}
		f := fact{rev: int64(rev), key: "default/a", was: was}
		if typ != "" {
			f.now = object(int64(rev), typ, fmt.Sprint(rev))
		}
		was = f.now
		k.changes = append(k.changes, f)
	}
	tale := k.tale(&watcher{fields: "type=Warning"})
	at := func(typ string, rev int64, message string) seen { return seen{typ, rev, "default/a", message} }
	good := []seen{at("ADDED", 2, "2"), at("MODIFIED", 3, "3"), at("DELETED", 4, "3"), at("ADDED", 5, "5"), at("DELETED", 6, "5")}
	for name, c := range map[string]struct {
		story
		ok bool
	}{
		"all":                       {story{seen: good, complete: true}, true},
		"not all yet":               {story{seen: good[:2]}, true},
		"an end missing":            {story{seen: good[:4], complete: true}, false},
		"one lost":                  {story{seen: slices.Delete(slices.Clone(good), 1, 2)}, false},
		"one twice":                 {story{seen: slices.Insert(slices.Clone(good), 1, good[0])}, false},
		"reordered":                 {story{seen: []seen{good[1], good[0]}}, false},
		"left with the new body":    {story{seen: []seen{good[0], good[1], at("DELETED", 4, "4")}}, false},
		"left with the old version": {story{seen: []seen{good[0], good[1], at("DELETED", 3, "3")}}, false},
		"a bookmark":                {story{seen: good, bookmarks: []bookmark{{2, 3}, {5, 9}}}, true},
		"a bookmark ahead":          {story{seen: good, bookmarks: []bookmark{{2, 4}}}, false},
		"a bookmark behind":         {story{seen: good, bookmarks: []bookmark{{2, 2}}}, false},
		"a list":                    {story{from: 3, isListed: true, listed: []seen{at("ADDED", 3, "3")}, seen: good[2:], complete: true}, true},
		"a list of an older state":  {story{from: 3, isListed: true, listed: []seen{at("ADDED", 2, "2")}, seen: good[2:]}, false},
		"from nothing":              {story{from: unseen, low: 1, high: 4, seen: []seen{at("ADDED", 3, "3"), good[2]}}, true},
		"from nothing, with a gap":  {story{from: unseen, low: 1, high: 3, seen: []seen{at("ADDED", 3, "3"), good[3]}}, false},
	} {
		if err := c.judge(tale); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
