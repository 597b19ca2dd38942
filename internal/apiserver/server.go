// Package apiserver answers API requests from a store: everything that a kind
// does not declare is done here, once, for all kinds.
//
// The whole state is in memory as a copy-on-write tree per resource, fed in the
// order of revisions from the engine's watch by one goroutine. A write goes to
// the engine as a compare and swap and returns once that goroutine has applied
// it, so that every caller reads its own writes, and a [Snapshot] shows all
// resources at one revision. See docs/design and docs/formats/objects.md.
package apiserver

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/apiserver/admit"
	"proa/internal/apiserver/crd"
	"proa/internal/store"
)

// Config is what a server is made from. Engine and Kinds are required.
type Config struct {
	Engine store.Engine
	Kinds  []api.Definition

	// Subs answers the subresources and virtual kinds that are declared without a
	// Do, under "pods/log", "deployments.apps/scale" or
	// "tokenreviews.authentication.k8s.io".
	Subs map[string]api.SubFunc

	Admit []*admit.Step // in their order; none if nil (see [admit.All])
	Clock store.Clock   // the system's if nil; watch timers use the time package
	Log   *slog.Logger

	UID    func() types.UID   // of new objects; random if nil
	Suffix func(n int) string // random lower-case letters and digits, for generateName; from the system if nil
	InTurn bool               // what one request writes is written one after the other, so that a simulation repeats

	// Webhook reaches the webhooks that convert custom resources; none are reached if nil.
	Webhook crd.Webhook

	// History is how long old states can be watched and listed, 10 minutes if 0.
	History time.Duration
}

// A Server is the innermost Handler. Make one with [New].
type Server struct {
	engine store.Engine
	clock  store.Clock
	log    *slog.Logger
	subs   map[string]api.SubFunc
	steps  []*admit.Step
	inTurn bool
	uid    func() types.UID
	suffix func(int) string
	keep   time.Duration

	tables   []*table // of built-in kinds, in the order of Config.Kinds, virtual ones left out
	byPtr    map[*api.Resource]*table
	byName   map[schema.GroupResource]*table
	byPrefix map[string]*table // by "/group/resource/"; the applier's own once it runs
	custom   customs

	mu      sync.RWMutex // of everything in the tables, and rev, waiting and closed
	rev     int64
	waiting []waiting
	failed  error   // why the state is not kept up any more
	dirty   []*rows // changed since the last snapshot
	slots   slots
	snap    atomic.Pointer[Snapshot]
	recent  recent
	pending pending
	owners  *owners

	stop context.CancelFunc
	done sync.WaitGroup
}

var _ api.Env = (*Server)(nil)

// New loads the state from the engine and keeps it up to date until Close or
// the end of ctx. It does not own the engine.
func New(ctx context.Context, c Config) (*Server, error) {
	s := &Server{
		engine: c.Engine, clock: c.Clock, log: c.Log, subs: c.Subs, inTurn: c.InTurn, uid: c.UID, suffix: c.Suffix, keep: c.History,
		byPtr: map[*api.Resource]*table{}, byName: map[schema.GroupResource]*table{}, byPrefix: map[string]*table{},
	}
	if s.clock == nil {
		s.clock = store.SystemClock{}
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.uid == nil {
		s.uid = func() types.UID { return types.UID(uuid.NewString()) }
	}
	if s.suffix == nil {
		s.suffix = randomSuffix
	}
	if s.keep == 0 {
		s.keep = 10 * time.Minute
	}
	s.steps = c.Admit
	for _, k := range c.Kinds {
		if r := k.Def(); !r.Virtual && r.Hub == nil {
			t := newTable(r, s.steps)
			s.tables = append(s.tables, t)
			s.open(t.rows)
			s.byPtr[r], s.byName[r.GroupResource()], s.byPrefix[t.prefix] = t, t, t
		}
	}
	for _, k := range c.Kinds {
		if r := k.Def(); r.Hub != nil {
			t := s.byPtr[r.Hub.Resource]
			if t == nil {
				return nil, fmt.Errorf("%s is a view of a kind that is not served", r.GroupVersionResource)
			}
			t.views = append(t.views, r)
			s.byPtr[r] = t
		}
	}
	s.owners = newOwners(s.tables)
	s.custom.init(c, s.tables)
	s.custom.of = s.byName[definitions]
	if err := s.load(ctx); err != nil {
		return nil, fmt.Errorf("load the state: %w", err)
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.done.Go(func() { s.follow(ctx) })
	s.done.Go(func() { s.compact(ctx) })
	if e, ok := s.engine.(store.Reopener); ok {
		s.done.Go(func() { s.reopen(ctx, e) })
	}
	return s, nil
}

// Close ends the watches and the writes that wait, and stops following the engine.
func (s *Server) Close() {
	s.stop()
	s.done.Wait()
}

// Handle answers a request. Errors are *errors.StatusError.
func (s *Server) Handle(ctx context.Context, r *api.Request) (resp *api.Response, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("a request panicked", "verb", r.Verb, "path", target(r), "panic", p, "stack", string(debug.Stack()))
			resp, err = nil, apierrors.NewInternalError(fmt.Errorf("panic while answering: %v", p))
		}
	}()
	resp, err = s.dispatch(ctx, r)
	if err != nil {
		return nil, s.statusError(r, err)
	}
	if d := s.current(r.Resource).Deprecated; d != "" {
		resp.Warnings = append([]string{d}, resp.Warnings...)
	}
	return resp, nil
}

func (s *Server) dispatch(ctx context.Context, r *api.Request) (*api.Response, error) {
	res := r.Resource
	switch {
	case res == nil:
		return nil, apierrors.NewGenericServerResponse(404, string(r.Verb), schema.GroupResource{}, "", "the server could not find the requested resource", 0, true)
	case res.Hub != nil && (r.Sub != "" || res.Can(r.Verb)):
		return s.through(ctx, r)
	case s.isCustom(res):
		return s.customResource(ctx, r)
	case r.Sub != "":
		return s.sub(ctx, r)
	case !res.Can(r.Verb):
		return nil, apierrors.NewMethodNotSupported(res.GroupResource(), string(r.Verb))
	case res.Virtual:
		return s.virtual(ctx, r)
	}
	return s.answer(ctx, r)
}

// answer is dispatch for what is about stored objects.
func (s *Server) answer(ctx context.Context, r *api.Request) (*api.Response, error) {
	res := r.Resource
	if r.Sub != "" {
		return s.sub(ctx, r)
	}
	t := s.table(res)
	if t == nil {
		return nil, apierrors.NewNotFound(res.GroupResource(), r.Name)
	}
	switch r.Verb {
	case api.Get:
		return s.get(ctx, t, r)
	case api.List:
		return s.list(ctx, t, r)
	case api.Watch:
		return s.watch(ctx, t, r)
	case api.Create:
		return s.create(ctx, t, r)
	case api.Update:
		return s.update(ctx, t, r)
	case api.Patch:
		return s.patch(ctx, t, r)
	case api.Delete:
		return s.delete(ctx, t, r)
	case api.DeleteCollection:
		return s.deleteCollection(ctx, t, r)
	}
	return nil, apierrors.NewMethodNotSupported(res.GroupResource(), string(r.Verb))
}

func (s *Server) table(r *api.Resource) *table {
	if t := s.byPtr[r]; t != nil {
		return t
	}
	return s.named(r.Stored().GroupResource())
}

// named is the table of a resource, built in or custom; nil if there is none.
func (s *Server) named(gr schema.GroupResource) *table {
	if t := s.byName[gr]; t != nil {
		return t
	}
	return s.custom.named(gr)
}

func target(r *api.Request) string {
	if r.Resource == nil {
		return r.Path
	}
	p := r.Resource.Path(r.Namespace)
	if r.Name != "" {
		p += "/" + r.Name
	}
	if r.Sub != "" {
		p += "/" + r.Sub
	}
	return p
}

// randomSuffix takes n letters from the alphabet that makes no words.
func randomSuffix(n int) string {
	const alphabet = "bcdfghjklmnpqrstvwxz2456789"
	out := make([]byte, 0, n)
	var buf [32]byte
	for len(out) < n {
		_, _ = rand.Read(buf[:]) // never fails
		for _, b := range buf {
			if b &= 31; int(b) < len(alphabet) && len(out) < n {
				out = append(out, alphabet[b])
			}
		}
	}
	return string(out)
}
