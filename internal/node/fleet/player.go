package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/node"
	"proa/internal/store"
)

// Annotation is where a Node object takes an order, such as "silence for 60s". It
// is taken off when it has been read.
const Annotation = "proa.dev/pretend"

// A Player has happen to machines what a script says, and what it is told to
// besides. [Player.Run] plays in time; who drives it step by step calls
// [Player.Step] when [Player.Next] says.
type Player struct {
	Clock  store.Clock // the machine's if nil
	Log    *slog.Logger
	Events node.Events // tells users what is played; nobody if nil

	machines []*Machine
	byName   map[string]*Machine
	bell     chan struct{}

	mu    sync.Mutex
	plan  *Plan
	began time.Time            // zero: nothing has been played yet
	going []spell              // what goes on, by when it ends
	uids  map[string]types.UID // of the Node objects, as far as they were seen
}

// A spell is the time for which something goes on.
type spell struct {
	m     *Machine
	word  *Word
	until time.Time // zero: until it is mended
}

// NewPlayer returns a player of a script for machines; the first is node 1.
func NewPlayer(machines []*Machine, s *Script) *Player {
	p := &Player{Clock: store.SystemClock{}, Log: slog.New(slog.DiscardHandler), machines: machines, byName: map[string]*Machine{},
		bell: make(chan struct{}, 1), plan: s.Plan(), uids: map[string]types.UID{}}
	for _, m := range machines {
		p.byName[m.Name()] = m
	}
	return p
}

// Next is when there is something to do, if there will be.
func (p *Player) Next() (at time.Time, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.began.IsZero() {
		return p.Clock.Now(), true
	}
	return p.next()
}

func (p *Player) next() (at time.Time, ok bool) {
	after, ok := p.plan.Next()
	at = p.began.Add(after)
	if len(p.going) > 0 {
		if end := p.going[0].until; !end.IsZero() && (!ok || end.Before(at)) {
			return end, true
		}
	}
	return at, ok
}

// Step does what is due. The script's time begins with the first call. The agents
// that it starts end with ctx at the latest.
func (p *Player) Step(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.Clock.Now()
	if p.began.IsZero() {
		p.began = now
	}
	var failed []error
	for ctx.Err() == nil {
		at, ok := p.next()
		if !ok || at.After(now) {
			break
		}
		if len(p.going) > 0 && p.going[0].until.Equal(at) {
			failed = append(failed, p.end(ctx, p.going[0].m, p.going[0].word))
			continue
		}
		e, _ := p.plan.Take()
		failed = append(failed, p.order(ctx, p.machines[e.Node-1], e.Order, at))
	}
	return errors.Join(failed...)
}

// Order has something happen to a node at once.
func (p *Player) Order(ctx context.Context, name string, o Order) error {
	m := p.byName[name]
	if m == nil {
		return fmt.Errorf("there is no pretend node %s", name)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case p.bell <- struct{}{}:
	default:
	}
	return p.order(ctx, m, o, p.Clock.Now())
}

// order carries out an order that was due at a time. What goes on already goes on
// until the later of both ends. The player is locked.
func (p *Player) order(ctx context.Context, m *Machine, o Order, at time.Time) error {
	i := slices.IndexFunc(p.going, func(s spell) bool { return s.m == m && s.word == o.Word })
	switch {
	case o.Word == Mend:
		return p.mend(ctx, m)
	case o.Word == Boot && slices.ContainsFunc(p.going, func(s spell) bool { return s.m == m && s.word == Failure }):
		return p.end(ctx, m, Failure)
	case !m.On() && o.Word == Failure && i < 0:
		return nil // it has not booted yet
	case o.Word != Boot:
		p.tell(m, corev1.EventTypeNormal, "Pretending", o.String())
	}
	if err := o.Word.begin(ctx, m, o); err != nil {
		return fmt.Errorf("node %s: %s: %w", m.Name(), o, err)
	}
	if o.Word.end == nil {
		return nil
	}
	if o.Word == Crash && o.For == 0 {
		if i >= 0 {
			return nil
		}
		return p.end(ctx, m, Crash)
	}
	s := spell{m: m, word: o.Word}
	if o.For > 0 {
		s.until = at.Add(o.For)
	}
	if i >= 0 {
		if old := p.going[i].until; old.IsZero() || !s.until.IsZero() && s.until.Before(old) {
			return nil
		}
		p.going = slices.Delete(p.going, i, i+1)
	}
	// Those that end come first, by their ends.
	first := slices.IndexFunc(p.going, func(x spell) bool {
		return !s.until.IsZero() && (x.until.IsZero() || s.until.Before(x.until))
	})
	if first < 0 {
		first = len(p.going)
	}
	p.going = slices.Insert(p.going, first, s)
	return nil
}

// end ends what goes on. The player is locked.
func (p *Player) end(ctx context.Context, m *Machine, w *Word) error {
	p.going = slices.DeleteFunc(p.going, func(s spell) bool { return s.m == m && s.word == w })
	p.tell(m, corev1.EventTypeNormal, "Pretended", w.Name)
	if err := w.end(ctx, m); err != nil {
		return fmt.Errorf("node %s: the end of %s: %w", m.Name(), w.Name, err)
	}
	return nil
}

// mend ends all that goes on with a node. The player is locked.
func (p *Player) mend(ctx context.Context, m *Machine) error {
	var failed []error
	for _, w := range Words {
		if slices.ContainsFunc(p.going, func(s spell) bool { return s.m == m && s.word == w }) {
			failed = append(failed, p.end(ctx, m, w))
		}
	}
	return errors.Join(failed...)
}

// tell tells users. The player is locked.
func (p *Player) tell(m *Machine, typ, reason, message string) {
	p.Log.Info(reason, "node", m.Name(), "what", message)
	if p.Events != nil {
		p.Events.About(&corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: m.Name(), UID: p.uids[m.Name()]}, typ, reason, message)
	}
}

// Run plays until ctx ends, and returns when all agents have ended.
func (p *Player) Run(ctx context.Context) error {
	defer func() {
		for _, m := range p.machines {
			m.StopAgent()
		}
	}()
	for ctx.Err() == nil {
		if err := p.Step(ctx); err != nil {
			return err
		}
		rung := make(chan struct{})
		stop := func() {}
		if at, ok := p.Next(); ok {
			stop = p.Clock.AfterFunc(max(at.Sub(p.Clock.Now()), 0), func() { close(rung) })
		}
		select {
		case <-ctx.Done():
		case <-p.bell:
		case <-rung:
		}
		stop()
	}
	return ctx.Err()
}

// Obey follows the Node objects, and carries out the orders in their annotations,
// until ctx ends. An order is taken off the object first, so that it is carried out
// once at the most.
func (p *Player) Obey(ctx context.Context, h api.Handler) {
	fail := func(err error) { p.Log.Warn("Nodes cannot be followed for orders", "err", err) }
	for c := range core.Node.Follow(ctx, h, "", api.Selectors{}, fail) {
		for _, n := range append(slices.Clip(c.All), c.Object) {
			if n != nil && c.Type != "DELETED" && p.byName[n.Name] != nil {
				p.obey(ctx, h, n)
			}
		}
	}
}

func (p *Player) obey(ctx context.Context, h api.Handler, n *corev1.Node) {
	p.mu.Lock()
	p.uids[n.Name] = n.UID
	p.mu.Unlock()
	text, ok := n.Annotations[Annotation]
	if !ok {
		return
	}
	// Only this very order is taken off: another may have come since.
	path := "/metadata/annotations/" + strings.ReplaceAll(Annotation, "/", "~1")
	patch, err := json.Marshal([]map[string]any{{"op": "test", "path": path, "value": text}, {"op": "remove", "path": path}})
	if err == nil {
		_, err = core.Node.Patch(ctx, h, "", n.Name, "", types.JSONPatchType, patch)
	}
	if err != nil {
		p.Log.Warn("A pretend node's order cannot be taken off", "node", n.Name, "order", text, "err", err)
		return
	}
	o, err := ParseOrder(text)
	if err == nil {
		err = p.Order(ctx, n.Name, o)
	}
	if err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.tell(p.byName[n.Name], corev1.EventTypeWarning, "NotPretended", fmt.Sprintf("%s %q: %v", Annotation, text, err))
	}
}
