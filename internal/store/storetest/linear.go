package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"proa/internal/store"
)

// input and output of one operation on one key.
type input struct {
	kind   byte // 'g'et, 'p'ut, 'd'elete
	key    string
	expect store.Revision
}

type output struct {
	rev      store.Revision // got or written; of the current record if conflict
	conflict bool
}

// state of one key: the revision of its record, and the highest it had.
type state struct{ rev, high store.Revision }

var model = porcupine.Model{
	Partition: func(ops []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, o := range ops {
			k := o.Input.(input).key
			byKey[k] = append(byKey[k], o)
		}
		var parts [][]porcupine.Operation
		for _, p := range byKey {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() any { return state{} },
	Step: func(st, in, out any) (bool, any) { return step(st.(state), in.(input), out.(output)) },
	Equal: func(a, b any) bool {
		return a == b
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v → %+v", in, out) },
}

func step(s state, in input, out output) (bool, state) {
	if in.kind == 'g' {
		return out.rev == s.rev, s
	}
	fits := (in.expect == store.Any || in.expect == s.rev) && (in.kind == 'p' || s.rev != store.Absent)
	switch {
	case out.conflict:
		return !fits && out.rev == s.rev, s
	case !fits || out.rev <= s.high:
		return false, s
	case in.kind == 'd':
		return true, state{store.Absent, out.rev}
	}
	return true, state{out.rev, out.rev}
}

// A Log holds the operations of concurrent clients, for a check of
// linearizability.
type Log struct {
	mu    sync.Mutex
	ops   []porcupine.Operation
	doubt []doubtful
	sent  int
	start time.Time
}

// A doubtful write is one whose client was not told what became of it.
type doubtful struct {
	op   porcupine.Operation
	user string
}

// Client does n random operations on a few keys and logs those that were
// answered. It stops at the first error that is no conflict and returns it. A
// write that failed so may have been made: Resolve must say before Check.
func (l *Log) Client(ctx context.Context, e store.Engine, id int, r *rand.Rand, n int) error {
	l.mu.Lock()
	if l.start.IsZero() {
		l.start = time.Now()
	}
	l.mu.Unlock()
	known := map[string]store.Revision{}
	for range n {
		in := input{kind: "ggpppdr"[r.IntN(7)], key: fmt.Sprint("k", r.IntN(4))}
		switch r.IntN(5) {
		case 0:
			in.expect = store.Any
		case 1:
			if in.kind != 'd' {
				in.expect = store.Absent
				break
			}
			fallthrough
		default:
			in.expect = known[in.key]
			if in.kind == 'd' && in.expect == store.Absent {
				in.expect = store.Any
			}
		}
		if err := l.do(ctx, e, id, in, known); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) do(ctx context.Context, e store.Engine, id int, in input, known map[string]store.Revision) error {
	call := time.Since(l.start).Nanoseconds()
	switch in.kind {
	case 'g':
		r, _, err := e.Get(ctx, in.key)
		if err != nil {
			return err
		}
		out := output{}
		if r != nil {
			out.rev = r.Revision
		}
		known[in.key] = out.rev
		l.add(id, call, in, out)
	case 'r':
		return l.list(ctx, e, id, call)
	default:
		user := l.user(id)
		rev, err := e.Write(ctx, store.Op{Key: in.key, Value: []byte("v"), Delete: in.kind == 'd', Expect: in.expect, User: user})
		out := output{rev: rev}
		if c := conflict(err); c != nil {
			out = output{conflict: true}
			if c.Current != nil {
				out.rev = c.Current.Revision
			}
		} else if err != nil {
			l.mu.Lock()
			l.doubt = append(l.doubt, doubtful{porcupine.Operation{ClientId: id, Call: call, Input: in}, user})
			l.mu.Unlock()
			return err
		}
		known[in.key] = out.rev
		if in.kind == 'd' && !out.conflict {
			known[in.key] = store.Absent
		}
		l.add(id, call, in, out)
	}
	return nil
}

// list logs a range as a get of each key.
func (l *Log) list(ctx context.Context, e store.Engine, id int, call int64) error {
	seq, _, err := e.Range(ctx, "k", "l", 0, 0)
	if err != nil {
		return err
	}
	got := map[string]store.Revision{"k0": 0, "k1": 0, "k2": 0, "k3": 0}
	for r, err := range seq {
		if err != nil {
			return err
		}
		got[r.Key] = r.Revision
	}
	for k, rev := range got {
		l.add(id, call, input{kind: 'g', key: k}, output{rev: rev})
	}
	return nil
}

func (l *Log) add(id int, call int64, in input, out output) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ops = append(l.ops, porcupine.Operation{ClientId: id, Call: call, Return: time.Since(l.start).Nanoseconds(), Input: in, Output: out})
}

func (l *Log) user(id int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	return fmt.Sprintf("%d.%d", id, l.sent)
}

// Len is the number of operations that were answered.
func (l *Log) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.ops)
}

// Resolve settles the writes that got no answer, once no more can become of
// them: made are the changes of the engine, by user. Those that were not made
// are forgotten.
func (l *Log) Resolve(made map[string]store.Revision) {
	l.mu.Lock()
	doubt := l.doubt
	l.doubt = nil
	l.mu.Unlock()
	for _, d := range doubt {
		if rev := made[d.user]; rev > 0 {
			l.add(d.op.ClientId, d.op.Call, d.op.Input.(input), output{rev: rev})
		}
	}
}

// Check says whether the log is linearizable.
func (l *Log) Check() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch porcupine.CheckOperationsTimeout(model, l.ops, 20*time.Second) {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("the check of %d operations takes too long", len(l.ops))
	}
	return fmt.Errorf("%d operations are not linearizable", len(l.ops))
}

func linearizable(s *suite) {
	seed := s.rand()
	var log Log
	var wg sync.WaitGroup
	for id := range 8 {
		r := rand.New(rand.NewPCG(seed.Uint64(), seed.Uint64()))
		wg.Go(func() {
			if err := log.Client(context.Background(), s.Engine, id, r, 60); err != nil {
				s.Errorf("client %d: %v", id, err)
			}
		})
	}
	wg.Wait()
	if err := log.Check(); err != nil {
		s.Fatal(err)
	}
}
