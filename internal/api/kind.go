// Package api is the vocabulary of the system: what a kind is, what a request
// is, and who can answer one. It knows nothing of HTTP, storage or any
// particular kind.
package api

import (
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// An Object is any API object. Objects that come from a read are shared by
// every reader and must not be changed: use [Clone] first.
type Object interface {
	metav1.Object
	runtime.Object
}

// Clone returns a copy of o that the caller may change.
func Clone[T Object](o T) T { return o.DeepCopyObject().(T) }

// Scope says whether a kind's objects live in namespaces.
type Scope bool

// The two scopes.
const (
	Cluster    Scope = false
	Namespaced Scope = true
)

// A Kind declares a resource whose Go type is T. API, Resource and Scope are
// required; every other field adds one behaviour and its zero value means the
// plain one. A Kind is also the typed client for itself: see [Kind.Get].
type Kind[T Object] struct {
	API        string // group and version: "apps/v1", or "v1" for the core group
	Resource   string // plural name, as in URLs
	Singular   string // lower-case kind if empty
	Scope      Scope
	Short      []string // names kubectl also accepts
	Categories []string // groups of kinds, such as "all"
	Verbs      []Verb   // what it can be asked; all of [AllVerbs] if nil
	Virtual    bool     // never stored: a create is answered by Do (a review), and so are reads if Verbs has them

	Columns []Column[T] // what "kubectl get" shows between Name and Age
	Whole   bool        // Columns is the whole table: add neither Name nor Age

	// Fields is what field selectors can match besides metadata.name and
	// metadata.namespace, and what the server indexes.
	Fields map[string]func(T) string

	Name     func(name string, prefix bool) []string // rule for names; DNS-1123 subdomain if nil
	Default  func(T)                                 // fill in what the user left out
	Restore  func(T)                                 // fill in what the stored form has no place for
	Alike    *Alike[T]                               // what copies of an object have in common; without Restore
	Prepare  func(new, old T)                        // drop or keep fields the user may not set; old is nil on create, when name, uid and creation time are set already
	Tidy     bool                                    // Prepare adds and changes nothing but the status when old is nil: what it would fill in is nobody's
	Validate func(new, old T) field.ErrorList        // old is nil on create
	Warn     func(new, old T) []string               // warnings for the user, on create and update

	Status         bool                             // serve /status, and keep .status out of plain writes
	PrepareStatus  func(new, old T)                 // like Prepare, on writes to /status
	ValidateStatus func(new, old T) field.ErrorList // like Validate, on writes to /status
	Ungenerated    bool                             // metadata.generation is not kept

	Scale *Scale[T]       // serve /scale
	Sub   map[string]*Sub // serve any other subresource
	Do    SubFunc         // answers for a virtual kind, unless the server was given an answer

	// Grace returns the seconds an object is given to end after a delete, from
	// what the caller asked for (nil: nothing). Zero removes it at once. Without
	// Grace an object is removed at once.
	Grace func(obj T, asked *int64) int64
	// Deleting changes an object that now has a deletionTimestamp: it replaces what is
	// to be another, the rest others share.
	Deleting func(T)
	// Held says whether something besides finalizers keeps a deleted object from
	// being removed (a namespace's spec.finalizers).
	Held func(T) bool

	Propagation    metav1.DeletionPropagation // when the caller names none; Background if empty
	Conditional    bool                       // an update must name the resourceVersion that it replaces
	CreateOnUpdate bool                       // an update of an absent object creates it
	Versioned      bool                       // an update, of the status too, must name the resourceVersion that it replaces
	TTL            time.Duration              // the store removes objects this long after their last write

	// Models are the definitions of its OpenAPI, if the type is not a published one.
	Models func(old bool) (*Models, error)

	// Types is the schema by which applies own fields, as structured-merge-diff
	// writes it; empty if client-go knows the kind.
	Types string

	once sync.Once
	def  *Resource
}

// A Column is one column of a kind's table.
type Column[T Object] struct {
	Name   string
	Type   string // as in OpenAPI: string, integer, boolean, date
	Format string
	Doc    string
	Wide   bool // shown only with -o wide
	Cell   func(T) any

	Priority int32 // of a custom resource's column, as its definition has it
}

// Col returns a column, its type taken from what f returns.
func Col[T Object, V string | bool | int | int32 | int64](name string, f func(T) V) Column[T] {
	return Column[T]{Name: name, Type: columnType[V](), Cell: func(o T) any { return f(o) }}
}

// Wide returns a column shown only with -o wide.
func Wide[T Object, V string | bool | int | int32 | int64](name string, f func(T) V) Column[T] {
	c := Col(name, f)
	c.Wide = true
	return c
}

func columnType[V any]() string {
	var v V
	switch any(v).(type) {
	case bool:
		return "boolean"
	case int, int32, int64:
		return "integer"
	}
	return "string"
}

// Scale tells where a kind keeps its replica counts.
type Scale[T Object] struct {
	Want     func(T) *int32 // address of spec.replicas; never nil after Default
	SetWant  func(T, int32)
	Have     func(T) int32
	Selector func(T) string

	Path string // of a custom resource's count, as its definition has it
}

// A Definition is a *Kind[T] for some T, or a custom resource definition.
type Definition interface{ Def() *Resource }

// Def returns the erased form of k, always the same one.
func (k *Kind[T]) Def() *Resource {
	k.once.Do(func() { k.def = k.erase() })
	return k.def
}
