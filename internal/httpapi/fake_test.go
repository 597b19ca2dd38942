package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	kwatch "k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
	"proa/internal/kinds"
)

var schemaNone schema.GroupResource

// shelf is a small Handler: objects in a map, watches from a log. It has no
// opinion on anything but names, so that what a test sees is the wire's.
type shelf struct {
	mu    sync.Mutex
	rev   int64
	items map[string]*api.Item
	log   []api.Event
	wake  chan struct{}
	last  *api.Request
}

func newShelf() *shelf {
	return &shelf{items: map[string]*api.Item{}, wake: make(chan struct{})}
}

func key(r *api.Resource, ns, name string) string { return r.Resource + "/" + ns + "/" + name }

func (s *shelf) Handle(ctx context.Context, r *api.Request) (*api.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = r
	if r.Path != "" {
		if r.Path == "/denied" {
			return nil, apierrors.NewForbidden(schemaNone, "", fmt.Errorf("no"))
		}
		return nil, apierrors.NewGenericServerResponse(404, "get", schemaNone, "", "", 0, false)
	}
	if s := r.Resource.Subs[r.Sub]; s != nil && s.Connect {
		return &api.Response{Connect: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			fmt.Fprintf(w, "stream of %s %s", r.Name, req.URL.RawQuery)
		})}, nil
	}
	old := s.items[key(r.Resource, r.Namespace, r.Name)]
	if r.Name != "" && old == nil && r.Verb != api.Create {
		return nil, apierrors.NewNotFound(r.Resource.GroupResource(), r.Name)
	}
	switch r.Verb {
	case api.Get:
		return &api.Response{Item: old}, nil
	case api.List:
		return &api.Response{List: s.list(r)}, nil
	case api.Watch:
		return &api.Response{Events: s.watch(ctx, r)}, nil
	case api.Create, api.Update:
		o, err := typed(r)
		if err != nil {
			return nil, err
		}
		if r.Verb == api.Create && s.items[key(r.Resource, r.Namespace, o.GetName())] != nil {
			return nil, apierrors.NewAlreadyExists(r.Resource.GroupResource(), o.GetName())
		}
		o.SetNamespace(r.Namespace)
		typ := kwatch.Added
		if r.Verb == api.Update {
			typ = kwatch.Modified
		}
		return &api.Response{Item: s.put(r.Resource, o, typ), Warnings: []string{`say "hi"`}}, nil
	case api.Delete:
		s.rev++
		delete(s.items, key(r.Resource, r.Namespace, r.Name))
		s.log = append(s.log, api.Event{Type: kwatch.Deleted, Item: old.At(s.rev), Revision: s.rev})
		close(s.wake)
		s.wake = make(chan struct{})
		return &api.Response{Status: &metav1.Status{Status: metav1.StatusSuccess}}, nil
	}
	return nil, apierrors.NewMethodNotSupported(r.Resource.GroupResource(), string(r.Verb))
}

func (s *shelf) put(r *api.Resource, o api.Object, typ kwatch.EventType) *api.Item {
	s.rev++
	o.SetResourceVersion("")
	body, err := r.Codec.Encode(o)
	if err != nil {
		panic(err)
	}
	item := api.NewItem(r, s.rev, body, nil)
	s.items[key(r, o.GetNamespace(), o.GetName())] = item
	s.log = append(s.log, api.Event{Type: typ, Item: item, Revision: s.rev})
	close(s.wake)
	s.wake = make(chan struct{})
	return item
}

func (s *shelf) list(r *api.Request) *api.ItemList {
	l := &api.ItemList{Revision: s.rev}
	for _, i := range s.items {
		if i.Resource == r.Resource && (r.Namespace == "" || i.Object().GetNamespace() == r.Namespace) && r.Select.Matches(r.Resource, i.Object()) {
			l.Items = append(l.Items, i)
		}
	}
	slices.SortFunc(l.Items, func(a, b *api.Item) int { return strings.Compare(a.Object().GetName(), b.Object().GetName()) })
	return l
}

func (s *shelf) watch(ctx context.Context, r *api.Request) func(func(api.Event, error) bool) {
	var from int64
	fmt.Sscan(r.At.ResourceVersion, &from)
	bookmarks := r.At.Bookmarks
	return func(yield func(api.Event, error) bool) {
		if from == 666 {
			yield(api.Event{}, apierrors.NewResourceExpired("too old resource version: 666"))
			return
		}
		for at := 0; ; {
			s.mu.Lock()
			events, wake, now := s.log[at:], s.wake, s.rev
			s.mu.Unlock()
			at += len(events)
			for i, e := range events {
				if e.Revision > from && e.Item.Resource == r.Resource && r.Select.Matches(r.Resource, e.Item.Object()) {
					e.More = i < len(events)-1
					if !yield(e, nil) {
						return
					}
				}
			}
			if bookmarks {
				bookmarks = false
				if !yield(api.Event{Type: kwatch.Bookmark, Revision: now, InitialEnd: true}, nil) {
					return
				}
			}
			select {
			case <-wake:
			case <-ctx.Done():
				return
			}
		}
	}
}

func typed(r *api.Request) (api.Object, error) {
	if r.Object != nil {
		return r.Object, nil
	}
	o := r.Resource.New()
	var err error
	switch r.ContentType {
	case api.MediaProtobuf:
		var u runtime.Unknown
		if err = unwrap(r.Body, &u); err == nil {
			err = o.(interface{ Unmarshal([]byte) error }).Unmarshal(u.Raw)
		}
	case api.MediaYAML:
		err = yaml.Unmarshal(r.Body, o)
	default:
		err = json.Unmarshal(r.Body, o)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return o, nil
}

var builtin = sync.OnceValue(func() []*api.Resource {
	var out []*api.Resource
	for _, d := range kinds.All {
		out = append(out, d.Def())
	}
	return out
})

// byName knows users by a header, as nothing real may.
func byName(req *http.Request) (api.User, bool, error) {
	name := req.Header.Get("X-Test-User")
	return api.User{Name: name, Groups: []string{api.GroupAuthenticated}}, name != "", nil
}

// rig is a Handler on the wire, on loopback with TLS and HTTP/2.
type rig struct {
	*httptest.Server
	t *testing.T
}

type asUser struct{ http.RoundTripper }

func (a asUser) RoundTrip(req *http.Request) (*http.Response, error) {
	if u, ok := UserOf(req.Context()); ok {
		req.Header.Set("X-Test-User", u.Name)
	} else if req.Header.Get("X-Test-User") == "" {
		req.Header.Set("X-Test-User", "tester")
	}
	return a.RoundTripper.RoundTrip(req)
}

func serve(t *testing.T, h api.Handler, c Config) *rig {
	t.Helper()
	if c.Groups == nil {
		c.Groups = grouped
	}
	if c.Authenticate == nil {
		c.Authenticate = byName
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Version = version.Info{Major: "1", Minor: "37", GitVersion: "v1.37.2+proa"}
	s := httptest.NewUnstartedServer(nil)
	s.Config = Server("", nil, Serve(h, c))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return &rig{s, t}
}

// client is an HTTP client that the server knows.
func (r *rig) client() *http.Client {
	c := *r.Client()
	c.Transport = asUser{c.Transport}
	return &c
}

func (r *rig) dial() api.Handler { return Dial(r.URL, r.client()) }

func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}}
}

var grouped = sync.OnceValue(func() []*api.Group { return api.Grouped(builtin()) })
