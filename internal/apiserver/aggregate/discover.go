package aggregate

import (
	"context"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
)

const acceptGroups = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList," +
	"application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"

// discover asks the server what it serves, unless it has done so lately.
func (b *backend) discover(ctx context.Context) {
	old := b.version()
	stale := old.Discovery.Freshness == discoveryv2.DiscoveryFreshnessStale
	if !stale && time.Since(b.fetched) < b.a.Refresh {
		return
	}
	d, err := b.discovery(ctx, old.Discovery)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		b.a.Log.Info("An aggregated API server does not say what it serves", "name", b.name, "err", err)
		d = old.Discovery
		d.Freshness = discoveryv2.DiscoveryFreshnessStale
	} else {
		b.fetched = time.Now()
		d.Version, d.Freshness = b.gv.Version, discoveryv2.DiscoveryFreshnessCurrent
	}
	openapi := b.openapi3(ctx, old.OpenAPI)
	if openapi != old.OpenAPI || !equality.Semantic.DeepEqual(d, old.Discovery) {
		b.learned(b.versionWith(d, openapi))
	}
}

// discovery fetches what the version has: from the aggregated document if the
// server makes one, else from the version's own. Last is what it had before,
// the answer if nothing has changed.
func (b *backend) discovery(ctx context.Context, last discoveryv2.APIVersionDiscovery) (d discoveryv2.APIVersionDiscovery, err error) {
	resp, body, err := b.fetch(ctx, "/apis", acceptGroups, b.tag)
	if err != nil {
		return d, fmt.Errorf("get /apis: %w", err)
	}
	if resp.StatusCode == http.StatusNotModified && b.tag != "" {
		return last, nil
	}
	b.tag = ""
	if resp.StatusCode != http.StatusOK || !isGroups(resp.Header.Get("Content-Type")) {
		return b.oldDiscovery(ctx)
	}
	var l discoveryv2.APIGroupDiscoveryList
	if err := json.Unmarshal(body, &l); err != nil {
		return d, fmt.Errorf("read what it answers at /apis: %w", err)
	}
	for _, g := range l.Items {
		for _, v := range g.Versions {
			if g.Name == b.gv.Group && v.Version == b.gv.Version {
				b.tag = resp.Header.Get("Etag")
				complete(v.Resources)
				return v, nil
			}
		}
	}
	return d, nil // it does not have the version: nothing is in it
}

// isGroups says whether a media type is that of aggregated discovery.
func isGroups(contentType string) bool {
	typ, p, err := mime.ParseMediaType(contentType)
	return err == nil && typ == api.MediaJSON && p["as"] == "APIGroupDiscoveryList" && p["g"] == "apidiscovery.k8s.io" &&
		(p["v"] == "v2" || p["v"] == "v2beta1")
}

// complete gives every resource a kind, be it an empty one: some clients rely on it.
func complete(rs []discoveryv2.APIResourceDiscovery) {
	for i := range rs {
		if rs[i].ResponseKind == nil {
			rs[i].ResponseKind = &metav1.GroupVersionKind{}
		}
		for j := range rs[i].Subresources {
			if s := &rs[i].Subresources[j]; s.ResponseKind == nil {
				s.ResponseKind = &metav1.GroupVersionKind{}
			}
		}
	}
}

func (b *backend) oldDiscovery(ctx context.Context) (d discoveryv2.APIVersionDiscovery, err error) {
	resp, body, err := b.fetch(ctx, b.path(), "application/json", "")
	if err != nil {
		return d, fmt.Errorf("get %s: %w", b.path(), err)
	}
	if resp.StatusCode != http.StatusOK {
		return d, fmt.Errorf("get %s: status %d", b.path(), resp.StatusCode)
	}
	var l metav1.APIResourceList
	if err := json.Unmarshal(body, &l); err != nil {
		return d, fmt.Errorf("read what it answers at %s: %w", b.path(), err)
	}
	d.Resources = b.fromOld(l.APIResources)
	return d, nil
}

// fromOld turns a list of resources and subresources into resources that have
// subresources.
func (b *backend) fromOld(list []metav1.APIResource) (out []discoveryv2.APIResourceDiscovery) {
	at := map[string]int{}
	of := func(r metav1.APIResource, name string) *discoveryv2.APIResourceDiscovery {
		i, ok := at[name]
		if !ok {
			i = len(out)
			at[name] = i
			d := discoveryv2.APIResourceDiscovery{Resource: name, ResponseKind: &metav1.GroupVersionKind{}, Scope: discoveryv2.ScopeCluster}
			if r.Namespaced {
				d.Scope = discoveryv2.ScopeNamespace
			}
			out = append(out, d)
		}
		return &out[i]
	}
	for _, r := range list {
		kind := &metav1.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
		if r.Group == "" && r.Version == "" {
			kind.Group, kind.Version = b.gv.Group, b.gv.Version
		} else if r.Version == "" {
			kind.Version = b.gv.Version
		}
		name, sub, isSub := strings.Cut(r.Name, "/")
		d := of(r, name)
		if isSub {
			d.Subresources = append(d.Subresources, discoveryv2.APISubresourceDiscovery{Subresource: sub, ResponseKind: kind, Verbs: r.Verbs})
			continue
		}
		d.ResponseKind, d.SingularResource, d.Verbs, d.ShortNames, d.Categories = kind, r.SingularName, r.Verbs, r.ShortNames, r.Categories
	}
	slices.SortStableFunc(out, func(x, y discoveryv2.APIResourceDiscovery) int { return strings.Compare(x.Resource, y.Resource) })
	return out
}

// openapi3 asks for the hash of the version's OpenAPI v3 document. It is the last
// known one if the server cannot say, and empty if it has none.
func (b *backend) openapi3(ctx context.Context, last string) string {
	resp, body, err := b.fetch(ctx, "/openapi/v3", "application/json", "")
	if err != nil || resp.StatusCode >= 500 {
		return last
	}
	var doc struct {
		Paths map[string]struct {
			URL string `json:"serverRelativeURL"`
		} `json:"paths"`
	}
	if resp.StatusCode != http.StatusOK || json.Unmarshal(body, &doc) != nil {
		return ""
	}
	p, ok := doc.Paths[strings.TrimPrefix(b.path(), "/")]
	u, err := url.Parse(p.URL)
	if !ok || err != nil || u.Path != "/openapi/v3"+b.path() {
		return ""
	}
	return u.Query().Get("hash")
}
