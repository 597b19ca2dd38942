package aggregate

import (
	"context"
	"regexp"
	"sync"
	"time"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"proa/internal/api"
	"proa/internal/api/remote"
	"proa/internal/apiserver/reach"
	"proa/internal/kinds/apiregistration"
)

// breath is how long a backend rests between two checks, however often it is poked.
const breath = 200 * time.Millisecond

// A backend is one APIService with a Service, and what is known of the server behind it.
type backend struct {
	a       *Aggregator
	name    string
	uid     types.UID
	gv      schema.GroupVersion
	service types.NamespacedName
	port    int32
	way     *reach.Way
	err     error // why there is no way
	cancel  context.CancelFunc
	poked   chan struct{} // holds one

	mu    sync.Mutex
	obj   *apiregistrationv1.APIService
	known *remote.Version
	v2    document

	// Of the goroutine alone.
	tag     string    // of the last aggregated discovery document
	fetched time.Time // when what the server says of itself was last asked for
}

// newBackend makes a backend that runs nothing yet. It takes over what was known
// under an earlier state of the APIService, if there was one.
func (a *Aggregator) newBackend(o *apiregistrationv1.APIService, before *backend) *backend {
	s := o.Spec.Service
	b := &backend{a: a, name: o.Name, uid: o.UID, gv: versionOf(o), obj: o, poked: make(chan struct{}, 1),
		service: types.NamespacedName{Namespace: s.Namespace, Name: s.Name}, port: 443}
	if s.Port != nil {
		b.port = *s.Port
	}
	b.way, b.err = a.Net.To(reach.Target{Namespace: s.Namespace, Name: s.Name, Port: b.port, CA: o.Spec.CABundle, Insecure: o.Spec.InsecureSkipTLSVerify})
	b.known = b.versionWith(discoveryv2.APIVersionDiscovery{Version: b.gv.Version, Freshness: discoveryv2.DiscoveryFreshnessStale}, "")
	if before != nil {
		old := before.version()
		d := old.Discovery
		d.Freshness = discoveryv2.DiscoveryFreshnessStale
		b.known = b.versionWith(d, old.OpenAPI)
	}
	return b
}

func (b *backend) versionWith(d discoveryv2.APIVersionDiscovery, openapi string) *remote.Version {
	return &remote.Version{GroupVersion: b.gv, Discovery: d, OpenAPI: openapi, V2: b.openapi2}
}

// poke asks for a check soon. It never waits.
func (b *backend) poke() {
	select {
	case b.poked <- struct{}{}:
	default:
	}
}

func (b *backend) object() *apiregistrationv1.APIService {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.obj
}

// set takes in a new state of the APIService that asks for nothing else.
func (b *backend) set(o *apiregistrationv1.APIService) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.obj = o
}

func (b *backend) version() *remote.Version {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.known
}

// learned replaces what is known, and publishes it if it is news.
func (b *backend) learned(v *remote.Version) {
	b.mu.Lock()
	old := b.known
	b.known = v
	b.mu.Unlock()
	if old != v {
		b.a.changed()
	}
}

func (b *backend) route() *route {
	return &route{b: b, gv: b.gv, way: b.way, err: b.err, down: unavailable(b.object())}
}

// run checks the server and asks it what it serves, until ctx ends: at once,
// when it is poked, and from time to time.
func (b *backend) run(ctx context.Context) {
	for ctx.Err() == nil {
		again := b.turn(ctx)
		rest(ctx, breath)
		t := time.NewTimer(again)
		select {
		case <-b.poked:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// rest waits, or returns early when ctx ends.
func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// turn is one check and what follows from it. It returns when the next is due.
func (b *backend) turn(ctx context.Context) time.Duration {
	status, reason, message := b.check(ctx)
	if ctx.Err() != nil {
		return 0
	}
	again := b.a.Check
	if status == apiregistrationv1.ConditionFalse && reason == "FailedDiscoveryCheck" {
		again = min(again, 5*time.Second) // nothing else will tell that it is back
	}
	if err := b.tell(ctx, status, reason, message); err != nil && !apierrors.IsNotFound(err) {
		if !apierrors.IsConflict(err) && ctx.Err() == nil {
			b.a.Log.Warn("The status of an APIService cannot be written", "name", b.name, "err", err)
		}
		again = min(again, time.Second)
	}
	if status == apiregistrationv1.ConditionTrue {
		b.discover(ctx)
	} else if v := b.version(); v.Discovery.Freshness != discoveryv2.DiscoveryFreshnessStale {
		d := v.Discovery
		d.Freshness = discoveryv2.DiscoveryFreshnessStale
		b.fetched = time.Time{}
		b.learned(b.versionWith(d, v.OpenAPI))
	}
	return min(again, b.a.Refresh)
}

// tell writes the condition if it is another than before.
func (b *backend) tell(ctx context.Context, status apiregistrationv1.ConditionStatus, reason, message string) error {
	have := b.object()
	c := apiregistrationv1.APIServiceCondition{Type: apiregistrationv1.Available, Status: status, Reason: reason, Message: message,
		LastTransitionTime: metav1.Now().Rfc3339Copy()}
	next := withCondition(have, c)
	if next == nil {
		return nil
	}
	if was := apiregistration.Available(have); was == nil || was.Status != status {
		b.a.Log.Info("An aggregated API changed its availability", "name", b.name, "available", status, "reason", reason, "message", message)
	}
	out, err := apiregistration.APIService.UpdateStatus(ctx, b.a.h, next)
	if err == nil && out.UID == b.uid {
		b.set(out)
		b.a.changed()
	}
	return err
}

// withCondition is o with the condition, or nil if it says that already.
func withCondition(o *apiregistrationv1.APIService, c apiregistrationv1.APIServiceCondition) *apiregistrationv1.APIService {
	was := apiregistration.Available(o)
	if was != nil && was.Status == c.Status {
		if was.Reason == c.Reason && was.Message == c.Message {
			return nil
		}
		c.LastTransitionTime = was.LastTransitionTime
	}
	next := api.Clone(o)
	if have := apiregistration.Available(next); have != nil {
		*have = c
	} else {
		next.Status.Conditions = append(next.Status.Conditions, c)
	}
	return next
}

// path is where the server serves its group and version.
func (b *backend) path() string { return "/apis/" + b.gv.Group + "/" + b.gv.Version }

// brief is an error without what changes from one attempt to the next, so that
// a condition stays as it is while nothing has changed.
func brief(err error) string { return ports.ReplaceAllString(err.Error(), "$1: ") }

var ports = regexp.MustCompile(`\b(read|write) tcp \S+: `)
