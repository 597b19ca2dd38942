package simulate

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/api/record"
	"proa/internal/apiserver"
	"proa/internal/apiserver/admit"
	"proa/internal/control"
	"proa/internal/controllers"
	"proa/internal/kinds"
	"proa/internal/kinds/coordination"
	"proa/internal/kinds/core"
	"proa/internal/node"
	"proa/internal/node/cri/pretend"
	"proa/internal/node/steps"
	"proa/internal/sched"
	"proa/internal/sched/plugins"
	"proa/internal/store"
	"proa/internal/store/memory"
)

// A world is a cluster that is played, and the driver that plays it.
type world struct {
	t    *testing.T
	rand *rand.Rand // of all that chance decides but what has a source of its own
	gate turnstile
	log  *slog.Logger

	engine  store.Engine
	server  *apiserver.Server // nil while the control plane is away
	plane   []*actor          // controllers, scheduler
	nodes   []*machine
	agenda  agenda
	mood    mood
	rules   *rules
	users   *users
	uids    uint64
	changes int // writes, but for those that go on all the time

	began time.Time
	sum   hash.Hash64 // of every turn and every write
	trace *bufio.Writer
	stats stats

	violations []string // of rules; the first ends the world
	plant      plant

	crash  func(a *actor, r *api.Request) bool // is asked after each write of an actor whether it ends there
	doomed *actor
}

// mood is how bad things are.
type mood struct {
	refuse, lose, sever, fail float64       // chances of requests, answers, watches, calls of runtimes
	slow                      float64       // of being late
	late                      time.Duration // at the most
}

type stats struct {
	turns, requests, writes int
	refused, lost, severed  int
	faults                  map[string]int
}

// An actor is one incarnation of a part of the cluster.
type actor struct {
	w       *world
	name    string
	user    api.User
	ctx     context.Context
	cancel  func()
	done    chan struct{}
	dead    bool // guarded by the turnstile
	machine *machine
}

// A plant is what is wrong on purpose, for a test that the rules notice.
type plant struct {
	sched func(*sched.Config)    // changes the scheduler
	steps func(name string) bool // the admission steps that run; nil: all
	act   func(w *world)         // what users do besides
}

// newWorld starts a cluster without nodes.
func newWorld(t *testing.T, seed uint64, p plant) *world {
	w := &world{t: t, plant: p, rand: rand.New(rand.NewPCG(seed, 1)), engine: memory.New(nil), sum: fnv.New64a(), began: time.Now(),
		log: slog.New(slog.DiscardHandler), stats: stats{faults: map[string]int{}}}
	w.gate.bell = make(chan struct{}, 1)
	w.rules, w.users = newRules(w), newUsers(w)
	if os.Getenv("PROA_TEST_LOG") != "" {
		w.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if name := os.Getenv("TRACE"); name != "" {
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		w.trace = bufio.NewWriter(f)
		t.Cleanup(func() { w.trace.Flush(); f.Close() })
	}
	w.up()
	return w
}

// up starts the control plane.
func (w *world) up() {
	w.t.Helper()
	steps := admit.All(admit.Settings{Chance: w.rand.Int64N})
	if w.plant.steps != nil {
		steps = slices.DeleteFunc(steps, func(s *admit.Step) bool { return !w.plant.steps(s.Name) })
	}
	s, err := apiserver.New(w.t.Context(), apiserver.Config{
		Engine: w.engine, Kinds: kinds.All, Log: w.log, InTurn: true, Admit: steps,
		UID: w.uid, Suffix: w.suffix,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.server = s
	if err := s.EnsureDefaults(w.t.Context(), apiserver.Defaults{ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16")}); err != nil {
		w.t.Fatal(err)
	}
	w.plane = []*actor{w.startControllers(), w.startScheduler()}
}

// down ends the control plane, as kill -9 does.
func (w *world) down() {
	for _, a := range w.plane {
		a.kill()
	}
	w.plane = nil
	s := w.server
	w.server = nil
	s.Close()
	synctest.Wait()
}

func (w *world) uid() types.UID {
	w.uids++
	return types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012x", w.uids))
}

func (w *world) suffix(n int) string {
	const letters = "bcdfghjklmnpqrstvwxz2456789"
	out := make([]byte, n)
	for i := range out {
		out[i] = letters[w.rand.IntN(len(letters))]
	}
	return string(out)
}

// start runs a part of the cluster.
func (w *world) start(name string, user api.User, m *machine, run func(a *actor)) *actor {
	a := &actor{w: w, name: name, user: user, machine: m, done: make(chan struct{})}
	a.ctx, a.cancel = context.WithCancel(w.t.Context())
	go func() {
		defer close(a.done)
		run(a)
	}()
	return a
}

// kill ends a part at once: nothing that it had not sent is sent any more.
func (a *actor) kill() {
	a.w.gate.leave(a)
	<-a.done
}

func (w *world) startControllers() *actor {
	user := api.User{Name: api.UserControllers, Groups: []string{api.GroupAuthenticated}}
	kinds := w.server.Kinds
	return w.start("controllers", user, nil, func(a *actor) {
		events, wait := a.events("controllers", "")
		defer wait()
		all := controllers.All(controllers.Config{Kinds: kinds, RootCA: "CA", PodCIDR: "10.42.0.0/16"})
		_ = control.Run(a.ctx, a, all, control.Config{Log: w.log, Events: events, Turn: func(ctx context.Context, name string, key control.Key) {
			what := name + " " + key.Namespace + "/" + key.Name
			if key.Kind != nil {
				what += " " + key.Kind.Resource
			}
			w.gate.hold(ctx, a, work, what, false)
		}})
	})
}

func (w *world) startScheduler() *actor {
	user := api.User{Name: api.UserScheduler, Groups: []string{api.GroupAuthenticated}}
	cfg := sched.Config{Plugins: plugins.All, Log: w.log, Seed: w.rand.Uint64()}
	if w.plant.sched != nil {
		w.plant.sched(&cfg)
	}
	w.rules.rough = time.Now()
	return w.start("scheduler", user, nil, func(a *actor) {
		events, wait := a.events("default-scheduler", "")
		defer wait()
		cfg.Events, cfg.Go = events, a.work
		_ = sched.Run(a.ctx, a, cfg)
	})
}

// events starts a recorder; wait waits for its end.
func (a *actor) events(component, host string) (*record.Recorder, func()) {
	r := record.New(core.Event, a, component, host, nil, a.w.log)
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(a.ctx) })
	return r, wg.Wait
}

// work runs a piece of work when its turn has come.
func (a *actor) work(what string, f func()) {
	if !a.w.gate.add(&turn{who: a, kind: work, key: what, work: f}) {
		go f() // it will find that it is over
	}
}

// Handle passes a request on when its turn has come.
func (a *actor) Handle(ctx context.Context, r *api.Request) (*api.Response, error) {
	w := a.w
	o := w.gate.hold(ctx, a, request, requestKey(r), r.Verb.Writes())
	switch o {
	case ended:
		return nil, context.Canceled
	case refused:
		return nil, apierrors.NewServiceUnavailable("made up")
	}
	q := *r
	q.User = a.user
	q.At.Bookmarks = false // their times are the server's own chance
	resp, err := w.answer(ctx, a, &q)
	if w.doomed == a || o == lost {
		return nil, errMadeUp
	}
	if err != nil || resp.Events == nil {
		return resp, err
	}
	late := *resp
	late.Events = a.late(ctx, requestKey(r), resp.Events)
	return &late, nil
}

// answer is what the server does, and what is to be seen of it.
func (w *world) answer(ctx context.Context, a *actor, r *api.Request) (*api.Response, error) {
	s := w.server
	if s == nil {
		return nil, errors.New("connection refused (made up)")
	}
	w.stats.requests++
	before := w.rules.before(a, r)
	resp, err := s.Handle(ctx, r)
	if w.trace != nil && err != nil && ctx.Err() == nil {
		fmt.Fprintf(w.trace, "  %s: %v\n", requestKey(r), err)
	}
	if !r.Verb.Writes() || r.Options.DryRun {
		return resp, err
	}
	if err == nil {
		w.stats.writes++
		w.note(resp)
		if !usual(r) {
			w.changes++
		}
		w.rules.after(a, r, before)
	}
	if a != nil && w.crash != nil && w.doomed == nil && err == nil && w.crash(a, r) {
		w.doomed = a
	}
	return resp, err
}

// usual says whether a write is one of those that never end.
func usual(r *api.Request) bool {
	return r.Resource == coordination.Lease.Def() || r.Resource == core.Event.Def() || r.Resource == core.Node.Def() && r.Sub == "status"
}

// note takes a write into the sum.
func (w *world) note(resp *api.Response) {
	if resp.Item == nil {
		return
	}
	var rev [8]byte
	binary.LittleEndian.PutUint64(rev[:], uint64(resp.Item.Revision))
	w.sum.Write(rev[:])
	if b, err := resp.Item.Body(); err == nil {
		w.sum.Write(b)
	}
}

func requestKey(r *api.Request) string {
	key := string(r.Verb) + " " + r.Resource.Resource + " " + r.Namespace + "/" + r.Name
	if r.Sub != "" {
		key += " " + r.Sub
	}
	if r.Select.Fields != nil {
		key += " " + r.Select.Fields.String()
	}
	if r.Name == "" && r.Object != nil { // of those made at once each has its own content
		h := fnv.New64a()
		if b, err := r.Resource.Codec.Encode(r.Object); err == nil {
			h.Write(b)
		}
		key += fmt.Sprintf("%s %016x", r.Object.GetGenerateName(), h.Sum64())
	}
	return key
}

// late lets the events of a watch come when it is their turn.
func (a *actor) late(ctx context.Context, key string, events iter.Seq2[api.Event, error]) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		for e, err := range events {
			if err != nil {
				yield(e, err)
				return
			}
			switch a.w.gate.hold(ctx, a, event, key+" "+strconv.FormatInt(e.Revision, 10), false) {
			case goes:
				if !yield(e, nil) {
					return
				}
			case ended:
				return
			default:
				yield(api.Event{}, errMadeUp)
				return
			}
		}
	}
}

// A machine is a node with what runs on it.
type machine struct {
	w       *world
	name    string
	number  int
	boots   int
	runtime *pretend.Runtime // nil while it is off
	agent   *actor           // nil while it does not run
	slow    time.Duration    // how long a sandbox takes
	cut     time.Time        // until when its network is
	healthy time.Time        // since when all is well with it
}

func (w *world) addNode() *machine {
	m := &machine{w: w, name: fmt.Sprintf("n%02d", len(w.nodes)), number: len(w.nodes)}
	w.nodes = append(w.nodes, m)
	m.boot()
	return m
}

// boot turns the machine on; nothing of what ran on it before is there.
func (m *machine) boot() {
	m.boots++
	m.runtime = pretend.New(pretend.Options{Seed: fmt.Sprint(m.name, " ", m.boots), Clock: ticking{}})
	m.slow = time.Duration(m.w.rand.IntN(2000)) * time.Millisecond
	m.startAgent()
}

func (m *machine) startAgent() {
	user := api.User{Name: "system:node:" + m.name, Groups: []string{api.GroupNodes, api.GroupAuthenticated}}
	rt := m.runtime
	m.healthy = time.Now()
	zone := string(rune('a' + m.number%3))
	m.agent = m.w.start(m.name, user, m, func(a *actor) {
		events, wait := a.events("kubelet", m.name)
		defer wait()
		agent, err := node.New(node.Config{
			Name: m.name, Handler: a, Runtime: runtime{rt, a}, Bare: true, Clock: ticking{}, Events: events, Log: m.w.log,
			Labels: map[string]string{corev1.LabelTopologyZone: zone},
			Machine: node.Machine{MilliCPU: 4000, Memory: 8 << 30, Storage: 100 << 30,
				Info: corev1.NodeSystemInfo{OSImage: "Pretend", KernelVersion: "pretend", BootID: fmt.Sprint(m.boots)}},
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("172.16.0.%d", m.number+1)}},
			Steps:     steps.Pretend(),
			Go:        a.work,
		})
		if err != nil {
			m.w.t.Error(err)
			return
		}
		_ = agent.Run(a.ctx)
	})
}

// ticking is the clock of the machines. What is to happen at once happens a nanosecond later:
// when nothing else is under way.
type ticking struct{ store.SystemClock }

func (c ticking) AfterFunc(d time.Duration, f func()) func() {
	return c.SystemClock.AfterFunc(max(d, 1), f)
}

// crash ends the agent; containers run on.
func (m *machine) crash() {
	if m.agent != nil {
		m.agent.kill()
		m.agent = nil
		m.healthy = time.Time{}
	}
}

// off ends the machine.
func (m *machine) off() {
	m.crash()
	m.runtime = nil
}

// run drives the cluster until a time.
func (w *world) run(until time.Time) {
	w.t.Helper()
	for now := time.Now(); now.Before(until) && !w.over(); now = time.Now() {
		synctest.Wait()
		if w.doomed != nil {
			w.restart(w.doomed)
			continue
		}
		w.gate.take(w.when)
		if w.agenda.due(now) {
			continue
		}
		t, next := w.gate.next(now)
		if t != nil {
			w.let(t, now)
			continue
		}
		if a := w.agenda.next(); next.IsZero() || !a.IsZero() && a.Before(next) {
			next = a
		}
		if next.IsZero() || next.After(until) {
			next = until
		}
		select {
		case <-w.gate.bell:
		case <-time.After(next.Sub(now)):
		}
	}
	synctest.Wait()
}

// over says whether there is no use in going on.
func (w *world) over() bool { return len(w.violations) > 0 || w.t.Failed() }

// when is when a turn is due.
func (w *world) when(t *turn) time.Time {
	switch {
	case t.kind == work:
		return t.since
	case t.kind == call && strings.HasPrefix(t.key, "RunSandbox"):
		return t.since.Add(t.who.machine.slow)
	case w.mood.late > 0 && w.rand.Float64() < w.mood.slow:
		return t.since.Add(time.Duration(w.rand.Int64N(int64(w.mood.late))))
	case w.rand.IntN(2) == 0:
		return t.since
	}
	return t.since.Add(time.Duration(w.rand.IntN(3000)) * time.Microsecond)
}

// patience is how long a request waits on a network that is cut.
const patience = 30 * time.Second

// let has a turn happen.
func (w *world) let(t *turn, now time.Time) {
	o := goes
	if m := t.who.machine; m != nil && t.kind <= event && t.kind != work && m.cut.After(now) {
		if end := t.since.Add(patience); t.kind == request && !end.After(now) {
			o = refused
		} else if t.kind == request && end.Before(m.cut) {
			w.gate.later(t, end)
			return
		} else {
			w.gate.later(t, m.cut)
			return
		}
	} else {
		o = w.luck(t)
	}
	w.stats.turns++
	if w.trace != nil {
		fmt.Fprintf(w.trace, "%s %v %s\n", now.Format("02 15:04:05.000000"), t, outcomeNames[o])
	}
	io.WriteString(w.sum, t.key)
	t.release(o)
}

// luck is what chance makes of a turn.
func (w *world) luck(t *turn) outcome {
	m := &w.mood
	switch t.kind {
	case request:
		if t.write && m.lose > 0 && w.rand.Float64() < m.lose {
			w.stats.lost++
			return lost
		}
		if m.refuse > 0 && w.rand.Float64() < m.refuse {
			w.stats.refused++
			return refused
		}
	case event:
		if m.sever > 0 && w.rand.Float64() < m.sever {
			w.stats.severed++
			return refused
		}
	case call:
		if t.write && m.fail > 0 && w.rand.Float64() < m.fail {
			w.stats.faults["failed runtime calls"]++
			return refused
		}
	}
	return goes
}

// restart ends a part and starts it again.
func (w *world) restart(a *actor) {
	w.doomed = nil
	if m := a.machine; m != nil {
		if m.agent == a {
			m.crash()
			m.startAgent()
		}
		return
	}
	for i, p := range w.plane {
		if p != a {
			continue
		}
		a.kill()
		if a.name == "scheduler" {
			w.plane[i] = w.startScheduler()
		} else {
			w.plane[i] = w.startControllers()
		}
	}
}

// stop ends everything.
func (w *world) stop() {
	for _, m := range w.nodes {
		m.off()
	}
	if w.server != nil {
		w.down()
	}
	synctest.Wait()
}
