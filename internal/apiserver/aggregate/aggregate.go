// Package aggregate puts other API servers behind this one: requests for a group
// and version that an APIService with a Service claims are passed on to that
// Service, under the name of who asks.
//
//	httpapi ── authorization ── Aggregator.Handler ── the server
//	                                   └── reach.Way ── an extension API server
//
// For each such APIService one goroutine checks that the server answers, keeps
// the condition Available, and fetches what the server says of itself. Nobody
// waits for it: requests find what is known in one atomic read. So a server that
// hangs costs nobody anything but those that ask for it.
package aggregate

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"proa/internal/api"
	"proa/internal/api/remote"
	"proa/internal/apiserver/reach"
	"proa/internal/kinds/apiregistration"
	"proa/internal/kinds/core"
	"proa/internal/kinds/discovery"
)

// Config is what an Aggregator is made from. Server and Net are required.
type Config struct {
	Server api.Handler // where APIServices are kept; asked without authorization
	Net    *reach.Net  // the way to extension servers, with the front proxy's certificate

	// Served is what the server serves itself now, and a channel that is closed
	// when that has changed. Each group and version of it has an APIService. None
	// are kept if nil.
	Served func() ([]*api.Group, <-chan struct{})

	Trust Trust // told to extension servers; nothing is if it has no CA

	Log     *slog.Logger
	Check   time.Duration // between checks of a server that nothing is heard of; 30 s if 0
	Refresh time.Duration // of what a server says of itself; a minute if 0
	Timeout time.Duration // of a request until the answer begins; a minute if 0
}

// An Aggregator keeps track of APIServices. Make one with [New], and Run it.
type Aggregator struct {
	Config
	h     api.Handler // Server, under the aggregator's own name
	view  atomic.Pointer[view]
	ready chan struct{}
	stir  chan struct{} // wakes the keeper of local APIServices

	mu       sync.Mutex
	services map[string]*apiregistrationv1.APIService // all, by name
	odd      map[schema.GroupVersion]remote.Priority  // of those that are not as by default
	backends map[string]*backend                      // of those with a Service
	closed   bool                                     // no more are to be started
	running  sync.WaitGroup
}

// A view is what requests find.
type view struct {
	catalog *remote.Catalog
	routes  map[schema.GroupVersion]*route
}

// New returns an Aggregator that knows nothing yet.
func New(c Config) *Aggregator {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	for _, d := range []struct {
		of *time.Duration
		is time.Duration
	}{{&c.Check, 30 * time.Second}, {&c.Refresh, time.Minute}, {&c.Timeout, time.Minute}} {
		if *d.of == 0 {
			*d.of = d.is
		}
	}
	a := &Aggregator{Config: c, ready: make(chan struct{}), stir: make(chan struct{}, 1),
		h:        api.As(api.User{Name: api.UserAPIServer, Groups: []string{api.GroupMasters, api.GroupAuthenticated}}, c.Server),
		services: map[string]*apiregistrationv1.APIService{}, odd: map[schema.GroupVersion]remote.Priority{}, backends: map[string]*backend{}}
	a.view.Store(&view{catalog: &remote.Catalog{}})
	return a
}

// Catalog is what is served elsewhere now; another pointer after every change.
func (a *Aggregator) Catalog() *remote.Catalog { return a.view.Load().catalog }

// Ready is closed when the APIServices that there were at the start are known.
func (a *Aggregator) Ready() <-chan struct{} { return a.ready }

// Run follows the APIServices and what they depend on until ctx ends.
func (a *Aggregator) Run(ctx context.Context) {
	var parts sync.WaitGroup
	fail := func(err error) { a.Log.Warn("What aggregated API servers depend on cannot be followed", "err", err) }
	parts.Go(func() { a.keepLocal(ctx) })
	if len(a.Trust.FrontCA) > 0 {
		parts.Go(func() { a.keepTrust(ctx) })
	}
	parts.Go(func() {
		for c := range core.Service.Follow(ctx, a.h, "", api.Selectors{}, fail) {
			wake(a, c, func(s *corev1.Service) types.NamespacedName {
				return types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
			})
		}
	})
	parts.Go(func() {
		for c := range discovery.EndpointSlice.Follow(ctx, a.h, "", api.Selectors{}, fail) {
			wake(a, c, func(s *discoveryv1.EndpointSlice) types.NamespacedName {
				return types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
			})
		}
	})
	for c := range apiregistration.APIService.Follow(ctx, a.h, "", api.Selectors{}, fail) {
		a.apply(ctx, c)
	}
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	parts.Wait()
	a.running.Wait()
	a.Net.CloseIdle()
}

// wake tells the backends behind a Service that something about it has changed.
func wake[T api.Object](a *Aggregator, c api.Change[T], service func(T) types.NamespacedName) {
	if !c.Reset && c.Type == watch.Bookmark {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.backends) == 0 {
		return
	}
	for _, b := range a.backends {
		if c.Reset || b.service == service(c.Object) {
			b.poke()
		}
	}
}

// apply takes in a change of the APIServices.
func (a *Aggregator) apply(ctx context.Context, c api.Change[*apiregistrationv1.APIService]) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case c.Reset:
		now := map[string]*apiregistrationv1.APIService{}
		for _, o := range c.All {
			now[o.Name] = o
		}
		for name := range a.services {
			if now[name] == nil {
				a.forget(name)
			}
		}
		for _, o := range c.All {
			a.learn(ctx, o)
		}
	case c.Type == watch.Bookmark:
		return
	case c.Type == watch.Deleted:
		a.forget(c.Object.Name)
	default:
		a.learn(ctx, c.Object)
	}
	a.publish()
	if c.Reset {
		select {
		case <-a.ready:
		default:
			close(a.ready)
		}
	}
	if o := c.Object; o == nil || c.Type == watch.Deleted || c.Type == watch.Modified && (o.Labels[managed] != "" || o.Spec.Service == nil) {
		a.stirLocal()
	}
}

// learn takes in one APIService. The caller holds the lock.
func (a *Aggregator) learn(ctx context.Context, o *apiregistrationv1.APIService) {
	a.services[o.Name] = o
	gv, p := versionOf(o), remote.Priority{Group: o.Spec.GroupPriorityMinimum, Version: o.Spec.VersionPriority}
	if delete(a.odd, gv); p != remote.DefaultPriority(gv) {
		a.odd[gv] = p
	}
	b := a.backends[o.Name]
	if !remotely(o) {
		if b != nil {
			a.stop(b)
		}
		return
	}
	if b != nil && b.uid == o.UID && equality.Semantic.DeepEqual(b.object().Spec, o.Spec) {
		b.set(o)
		return
	}
	if b != nil {
		a.stop(b)
	}
	if a.closed {
		return
	}
	b = a.newBackend(o, b)
	a.backends[o.Name] = b
	ctx, b.cancel = context.WithCancel(ctx)
	a.running.Go(func() { b.run(ctx) })
}

func (a *Aggregator) forget(name string) {
	if o := a.services[name]; o != nil {
		delete(a.odd, versionOf(o))
		delete(a.services, name)
	}
	if b := a.backends[name]; b != nil {
		a.stop(b)
	}
}

func (a *Aggregator) stop(b *backend) {
	b.cancel()
	delete(a.backends, b.name)
}

// remotely says whether an APIService claims its group and version for another
// server. The core group and the one of APIServices cannot be claimed: nobody
// could mend it.
func remotely(o *apiregistrationv1.APIService) bool {
	return o.Spec.Service != nil && o.Spec.Group != "" && o.Spec.Group != apiregistration.APIService.Def().Group
}

func versionOf(o *apiregistrationv1.APIService) schema.GroupVersion {
	return schema.GroupVersion{Group: o.Spec.Group, Version: o.Spec.Version}
}

// publish makes what is known what requests find. The caller holds the lock.
func (a *Aggregator) publish() {
	v := &view{catalog: &remote.Catalog{Versions: map[schema.GroupVersion]*remote.Version{}, Priorities: maps.Clone(a.odd)},
		routes: map[schema.GroupVersion]*route{}}
	for _, b := range a.backends {
		v.catalog.Versions[b.gv] = b.version()
		v.routes[b.gv] = b.route()
	}
	old := a.view.Load()
	if same(old.catalog, v.catalog) {
		v.catalog = old.catalog
	}
	a.view.Store(v)
}

func same(a, b *remote.Catalog) bool {
	if len(a.Versions) != len(b.Versions) || len(a.Priorities) != len(b.Priorities) {
		return false
	}
	for gv, v := range b.Versions {
		if a.Versions[gv] != v {
			return false
		}
	}
	for gv, p := range b.Priorities {
		if q, ok := a.Priorities[gv]; !ok || p != q {
			return false
		}
	}
	return true
}

// changed publishes what a backend has found out.
func (a *Aggregator) changed() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.publish()
}
