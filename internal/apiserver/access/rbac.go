package access

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/kinds/rbac"
)

// RBAC evaluates roles and bindings. It follows them on a server and answers
// from memory. The zero value is not usable: see [NewRBAC].
type RBAC struct {
	// All is who answers access reviews; the RBAC alone if nil.
	All Authorizer

	ready chan struct{}

	mu              sync.Mutex
	roles           map[string][]rbacv1.PolicyRule // "ns/name", cluster roles "/name"
	roleBindings    map[string]*rbacv1.RoleBinding
	clusterBindings map[string]*rbacv1.ClusterRoleBinding
	index           *index // nil when something changed
}

// A grant is a set of rules given to a subject.
type grant struct {
	rules []rbacv1.PolicyRule
	by    string // the binding, in words
	lacks string // the role that is not there, in words
}

// An index finds grants by subject ("u:name", "g:group"), cluster-wide and per namespace.
type index struct {
	cluster   map[string][]grant
	namespace map[string]map[string][]grant
}

// NewRBAC returns an evaluator that knows nothing until it follows a server.
func NewRBAC() *RBAC {
	return &RBAC{
		ready:           make(chan struct{}),
		roles:           map[string][]rbacv1.PolicyRule{},
		roleBindings:    map[string]*rbacv1.RoleBinding{},
		clusterBindings: map[string]*rbacv1.ClusterRoleBinding{},
	}
}

// Follow keeps up with the roles and bindings of a server until ctx ends, in
// goroutines of its own. Failures go to fail. It is called once.
func (r *RBAC) Follow(ctx context.Context, h api.Handler, fail func(error)) {
	var first sync.WaitGroup
	first.Add(4)
	go follow(ctx, h, rbac.Role, r, &first, fail,
		func(o *rbacv1.Role, gone bool) { set(r.roles, key(o), o.Rules, gone) })
	go follow(ctx, h, rbac.ClusterRole, r, &first, fail,
		func(o *rbacv1.ClusterRole, gone bool) { set(r.roles, key(o), o.Rules, gone) })
	go follow(ctx, h, rbac.RoleBinding, r, &first, fail,
		func(o *rbacv1.RoleBinding, gone bool) { set(r.roleBindings, key(o), o, gone) })
	go follow(ctx, h, rbac.ClusterRoleBinding, r, &first, fail,
		func(o *rbacv1.ClusterRoleBinding, gone bool) { set(r.clusterBindings, key(o), o, gone) })
	go func() { first.Wait(); close(r.ready) }()
}

// Ready is closed once every role and binding has been read. Before, decisions
// know only some of them.
func (r *RBAC) Ready() <-chan struct{} { return r.ready }

func key(o api.Object) string { return o.GetNamespace() + "/" + o.GetName() }

func set[V any](m map[string]V, k string, v V, gone bool) {
	if gone {
		delete(m, k)
	} else {
		m[k] = v
	}
}

func follow[T api.Object](ctx context.Context, h api.Handler, k *api.Kind[T], r *RBAC, first *sync.WaitGroup,
	fail func(error), take func(o T, gone bool)) {
	known := map[string]T{}
	told := false
	for c := range k.Follow(ctx, h, "", api.Selectors{}, fail) {
		r.mu.Lock()
		switch {
		case c.Reset:
			for _, o := range known {
				take(o, true)
			}
			clear(known)
			for _, o := range c.All {
				known[key(o)] = o
				take(o, false)
			}
		case c.Type == watch.Bookmark:
		default:
			gone := c.Type == watch.Deleted
			set(known, key(c.Object), c.Object, gone)
			take(c.Object, gone)
		}
		r.index = nil
		r.mu.Unlock()
		if !told {
			told = true
			first.Done()
		}
	}
	if !told {
		first.Done()
	}
}

// current returns the index, made anew if something changed.
func (r *RBAC) current() *index {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.index != nil {
		return r.index
	}
	i := &index{cluster: map[string][]grant{}, namespace: map[string]map[string][]grant{}}
	for _, b := range r.clusterBindings {
		g := r.grant("/"+b.RoleRef.Name, b.RoleRef)
		for _, s := range b.Subjects {
			g.by = fmt.Sprintf("ClusterRoleBinding %q of %s %q to %s", b.Name, b.RoleRef.Kind, b.RoleRef.Name, inWordsOf(s, ""))
			add(i.cluster, s, "", g)
		}
	}
	for _, b := range r.roleBindings {
		from := "/" + b.RoleRef.Name
		if b.RoleRef.Kind == "Role" {
			from = b.Namespace + from
		}
		m := i.namespace[b.Namespace]
		if m == nil {
			m = map[string][]grant{}
			i.namespace[b.Namespace] = m
		}
		g := r.grant(from, b.RoleRef)
		for _, s := range b.Subjects {
			g.by = fmt.Sprintf("RoleBinding %q of %s %q to %s", b.Name+"/"+b.Namespace, b.RoleRef.Kind, b.RoleRef.Name, inWordsOf(s, b.Namespace))
			add(m, s, b.Namespace, g)
		}
	}
	r.index = i
	return i
}

func (r *RBAC) grant(key string, ref rbacv1.RoleRef) grant {
	rules, ok := r.roles[key]
	g := grant{rules: rules}
	if !ok {
		g.lacks = fmt.Sprintf("%s.%s %q not found", strings.ToLower(ref.Kind), rbacv1.GroupName, ref.Name)
	}
	return g
}

func inWordsOf(s rbacv1.Subject, ns string) string {
	if s.Kind != rbacv1.ServiceAccountKind {
		return fmt.Sprintf("%s %q", s.Kind, s.Name)
	}
	if s.Namespace != "" {
		ns = s.Namespace
	}
	return fmt.Sprintf("%s %q", s.Kind, s.Name+"/"+ns)
}

func add(m map[string][]grant, s rbacv1.Subject, ns string, g grant) {
	if len(g.rules) == 0 && g.lacks == "" {
		return
	}
	var k string
	switch s.Kind {
	case rbacv1.UserKind:
		k = "u:" + s.Name
	case rbacv1.GroupKind:
		k = "g:" + s.Name
	case rbacv1.ServiceAccountKind:
		if s.Namespace != "" {
			ns = s.Namespace
		}
		k = "u:system:serviceaccount:" + ns + ":" + s.Name
	default:
		return
	}
	m[k] = append(m[k], g)
}

// grants calls f with everything the user is granted in ns (cluster-wide grants
// included) until f returns false.
func (i *index) grants(u api.User, ns string, f func(grant) bool) {
	maps := []map[string][]grant{i.cluster}
	if ns != "" {
		maps = append(maps, i.namespace[ns])
	}
	for _, m := range maps {
		if !each(m["u:"+u.Name], f) {
			return
		}
		for _, g := range u.Groups {
			if !each(m["g:"+g], f) {
				return
			}
		}
	}
}

func each(gs []grant, f func(grant) bool) bool {
	for _, g := range gs {
		if !f(g) {
			return false
		}
	}
	return true
}

// Authorize implements [Authorizer]. Members of system:masters may do everything.
func (r *RBAC) Authorize(_ context.Context, a Attributes) (allowed bool, reason string) {
	if a.User.In(api.GroupMasters) {
		return true, ""
	}
	var missing []string
	r.current().grants(a.User, a.Namespace, func(g grant) bool {
		for i := range g.rules {
			if allows(&g.rules[i], &a) {
				allowed, reason = true, "RBAC: allowed by "+g.by
				return false
			}
		}
		if g.lacks != "" && !slices.Contains(missing, g.lacks) {
			missing = append(missing, g.lacks)
		}
		return true
	})
	switch {
	case allowed || len(missing) == 0:
	case len(missing) == 1:
		reason = "RBAC: " + missing[0]
	default:
		slices.Sort(missing)
		reason = "RBAC: [" + strings.Join(missing, ", ") + "]"
	}
	return allowed, reason
}

// Rules returns every rule that applies to the user in ns.
func (r *RBAC) Rules(u api.User, ns string) (rules []rbacv1.PolicyRule) {
	if u.In(api.GroupMasters) {
		return append(rules,
			rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
			rbacv1.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}})
	}
	r.current().grants(u, ns, func(g grant) bool {
		rules = append(rules, g.rules...)
		return true
	})
	return rules
}

func allows(rule *rbacv1.PolicyRule, a *Attributes) bool {
	if !has(rule.Verbs, a.Verb) {
		return false
	}
	if a.Resource == "" {
		return slices.ContainsFunc(rule.NonResourceURLs, func(u string) bool {
			prefix, open := strings.CutSuffix(u, "*")
			return u == a.Path || open && strings.HasPrefix(a.Path, prefix)
		})
	}
	return has(rule.APIGroups, a.Group) && hasResource(rule.Resources, a.Resource, a.Sub) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.Name))
}

func has(list []string, s string) bool {
	return slices.ContainsFunc(list, func(x string) bool { return x == "*" || x == s })
}

func hasResource(list []string, resource, sub string) bool {
	for _, x := range list {
		if x == "*" {
			return true
		}
		r, s, nested := strings.Cut(x, "/")
		if s == sub && nested == (sub != "") && (r == resource || r == "*" && nested) {
			return true
		}
	}
	return false
}
