package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
)

// A place is one object, as a person named it and as the server knows it.
type place struct {
	Group, Version, Resource string
	Namespace, Name          string // no namespace if the kind has none
}

// Path is the object's URL path.
func (p place) Path() string { return p.Parent() + "/" + url.PathEscape(p.Name) }

// Parent is the path of the collection that the object is in.
func (p place) Parent() string {
	r := api.Resource{GroupVersionResource: schema.GroupVersionResource{Group: p.Group, Version: p.Version, Resource: p.Resource}}
	return r.Path(url.PathEscape(p.Namespace))
}

func (p place) String() string {
	out := p.Resource
	if p.Group != "" {
		out += "." + p.Group
	}
	return out + "/" + p.Name
}

// where says in which namespace, if the kind has them.
func (p place) where() string {
	if p.Namespace == "" {
		return ""
	}
	return " in namespace " + p.Namespace
}

// object finds out which object TYPE/NAME or TYPE NAME are.
func (r *remote) object(ctx context.Context, command string, args []string) (place, error) {
	wrong := usageError(fmt.Sprintf("%s takes TYPE/NAME or TYPE NAME, such as deploy/web; got %q", command, strings.Join(args, " ")))
	if len(args) == 1 {
		typ, name, ok := strings.Cut(args[0], "/")
		if !ok {
			return place{}, wrong
		}
		args = []string{typ, name}
	}
	if len(args) != 2 || args[0] == "" || args[1] == "" || strings.Contains(args[1], "/") {
		return place{}, wrong
	}
	p, err := r.resolve(ctx, args[0])
	if err != nil {
		return place{}, err
	}
	p.Name = args[1]
	return p, nil
}

// resolve finds the resource that a type means, as kubectl does: by its plural,
// singular or kind, or else by a short name, with the group or the version and
// the group after a dot if that is wanted.
func (r *remote) resolve(ctx context.Context, typ string) (place, error) {
	const accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	var groups []discoveryv2.APIGroupDiscovery
	for _, path := range []string{"/api", "/apis"} {
		b, err := r.do(ctx, http.MethodGet, path, nil, accept, nil)
		if err != nil {
			return place{}, fmt.Errorf("ask what there is: %w", err)
		}
		var list discoveryv2.APIGroupDiscoveryList
		if err := json.Unmarshal(b, &list); err != nil {
			return place{}, fmt.Errorf("read what there is: %w", err)
		}
		groups = append(groups, list.Items...)
	}
	name, rest, _ := strings.Cut(strings.ToLower(typ), ".")
	for _, short := range []bool{false, true} {
		for _, g := range groups {
			for _, v := range g.Versions {
				if rest != "" && rest != g.Name && rest != v.Version+"."+g.Name && rest != v.Version {
					continue
				}
				for _, res := range v.Resources {
					if !means(&res, name, short) {
						continue
					}
					p := place{Group: g.Name, Version: v.Version, Resource: res.Resource}
					if res.Scope == discoveryv2.ScopeNamespace {
						p.Namespace = r.namespace
					}
					return p, nil
				}
			}
		}
	}
	return place{}, fmt.Errorf("the server doesn't have a resource type %q", typ)
}

// means says whether a name in lower case is one of a resource's.
func means(res *discoveryv2.APIResourceDiscovery, name string, short bool) bool {
	if !slices.Contains(res.Verbs, "get") {
		return false
	}
	if short {
		return slices.Contains(res.ShortNames, name)
	}
	return name == res.Resource || name == res.SingularResource || res.ResponseKind != nil && name == strings.ToLower(res.ResponseKind.Kind)
}
