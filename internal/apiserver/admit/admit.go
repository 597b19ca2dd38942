// Package admit holds the admission steps: what a write must pass, or is
// changed by, that is no matter of its kind alone. They run inside the server's
// one write function, on the defaulted object and the state it replaces.
package admit

import (
	"context"
	"iter"
	"math/rand/v2"
	"net/netip"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
)

// A Step is one admission step. For and one function are required.
type Step struct {
	Name  string
	For   []string   // resources as schema.GroupResource prints them ("pods", "deployments.apps"); "*": all
	Verbs []api.Verb // of Create, Update (a patch too) and Delete
	Subs  []string   // subresources besides the object itself: "status", ...

	// Admit refuses before anything else is done, without looking at what the
	// kind's validation is for.
	Admit func(context.Context, *Attributes) error

	// Mutate changes a.New. It runs before the kind's Prepare and Validate, and
	// the kind's defaults run again after it. It may run more than once.
	Mutate func(context.Context, *Attributes) error
	Wild   bool // Mutate may change any part of a pod, or remove something: see [Note]

	// WildFor says of which writes that is so; of none if nil.
	WildFor func(*Attributes) bool

	// Reserve runs after Prepare and before validation. It may change a.New. What
	// it returns is called once the write is decided: with true if it was made.
	Reserve func(context.Context, *Attributes) (func(made bool), error)
	Keeps   bool // Reserve changes nothing

	// Validate refuses what is not allowed. It runs last.
	Validate func(context.Context, *Attributes) error

	// Follow is told every change of a resource, in order, from the server's
	// start: old is nil for what is new, new for what is gone. It must be quick
	// and must not ask the server anything.
	Follow map[schema.GroupResource]func(old, new api.Object)
}

// Settings are what the steps of [All] need to know. The zero value means the defaults.
type Settings struct {
	Services  netip.Prefix // cluster addresses; 10.43.0.0/16
	NodePorts [2]int32     // first and last; 30000 to 32767

	// Chance gives a number below n, at which the search for what nobody has begins; random if nil.
	Chance func(n int64) int64
}

// All returns the steps of a server, in their order. They hold the state of one
// server: every server needs its own.
func All(c Settings) []*Step {
	if !c.Services.IsValid() {
		c.Services = netip.MustParsePrefix("10.43.0.0/16")
	}
	if c.NodePorts[1] == 0 {
		c.NodePorts = [2]int32{30000, 32767}
	}
	if c.Chance == nil {
		c.Chance = rand.Int64N
	}
	return []*Step{
		namespaceLifecycle,
		serviceAccount,
		priority(),
		defaultTolerations,
		serviceAddresses(c),
		adminAccess,
		defaultIngressClass,
		storageInUse,
		defaultStorageClass,
		certificateRequester,
		certificateSubject,
		limitRanger(),
		resourceQuota(),
	}
}

// forbidden is the refusal of a write by a step.
func forbidden(a *Attributes, err error) *apierrors.StatusError {
	return apierrors.NewForbidden(a.Resource.GroupResource(), a.Name, err)
}

// Concerns says whether any write of a resource is the step's business.
func (s *Step) Concerns(r *api.Resource) bool {
	return slices.Contains(s.For, "*") || slices.Contains(s.For, r.GroupResource().String())
}

// Runs says whether a step of the resource looks at this write.
func (s *Step) Runs(a *Attributes) bool {
	return slices.Contains(s.Verbs, a.Verb) && (a.Sub == "" || slices.Contains(s.Subs, a.Sub))
}

// Attributes are what a step knows of a write.
type Attributes struct {
	Verb      api.Verb // Create, Update or Delete
	Resource  *api.Resource
	Sub       string
	Namespace string
	Name      string
	New       api.Object // nil on Delete
	Old       api.Object // nil on Create; shared and read-only
	User      api.User
	Options   api.Options
	State     State
	Warnings  []string // a step may add to them
}

// State is what the server knows now.
type State interface {
	Reader
	// Wait returns true as soon as ready does, which is asked again after every
	// change of the resource, and false when ctx ends first.
	Wait(ctx context.Context, gr schema.GroupResource, ready func(Reader) bool) bool
}

// A Reader reads objects, shared and read-only.
type Reader interface {
	Get(gr schema.GroupResource, ns, name string) api.Object // nil if there is none
	Objects(gr schema.GroupResource, ns string) iter.Seq[api.Object]
}
