package faulttest

import (
	"context"
	"errors"
	"fmt"

	"proa/internal/store"
)

// checkPast compares the history of an engine that keeps everything with the
// truth: each change that was acknowledged before the mark is there, as it was
// asked for, and the versions of a key follow each other. An engine without a
// history is well.
func (t *Truth) checkPast(ctx context.Context, e Engine, m Mark) error {
	h, ok := e.(store.Historian)
	if !ok {
		return nil
	}
	t.mu.Lock()
	want := map[string]map[store.Revision]store.Op{}
	for _, a := range t.acked[:m.acks] {
		op := t.sent[a.user]
		if want[op.Key] == nil {
			want[op.Key] = map[store.Revision]store.Op{}
		}
		want[op.Key][a.rev] = op
	}
	t.mu.Unlock()
	for key, changes := range want {
		seq, err := h.History(ctx, key)
		if errors.Is(err, store.ErrNoHistory) {
			return nil
		}
		if err != nil {
			return err
		}
		newer := store.Version{Record: store.Record{Revision: e.Revision() + 1}}
		for v, err := range seq {
			switch op, ok := changes[v.Revision]; {
			case err != nil:
				return fmt.Errorf("the history of %s: %w", key, err)
			case v.Key != key || v.Revision >= newer.Revision:
				return fmt.Errorf("the history of %s has %s at %d after %d", key, v.Key, v.Revision, newer.Revision)
			case newer.Prev != store.Absent && newer.Prev != v.Revision:
				return fmt.Errorf("the history of %s: %d follows %d, before it is %d", key, newer.Revision, newer.Prev, v.Revision)
			case newer.Key != "" && !v.Deleted && v.Until != newer.Revision:
				return fmt.Errorf("the history of %s: %d ended with %d, it says with %d", key, v.Revision, newer.Revision, v.Until)
			case ok && (op.Delete != v.Deleted || !op.Delete && string(op.Value) != string(v.Value)):
				return fmt.Errorf("the history of %s: %s is not what was written", key, show(v.Record))
			}
			delete(changes, v.Revision)
			newer = v
		}
		for rev := range changes {
			return fmt.Errorf("the history of %s lacks %d, with the horizon at %d", key, rev, e.Horizon())
		}
	}
	return nil
}
