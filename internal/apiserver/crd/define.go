package crd

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
)

// A Webhook sends a request to a conversion webhook and returns what it answers.
type Webhook func(ctx context.Context, to *apiextensionsv1.WebhookClientConfig, body []byte) ([]byte, error)

// A Definition is what a server makes of one CustomResourceDefinition. It never
// changes but for which state of the definition it reads schemas from.
type Definition struct {
	Name   string
	Group  string
	Family *api.Family

	uid        types.UID
	generation int64
	names      apiextensionsv1.CustomResourceDefinitionNames // the accepted ones
	served     bool
	item       atomic.Pointer[api.Item]
	ending     atomic.Bool // the definition is being deleted
	versions   []*version
	webhook    Webhook
	merge      merging
}

// A version is one version of a definition.
type version struct {
	def  *Definition
	at   int    // in the definition's versions
	name string // "v1"
	res  *api.Resource
	head []byte // how its objects' JSON begins

	scale  *scale
	status bool

	mu    sync.Mutex
	shape *shape // once it is compiled
	print atomic.Uint64
}

// errUnserved is a definition that cannot be served as it stands.
var errUnserved = errors.New("the definition names no version for storage")

// Define makes resources of a definition, which item holds. before is what was
// made of an earlier state of it, or nil: it is returned itself if nothing that
// matters has changed, and what it has compiled is used again.
func Define(item *api.Item, before *Definition, hook Webhook) (*Definition, error) {
	c, ok := item.Object().(*apiextensionsv1.CustomResourceDefinition)
	if !ok {
		return nil, fmt.Errorf("a definition is a %T", item.Object())
	}
	d := &Definition{Name: c.Name, Group: c.Spec.Group, uid: c.UID, generation: c.Generation, webhook: hook, names: names(c), served: established(c)}
	if before != nil && before.same(d, c) {
		before.item.Store(item)
		before.ending.Store(terminating(c))
		return before, nil
	}
	d.item.Store(item)
	d.ending.Store(terminating(c))
	d.Family = &api.Family{Terminating: d.ending.Load}
	for i := range c.Spec.Versions {
		d.add(c, i)
	}
	if d.Family.Storage == nil {
		return nil, errUnserved
	}
	if before != nil {
		d.inherit(before)
	}
	d.complete(c)
	return d, nil
}

// same says whether d would be no different.
func (d *Definition) same(n *Definition, c *apiextensionsv1.CustomResourceDefinition) bool {
	return d.uid == n.uid && d.served == n.served && reflect.DeepEqual(d.names, n.names) &&
		(d.generation == n.generation || reflect.DeepEqual(d.definition().Spec, c.Spec))
}

func condition(c *apiextensionsv1.CustomResourceDefinition, typ apiextensionsv1.CustomResourceDefinitionConditionType) bool {
	return slices.ContainsFunc(c.Status.Conditions, func(x apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return x.Type == typ && x.Status == apiextensionsv1.ConditionTrue
	})
}

func established(c *apiextensionsv1.CustomResourceDefinition) bool {
	return condition(c, apiextensionsv1.Established)
}

func terminating(c *apiextensionsv1.CustomResourceDefinition) bool {
	return c.DeletionTimestamp != nil || condition(c, apiextensionsv1.Terminating)
}

// names are the accepted names; those that are asked for until any are.
func names(c *apiextensionsv1.CustomResourceDefinition) apiextensionsv1.CustomResourceDefinitionNames {
	n := *c.Status.AcceptedNames.DeepCopy()
	if n.Plural == "" {
		n.Plural = c.Spec.Names.Plural
	}
	if n.Kind == "" {
		n.Kind = c.Spec.Names.Kind
	}
	if n.ListKind == "" {
		n.ListKind = n.Kind + "List"
	}
	return n
}

// definition is the newest state of the definition.
func (d *Definition) definition() *apiextensionsv1.CustomResourceDefinition {
	return d.item.Load().Object().(*apiextensionsv1.CustomResourceDefinition)
}

// add makes the resource of one version.
func (d *Definition) add(c *apiextensionsv1.CustomResourceDefinition, i int) {
	spec := &c.Spec.Versions[i]
	v := &version{def: d, at: i, name: spec.Name}
	if s := spec.Subresources; s != nil {
		v.status = s.Status != nil
		if s.Scale != nil {
			v.scale = &scale{want: newPath(s.Scale.SpecReplicasPath), have: newPath(s.Scale.StatusReplicasPath)}
			if p := s.Scale.LabelSelectorPath; p != nil && *p != "" {
				v.scale.selector = newPath(*p)
			}
		}
	}
	v.res = v.resource(c, spec)
	v.head = head(v.res.GroupVersion().String(), v.res.Kind)
	d.versions = append(d.versions, v)
	d.Family.Versions = append(d.Family.Versions, v.res)
	if spec.Storage {
		d.Family.Storage = v.res
	}
	if spec.Served && d.served {
		d.Family.Served = append(d.Family.Served, v.res)
	}
}

// inherit takes over what is compiled of schemas that have not changed.
func (d *Definition) inherit(before *Definition) {
	for _, v := range d.versions {
		for _, w := range before.versions {
			w.mu.Lock()
			s := w.shape
			w.mu.Unlock()
			if w.name == v.name && s != nil && v.fingerprint() == w.fingerprint() {
				v.shape = s
			}
		}
	}
}

// props is the version's schema as the definition has it; nil if it has none.
func (v *version) props() (*apiextensionsv1.JSONSchemaProps, bool) {
	c := v.def.definition()
	if v.at >= len(c.Spec.Versions) || c.Spec.Versions[v.at].Schema == nil {
		return nil, c.Spec.PreserveUnknownFields
	}
	return c.Spec.Versions[v.at].Schema.OpenAPIV3Schema, c.Spec.PreserveUnknownFields
}

func (v *version) fingerprint() uint64 {
	if n := v.print.Load(); n != 0 {
		return n
	}
	n := fingerprint(v.props())
	v.print.Store(n)
	return n
}

// compiled is the version's schema, compiled on first use. Another version with
// the same schema lends its own. A schema that cannot be compiled, which the
// definition's validation prevents, is an error of every use.
func (v *version) compiled() (*shape, error) {
	v.mu.Lock()
	s := v.shape
	v.mu.Unlock()
	if s != nil {
		return s, nil
	}
	if s = v.borrowed(); s == nil {
		var err error
		if s, err = compile(v.props()); err != nil {
			return nil, fmt.Errorf("%s %s: %w", v.def.Name, v.name, err)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.shape == nil {
		v.shape = s
	}
	return v.shape, nil
}

func (v *version) borrowed() *shape {
	for _, w := range v.def.versions {
		if w == v || w.fingerprint() != v.fingerprint() {
			continue
		}
		w.mu.Lock()
		s := w.shape
		w.mu.Unlock()
		if s != nil {
			return s
		}
	}
	return nil
}

// must is compiled for those who cannot say that it failed.
func (v *version) must() *shape {
	s, err := v.compiled()
	if err != nil {
		panic(err)
	}
	return s
}

// prune leaves out of an object what its version's schema does not know.
func (o *Object) prune(how reading) ([]string, error) {
	s, err := o.of.compiled()
	if err != nil {
		return nil, err
	}
	return s.prune(o.Fields, how)
}
