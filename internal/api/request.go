package api

import (
	"context"
	"iter"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/watch"
)

// A Verb is what a request asks for, under the name that RBAC knows it by.
type Verb string

// The verbs of resource requests.
const (
	Get              Verb = "get"
	List             Verb = "list"
	Watch            Verb = "watch"
	Create           Verb = "create"
	Update           Verb = "update"
	Patch            Verb = "patch"
	Delete           Verb = "delete"
	DeleteCollection Verb = "deletecollection"
)

// AllVerbs is what a plain kind serves.
var AllVerbs = []Verb{Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch}

// Writes says whether the verb changes something.
func (v Verb) Writes() bool { return v != Get && v != List && v != Watch }

// A Request is one call on the API, from whatever transport.
type Request struct {
	Verb      Verb
	Resource  *Resource // nil for a non-resource request, which has a Path
	Namespace string    // empty for cluster-scoped kinds, and for all namespaces
	Name      string
	Sub       string // "status", "scale", "log", ...
	Path      string // non-resource requests: /healthz, /metrics; then Verb is the lower-case HTTP method
	User      User   // who asks; set by authentication, or by [As]

	// The body: raw, as a client sent it, or typed, from a caller in this
	// process, who gives the object away and must not change it afterwards.
	Body        []byte
	ContentType string
	Object      Object

	Patch   types.PatchType
	Options Options
	Select  Selectors
	At      Version
	Past    *Past // of a get: what was, instead of what is

	HTTP *http.Request // the request as it came in, for streaming subresources; nil in process
}

// Options are what a caller may say about a write.
type Options struct {
	FieldManager    string
	Force           bool
	DryRun          bool
	FieldValidation string // Strict, Warn or Ignore; Warn if empty (bodies and patches only)

	// Of deletes.
	UID             *types.UID // precondition
	ResourceVersion *string    // precondition
	GracePeriod     *int64     // seconds
	Propagation     *metav1.DeletionPropagation

	// Parting changes what the object says of itself in the write that marks it as
	// being deleted: it replaces what is to be another, the rest others share. It is
	// not called for an object that is marked already or goes at once, nor by a server
	// in another process: the answer shows whether it was.
	Parting func(Object)
}

// Selectors narrow a list, a watch or a deletecollection. A nil selector selects everything.
type Selectors struct {
	Labels labels.Selector
	Fields fields.Selector
}

// Matches says whether an object of the resource is selected. Field names must
// have been checked against the resource before.
func (s Selectors) Matches(r *Resource, o Object) bool {
	return (s.Labels == nil || s.Labels.Empty() || s.Labels.Matches(labels.Set(o.GetLabels()))) &&
		(s.Fields == nil || s.Fields.Empty() || s.Fields.Matches(fieldsOf{r, o}))
}

// Empty says whether everything is selected.
func (s Selectors) Empty() bool {
	return (s.Labels == nil || s.Labels.Empty()) && (s.Fields == nil || s.Fields.Empty())
}

type fieldsOf struct {
	r *Resource
	o Object
}

func (f fieldsOf) Has(name string) bool {
	_, ok := f.r.Fields[name]
	return ok || name == "metadata.name" || name == "metadata.namespace"
}

func (f fieldsOf) Get(name string) string {
	switch name {
	case "metadata.name":
		return f.o.GetName()
	case "metadata.namespace":
		return f.o.GetNamespace()
	}
	if g := f.r.Fields[name]; g != nil {
		return g(f.o)
	}
	return ""
}

// A Version says which state a read wants, and how much of it.
type Version struct {
	ResourceVersion   string // as in the API's list and watch options
	Match             metav1.ResourceVersionMatch
	Limit             int64
	Continue          string
	Timeout           time.Duration // of a watch; 0: the server's choice
	Bookmarks         bool
	SendInitialEvents *bool
}

// A User is who asks.
type User struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string
}

// Well-known users and groups.
const (
	GroupMasters         = "system:masters"
	GroupAuthenticated   = "system:authenticated"
	GroupUnauthenticated = "system:unauthenticated"
	GroupNodes           = "system:nodes"
	GroupServiceAccounts = "system:serviceaccounts"
	UserAnonymous        = "system:anonymous"
	UserAPIServer        = "system:apiserver"
	UserScheduler        = "system:kube-scheduler"
	UserControllers      = "system:kube-controller-manager"
)

// In says whether the user is in a group.
func (u User) In(group string) bool {
	for _, g := range u.Groups {
		if g == group {
			return true
		}
	}
	return false
}

// A Response is the answer to a Request.
type Response struct {
	Code     int            // HTTP status; 200 if 0
	Item     *Item          // one stored object
	Object   Object         // one object that is not stored: a Scale, a review, a token
	Status   *metav1.Status // instead of an object: what most deletes answer
	List     *ItemList
	History  *History                // of a get that asked for it
	Events   iter.Seq2[Event, error] // a watch; must be ranged over, or the watch leaks until its context ends
	Connect  http.Handler            // log, exec, attach, port-forward, proxies: opaque bytes and upgrades
	Warnings []string
	Deleted  bool // Item is the last state of an object that is gone now
}

// Result is the object of the response, whichever field holds it, or nil.
func (r *Response) Result() Object {
	if r.Item != nil {
		return r.Item.Object()
	}
	return r.Object
}

// An ItemList is the answer to a list.
type ItemList struct {
	Items     []*Item
	Revision  int64
	Continue  string
	Remaining *int64
}

// An Event is one change to an object. A bookmark has no object, only a revision.
type Event struct {
	Type       watch.EventType // ADDED, MODIFIED, DELETED, BOOKMARK
	Item       *Item           // nil on bookmarks
	Revision   int64
	InitialEnd bool // a bookmark that ends the initial events (KEP-3157)
	More       bool // the next event is at hand: a transport need not flush after this one
}

// A Handler answers requests. The server is a Handler; so is every layer around
// it (authentication, audit, authorization, a cache), and so is a connection to
// a server on another machine. Errors that the caller is to see are
// *errors.StatusError of k8s.io/apimachinery/pkg/api/errors.
type Handler interface {
	Handle(context.Context, *Request) (*Response, error)
}

// HandlerFunc adapts a function to a Handler.
type HandlerFunc func(context.Context, *Request) (*Response, error)

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, r *Request) (*Response, error) { return f(ctx, r) }

// As returns a Handler that asks h in the name of user.
func As(user User, h Handler) Handler {
	return HandlerFunc(func(ctx context.Context, r *Request) (*Response, error) {
		q := *r
		q.User = user
		return h.Handle(ctx, &q)
	})
}

// A Sub is a subresource with behaviour of its own. Status and scale are not
// declared as such: see [Kind].
type Sub struct {
	Verbs   []Verb        // what it serves
	In      func() Object // the body it takes; nil for a stream
	API     string        // group and version of In, for discovery; the parent's if empty
	Kind    string        // kind of In, for discovery; the parent's if empty
	Connect bool          // answers with Response.Connect
	Do      SubFunc       // nil if the server is given the answer by whoever starts it

	// Part makes the subresource one view of the stored object, as status is: get
	// answers the object, and update and patch take the whole object and change
	// only what the part lets through. In and Do are then nil.
	Part *Part
}

// A Part says what writes to a [Sub] may change; see [PartOf].
type Part struct {
	Prepare  func(new, old Object) // put back what does not belong to the part; old is never nil
	Validate func(new, old Object) field.ErrorList
	Spec     bool // changes count in metadata.generation, if the kind keeps one
}

// PartOf returns a part of objects of type T.
func PartOf[T Object](prepare func(new, old T), validate func(new, old T) field.ErrorList) *Part {
	return &Part{Prepare: pair(prepare), Validate: check(validate)}
}

// A SubFunc answers a request on a subresource, or a create of a virtual kind.
// r.Object holds the decoded, typed body if the subresource takes one.
type SubFunc func(ctx context.Context, env Env, r *Request) (*Response, error)

// Env is what a subresource may use: the server itself, without authorization,
// and its write path.
type Env interface {
	Handler
	// Mutate changes the object that r names, under compare and swap: change gets
	// a copy of the current state that shares what it points to, replaces what is to
	// be another, and returns the new state. It may be called again after a conflict. Defaults, validation and admission of the
	// kind do not run; revision, watch and dry run do.
	Mutate(ctx context.Context, r *Request, change func(old Object) (Object, error)) (*Item, error)
}
