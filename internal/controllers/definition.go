package controllers

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/control"
	"proa/internal/kinds/apiextensions"
)

// Definitions gives custom resource definitions their names, and so establishes
// them: the first to ask for a name of a group has it, and kinds that are built
// in have theirs before any other. A definition that waits for a name gets it
// when it is free.
//
// A group is one key, so that no two definitions of it are judged at once. What
// is kept of a definition are its names: schemas are big.
func Definitions(kinds control.Kinds) *control.Sweep {
	d := &definitions{kinds: catalog{kinds: kinds}, groups: map[string]map[string]*named{}}
	return &control.Sweep{
		Name: "customresourcedefinition", Kinds: control.Fixed(apiextensions.CustomResourceDefinition.Def()), Slim: true,
		Writes: []api.Definition{apiextensions.CustomResourceDefinition}, Changed: d.changed, Reconcile: d.reconcile,
	}
}

type definitions struct {
	kinds   catalog
	builtin sync.Map // group → names

	mu     sync.Mutex
	groups map[string]map[string]*named // by group and name
}

// named is what is known of a definition.
type named struct {
	revision int64 // of the state that it is known from
	accepted apiextensionsv1.CustomResourceDefinitionNames
	waits    bool // for names that others have
	open     bool // it is to be looked at
}

// groupOf is the group of a definition by its name, which is plural and group.
func groupOf(name string) string {
	_, group, _ := strings.Cut(name, ".")
	return group
}

// changed notes what a definition has become, and what it makes of others: names
// that it lets go may be what they wait for.
func (d *definitions) changed(c *control.Cluster, kind *api.Resource, old, new api.Object) []control.Key {
	if new == nil {
		new = old
	}
	group, name := groupOf(new.GetName()), new.GetName()
	d.mu.Lock()
	defer d.mu.Unlock()
	members := d.groups[group]
	if members == nil {
		members = map[string]*named{}
		d.groups[group] = members
	}
	freed := false
	if _, there := c.Find(kind, "", name); !there {
		freed = members[name] != nil
		delete(members, name)
		if len(members) == 0 {
			delete(d.groups, group)
		}
	} else if def, whole := new.(*apiextensionsv1.CustomResourceDefinition); whole {
		m := members[name]
		if m == nil {
			m = &named{}
			members[name] = m
		}
		freed = m.becomes(def)
	}
	for _, m := range members {
		m.open = m.open || freed && m.waits
	}
	return []control.Key{{Name: group}}
}

// becomes notes the state of a definition, unless a later one is known, and says
// whether it has let go of names.
func (m *named) becomes(d *apiextensionsv1.CustomResourceDefinition) (freed bool) {
	rev, _ := strconv.ParseInt(d.ResourceVersion, 10, 64)
	if rev <= m.revision {
		return false
	}
	freed = m.revision > 0 && !equality.Semantic.DeepEqual(m.accepted, d.Status.AcceptedNames)
	c := apiextensions.Condition(d, apiextensionsv1.NamesAccepted)
	m.revision, m.accepted = rev, *d.Status.AcceptedNames.DeepCopy()
	m.waits = c != nil && c.Status == apiextensionsv1.ConditionFalse
	m.open = d.DeletionTimestamp == nil && !settled(d)
	return freed
}

// settled says whether nothing is left to decide of a definition, whatever others do.
func settled(d *apiextensionsv1.CustomResourceDefinition) bool {
	s, reason, _ := approved(d)
	c := apiextensions.Condition(d, apiextensionsv1.KubernetesAPIApprovalPolicyConformant)
	return apiextensions.True(d, apiextensionsv1.Established) && apiextensions.True(d, apiextensionsv1.NamesAccepted) &&
		equality.Semantic.DeepEqual(d.Spec.Names, d.Status.AcceptedNames) && (s == "" || c != nil && c.Reason == reason)
}

// next is a definition of a group that is to be looked at, and the names that
// the others have; false if there is none.
func (d *definitions) next(group string) (name string, taken names, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	members := d.groups[group]
	for _, name = range slices.Sorted(maps.Keys(members)) {
		if !members[name].open {
			continue
		}
		members[name].open = false
		taken = d.own(group)
		for other, m := range members {
			if other != name {
				taken.accepted(&m.accepted)
			}
		}
		return name, taken, true
	}
	return "", names{}, false
}

// again marks a definition to be looked at once more.
func (d *definitions) again(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m := d.groups[groupOf(name)][name]; m != nil {
		m.open = true
	}
}

// own are the names of the kinds of a group that are built in.
func (d *definitions) own(group string) (n names) {
	list, ok := d.builtin.Load(group)
	if !ok {
		var mine []*api.Resource
		all, _ := d.kinds.all()
		for _, r := range all {
			if r.Family == nil && r.Group == group {
				mine = append(mine, r)
			}
		}
		list, _ = d.builtin.LoadOrStore(group, mine)
	}
	for _, r := range list.([]*api.Resource) {
		n.add(r.Resource, r.Singular, r.Short, r.Kind, r.ListKind)
	}
	return n
}

// reconcile settles the open definitions of a group, one after the other. While
// nobody knows whether one got its names, no other is judged.
func (d *definitions) reconcile(ctx context.Context, c *control.Cluster, key control.Key) (time.Duration, error) {
	var failed []string
	var errs []error
	for {
		name, taken, ok := d.next(key.Name)
		if !ok {
			break
		}
		err := settle(ctx, c, name, taken)
		if err == nil {
			continue
		}
		failed, errs = append(failed, name), append(errs, err)
		if !final(err) && !apierrors.IsConflict(err) {
			break
		}
	}
	for _, name := range failed {
		d.again(name)
	}
	if len(errs) == 1 {
		return 0, errs[0]
	}
	return 0, errors.Join(errs...)
}

// settle writes the status that a definition should have. Its names are those of
// its last state, which nobody else may have written since.
func settle(ctx context.Context, c *control.Cluster, name string, taken names) error {
	k := apiextensions.CustomResourceDefinition
	def, err := k.Get(ctx, c, "", name)
	if apierrors.IsNotFound(err) || err == nil && def.DeletionTimestamp != nil {
		return nil
	}
	if err != nil {
		return err
	}
	status := decideStatus(def, taken, metav1.NewTime(c.Now()).Rfc3339Copy())
	if equality.Semantic.DeepEqual(def.Status, status) {
		return nil
	}
	next := *def // the spec is shared: a write of the status leaves it alone
	next.Status = status
	_, err = k.UpdateStatus(ctx, c, &next)
	return ignoreNotFound(err)
}
