package faulttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"proa/internal/store"
)

// An Engine is what is tested here.
type Engine interface {
	store.Engine
	store.Advancer
	store.Reopener

	// Check reads all that is stored and returns what is damaged or contradicts itself.
	Check(ctx context.Context) error
}

// An Opener opens the engine whose data is on a disk.
type Opener func(d *Disk, clock store.Clock) (Engine, error)

// A Truth is what the clients of one engine asked for and what they were told.
// Every op carries a user of its own, so that each change can be told apart.
type Truth struct {
	mu       sync.Mutex
	sent     map[string]store.Op // by user
	refused  map[string]bool     // users whose op was answered with a conflict
	revision map[string]store.Revision
	acked    []ack
	advance  store.Revision // the highest that was acknowledged
	horizon  store.Revision // the highest that was asked for, by Compact or Advance
}

type ack struct {
	rev  store.Revision
	user string
}

// A Mark is a moment: what was acknowledged before it.
type Mark struct {
	acks    int
	advance store.Revision
}

// NewTruth is that of an empty engine.
func NewTruth() *Truth {
	return &Truth{sent: map[string]store.Op{}, refused: map[string]bool{}, revision: map[string]store.Revision{}}
}

// Mark is the present moment.
func (t *Truth) Mark() Mark {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Mark{len(t.acked), t.advance}
}

// Write makes one write, whose op.User must be new, and remembers both.
func (t *Truth) Write(ctx context.Context, e store.Engine, op store.Op) (store.Revision, error) {
	t.mu.Lock()
	t.sent[op.User] = op
	t.mu.Unlock()
	rev, err := e.Write(ctx, op)
	t.mu.Lock()
	defer t.mu.Unlock()
	switch lost := (*store.ConflictError)(nil); {
	case err == nil:
		t.acked = append(t.acked, ack{rev, op.User})
		t.revision[op.User] = rev
	case errors.As(err, &lost):
		t.refused[op.User] = true
	}
	return rev, err
}

// Compact and Advance are the engine's.
func (t *Truth) Compact(ctx context.Context, e store.Engine, rev store.Revision) error {
	t.ask(rev)
	return e.Compact(ctx, rev)
}

func (t *Truth) ask(rev store.Revision) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.horizon = max(t.horizon, rev)
}

// Advance jumps.
func (t *Truth) Advance(ctx context.Context, e Engine, to store.Revision) error {
	t.ask(to)
	if err := e.Advance(ctx, to); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance = max(t.advance, to)
	return nil
}

// A state is the records of an engine at a revision.
type state map[string]store.Record

func rangeAt(ctx context.Context, e store.Engine, at store.Revision) (state, error) {
	if at == 0 { // which asks for the newest; there is nothing at 0
		return state{}, nil
	}
	seq, rev, err := e.Range(ctx, "", "", at, 0)
	if err != nil {
		return nil, fmt.Errorf("range at %d: %w", at, err)
	}
	if rev != at {
		return nil, fmt.Errorf("a range at %d says that it shows %d", at, rev)
	}
	out, last := state{}, ""
	for r, err := range seq {
		if err != nil {
			return nil, fmt.Errorf("range at %d: %w", at, err)
		}
		if r.Key <= last || r.Revision > at {
			return nil, fmt.Errorf("a range at %d has %s at %d after %s", at, r.Key, r.Revision, last)
		}
		last, out[r.Key] = r.Key, r
	}
	return out, nil
}

func (s state) differs(from state) error {
	for k, r := range s {
		if w, ok := from[k]; !ok {
			return fmt.Errorf("%s is there at %d, should not be", k, r.Revision)
		} else if !same(r, w) {
			return fmt.Errorf("%s is %s, should be %s", k, show(r), show(w))
		}
	}
	for k, w := range from {
		if _, ok := s[k]; !ok {
			return fmt.Errorf("%s is gone, should be %s", k, show(w))
		}
	}
	return nil
}

func same(a, b store.Record) bool {
	return a.Key == b.Key && a.Revision == b.Revision && a.Created == b.Created && a.User == b.User && a.Codec == b.Codec &&
		a.Time.Equal(b.Time) && string(a.Value) == string(b.Value)
}

func show(r store.Record) string {
	return fmt.Sprintf("%s at %d (made at %d, codec %d, %v, %d bytes) by %s", r.Key, r.Revision, r.Created, r.Codec, r.Time, len(r.Value), r.User)
}

// events collects what a watch delivers after a revision up to another.
func events(ctx context.Context, e store.Engine, prefix string, after, until store.Revision) ([]store.Event, error) {
	if after == until {
		return nil, nil
	}
	seq, err := e.Watch(ctx, prefix, after)
	if err != nil {
		return nil, fmt.Errorf("watch %q after %d: %w", prefix, after, err)
	}
	var out []store.Event
	last := after
	for b, err := range seq {
		if err != nil {
			return nil, fmt.Errorf("watch %q after %d, at %d: %w", prefix, after, last, err)
		}
		for _, ev := range b.Events {
			if ev.Revision <= last || ev.Revision > b.Revision || !strings.HasPrefix(ev.Key, prefix) {
				return nil, fmt.Errorf("watch %q after %d: event %d of %s in a batch up to %d comes after %d", prefix, after, ev.Revision, ev.Key, b.Revision, last)
			}
			last = ev.Revision
		}
		if b.Revision < last {
			return nil, fmt.Errorf("watch %q after %d: a batch up to %d comes after %d", prefix, after, b.Revision, last)
		}
		out, last = append(out, b.Events...), b.Revision
		if last >= until {
			return out, nil
		}
	}
	return nil, fmt.Errorf("the watch %q after %d ended at %d, before %d: %w", prefix, after, last, until, ctx.Err())
}

// checkTime bounds one check; it is for a check that hangs.
const checkTime = 60 * time.Second

// Check compares an engine with the truth: everything acknowledged before the
// mark is there under its revision, nothing is there that was refused or never
// asked for, log and states agree at every revision that is looked at, a watch
// resumes anywhere, and a history that keeps everything does. A *store.CorruptError is passed on, wrapped.
func (t *Truth) Check(ctx context.Context, e Engine, m Mark, r *rand.Rand) error {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	newest, horizon := e.Revision(), e.Horizon()
	if err := t.bounds(newest, horizon, m); err != nil {
		return err
	}
	base, err := rangeAt(ctx, e, horizon)
	if err != nil {
		return err
	}
	if err := t.checkBase(base, horizon, m); err != nil {
		return err
	}
	log, err := events(ctx, e, "", horizon, newest)
	if err != nil {
		return err
	}
	if int64(len(log)) != newest-horizon {
		return fmt.Errorf("the log has %d changes between %d and %d", len(log), horizon, newest)
	}
	now, middle := maps.Clone(base), horizon
	var then state
	if newest > horizon {
		middle += r.Int64N(newest - horizon)
	}
	for i := range log {
		if log[i].Revision-1 == middle {
			then = maps.Clone(now)
		}
		if err := t.replay(now, &log[i]); err != nil {
			return err
		}
	}
	if err := t.checkReads(ctx, e, now, then, middle, r); err != nil {
		return err
	}
	if err := checkResume(ctx, e, log, r); err != nil {
		return err
	}
	if err := t.checkPast(ctx, e, m); err != nil {
		return err
	}
	return e.Check(ctx)
}

func (t *Truth) bounds(newest, horizon store.Revision, m Mark) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.acked[:m.acks] {
		if a.rev > newest {
			return fmt.Errorf("revision %d was acknowledged to %s, the newest is %d", a.rev, a.user, newest)
		}
	}
	switch {
	case m.advance > newest || m.advance > horizon:
		return fmt.Errorf("the jump to %d was acknowledged, the newest is %d, the horizon %d", m.advance, newest, horizon)
	case horizon > newest || horizon > t.horizon:
		return fmt.Errorf("the horizon is %d, asked for was %d at most, the newest is %d", horizon, t.horizon, newest)
	}
	return nil
}

// checkBase compares the oldest state that can be read with what was
// acknowledged up to it.
func (t *Truth) checkBase(base state, horizon store.Revision, m Mark) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := map[string]ack{}
	for _, a := range t.acked[:m.acks] {
		if key := t.sent[a.user].Key; a.rev <= horizon && a.rev > last[key].rev {
			last[key] = a
		}
	}
	for key, a := range last {
		op := t.sent[a.user]
		switch r, ok := base[key]; {
		case ok && (r.Revision < a.rev || op.Delete && r.Revision == a.rev):
			return fmt.Errorf("%s is %s at the horizon %d; %s changed it at %d", key, show(r), horizon, a.user, a.rev)
		case !ok && !op.Delete && op.TTL == 0 && !t.mayBeDeleted(key, a.rev, horizon):
			return fmt.Errorf("%s is gone at the horizon %d; %s wrote it at %d", key, horizon, a.user, a.rev)
		}
	}
	for key, r := range base {
		op, ok := t.sent[r.User]
		if !ok || t.refused[r.User] || op.Delete || op.Key != key || op.Codec != r.Codec || string(op.Value) != string(r.Value) {
			return fmt.Errorf("nobody wrote %s", show(r))
		}
		if rev, ok := t.revision[r.User]; ok && rev != r.Revision {
			return fmt.Errorf("%s was acknowledged at %d", show(r), rev)
		}
	}
	return nil
}

// mayBeDeleted says whether a deletion of key, or a write that ends by itself, was
// asked for that was made between two revisions, or of which nobody knows what
// became. (What is acknowledged after a mark may have been made before it.)
func (t *Truth) mayBeDeleted(key string, after, upTo store.Revision) bool {
	for user, op := range t.sent {
		if op.Key == key && (op.Delete || op.TTL > 0) && !t.refused[user] {
			if rev := t.revision[user]; rev == 0 || rev > after && rev <= upTo {
				return true
			}
		}
	}
	return false
}

// replay makes one change to a state, if it is one that was asked for.
func (t *Truth) replay(now state, ev *store.Event) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	bad := func(format string, args ...any) error {
		return fmt.Errorf("the change %s (deleted: %v): %s", show(ev.Record), ev.Deleted, fmt.Sprintf(format, args...))
	}
	old, there := now[ev.Key]
	if ev.Prev != old.Revision {
		return bad("follows %d, should follow %d", ev.Prev, old.Revision)
	}
	if want := old.Created; there && ev.Created != want || !there && ev.Created != ev.Revision {
		return bad("the key was made at %d", want)
	}
	if ev.Deleted {
		if !there || string(ev.Value) != string(old.Value) || ev.Codec != old.Codec {
			return bad("the last state is %s", show(old))
		}
	}
	if ev.User == store.Expired {
		op := t.sent[old.User]
		if !ev.Deleted || op.TTL == 0 || ev.Time.Before(old.Time.Add(op.TTL)) {
			return bad("it was not to expire: it was written at %v for %v", old.Time, op.TTL)
		}
		delete(now, ev.Key)
		return nil
	}
	op, ok := t.sent[ev.User]
	switch {
	case !ok:
		return bad("nobody asked for it")
	case t.refused[ev.User]:
		return bad("it was answered with a conflict")
	case op.Key != ev.Key || op.Delete != ev.Deleted || !op.Delete && (op.Codec != ev.Codec || string(op.Value) != string(ev.Value)):
		return bad("asked for was %s, %d bytes, deleted: %v", op.Key, len(op.Value), op.Delete)
	case op.Expect != store.Any && op.Expect != ev.Prev:
		return bad("it expected %d and replaced %d", op.Expect, ev.Prev)
	}
	if rev, ok := t.revision[ev.User]; ok && rev != ev.Revision {
		return bad("it was acknowledged as %d", rev)
	}
	if ev.Deleted {
		delete(now, ev.Key)
	} else {
		now[ev.Key] = ev.Record
	}
	return nil
}

// checkReads compares ranges and gets with the states that the log makes.
func (t *Truth) checkReads(ctx context.Context, e Engine, now, then state, middle store.Revision, r *rand.Rand) error {
	newest := e.Revision()
	got, err := rangeAt(ctx, e, newest)
	if err == nil {
		err = got.differs(now)
	}
	if err == nil && then != nil {
		if got, err = rangeAt(ctx, e, middle); err == nil {
			err = got.differs(then)
		}
	}
	if err != nil {
		return fmt.Errorf("the state at %d or %d: %w", middle, newest, err)
	}
	for key, want := range now {
		if r.IntN(3) > 0 {
			continue
		}
		rec, at, err := e.Get(ctx, key)
		if err != nil {
			return fmt.Errorf("get %s: %w", key, err)
		}
		if rec == nil || at != newest || !same(*rec, want) {
			return fmt.Errorf("get of %s at %d gives %+v, should be %s", key, at, rec, show(want))
		}
	}
	if _, _, err := e.Range(ctx, "", "", newest+1, 0); !errors.Is(err, store.ErrFuture) {
		return fmt.Errorf("a range at %d, above the newest: %v", newest+1, err)
	}
	if h := e.Horizon(); h > 1 {
		if _, _, err := e.Range(ctx, "", "", h-1, 0); !errors.Is(err, store.ErrCompacted) {
			return fmt.Errorf("a range at %d, below the horizon: %v", h-1, err)
		}
		if _, err := e.Watch(ctx, "", h-1); !errors.Is(err, store.ErrCompacted) {
			return fmt.Errorf("a watch after %d, below the horizon: %v", h-1, err)
		}
	}
	return nil
}

// checkResume watches from somewhere in the log.
func checkResume(ctx context.Context, e Engine, log []store.Event, r *rand.Rand) error {
	if len(log) == 0 {
		return nil
	}
	i := r.IntN(len(log))
	prefix := log[r.IntN(len(log))].Key[:1+r.IntN(2)]
	got, err := events(ctx, e, prefix, log[i].Revision, log[len(log)-1].Revision)
	if err != nil {
		return err
	}
	for _, ev := range log[i+1:] {
		if !strings.HasPrefix(ev.Key, prefix) {
			continue
		}
		if len(got) == 0 || got[0].Revision != ev.Revision || got[0].Deleted != ev.Deleted || !same(got[0].Record, ev.Record) {
			return fmt.Errorf("a watch of %q after %d has not the change %d", prefix, log[i].Revision, ev.Revision)
		}
		got = got[1:]
	}
	if len(got) > 0 {
		return fmt.Errorf("a watch of %q after %d has the change %d too often", prefix, log[i].Revision, got[0].Revision)
	}
	return nil
}
