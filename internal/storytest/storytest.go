// Package storytest is what tests share that play stories: txtar scripts on a real
// API server, each with what drives the cluster in the same process or on the
// other side of the wire.
package storytest

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/httpapi"
	"proa/internal/kinds/core"
)

// Patience is how long a story waits for what is to come true. Only one that fails
// takes so long.
const Patience = 20 * time.Second

// Each calls f for every script in a folder, in a subtest of the script's name.
func Each(t *testing.T, dir string, f func(t *testing.T, a *txtar.Archive)) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if len(files) == 0 {
		t.Fatal("no scripts")
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			f(t, a)
		})
	}
}

// Until asks again and again until ok, as long as there is patience, and says whether
// it ever was.
func Until(t testing.TB, patience time.Duration, ok func() bool) bool {
	t.Helper()
	const pause = 2 * time.Millisecond
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		if ok() {
			return true
		}
		if time.Now().After(end) || t.Context().Err() != nil {
			return false
		}
	}
}

// A Stage is a server, and what scripts do to its objects.
type Stage struct {
	T      testing.TB
	Server *apiserver.Server
	Settle func() // lets happen what does so only when it is told to; may be nil
}

// Remote puts the server on the wire until the end of the test, and returns the
// other side of it.
func (s *Stage) Remote() api.Handler {
	srv := httptest.NewUnstartedServer(httpapi.Serve(s.Server, httpapi.Config{
		Groups: s.Server.Groups, Log: slog.New(slog.DiscardHandler),
		Authenticate: func(*http.Request) (api.User, bool, error) {
			return api.User{Name: "test", Groups: []string{api.GroupMasters}}, true, nil
		},
	}))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	s.T.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	h := httpapi.Dial(srv.URL, srv.Client())
	// With a connection there all share it; else each would make one.
	if _, err := core.Namespace.List(s.T.Context(), h, "", api.Selectors{}); err != nil {
		s.T.Fatal(err)
	}
	return h
}

// ByName is the kind of a name, singular or plural; nil if there is none now.
func (s *Stage) ByName(name string) *api.Resource {
	stored, _ := s.Server.Kinds()
	for _, r := range stored {
		if r.Resource == name || r.Singular == name {
			return r
		}
	}
	return nil
}

// Kind is the kind of a name, which may be about to come.
func (s *Stage) Kind(name string) (r *api.Resource) {
	s.T.Helper()
	if !Until(s.T, Patience, func() bool {
		if r = s.ByName(name); r == nil && s.Settle != nil {
			s.Settle()
		}
		return r != nil
	}) {
		s.T.Fatalf("unknown kind %q", name)
	}
	return r
}

// Apply is Write for what the server must take.
func (s *Stage) Apply(doc []byte) api.Object {
	s.T.Helper()
	o, err := s.Write(doc)
	if err != nil {
		s.T.Fatal(err)
	}
	return o
}

// Write creates an object, or merges what is said into the one that is there, as
// kubectl does. A status is put in the place of the old. It returns the object as
// it is stored then, or why the server would not.
func (s *Stage) Write(doc []byte) (api.Object, error) {
	s.T.Helper()
	var head struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Status            *struct{} `json:"status"`
	}
	if err := yaml.Unmarshal(doc, &head); err != nil {
		s.T.Fatal(err)
	}
	r := s.Kind(strings.ToLower(head.Kind))
	ns := head.Namespace
	if r.Scope == api.Namespaced && ns == "" {
		ns = metav1.NamespaceDefault
	}
	obj := r.New()
	if err := yaml.UnmarshalStrict(doc, obj); err != nil {
		s.T.Fatal(err)
	}
	obj.SetNamespace(ns)
	js, err := yaml.YAMLToJSON(doc)
	if err != nil {
		s.T.Fatal(err)
	}
	now, err := s.merge(r, obj, js)
	if err == nil && head.Status != nil {
		now, err = s.writeStatus(api.Untyped(r), now, js)
	}
	return now, err
}

func (s *Stage) merge(r *api.Resource, obj api.Object, js []byte) (api.Object, error) {
	s.T.Helper()
	k, ns, name := api.Untyped(r), obj.GetNamespace(), obj.GetName()
	for {
		old, err := k.Get(s.T.Context(), s.Server, ns, name)
		if apierrors.IsNotFound(err) {
			made, err := k.Create(s.T.Context(), s.Server, obj)
			if err != nil {
				return nil, fmt.Errorf("create %s: %w", name, err)
			}
			return made, nil
		}
		if err != nil {
			return nil, err
		}
		merge := func(old, new []byte) ([]byte, error) { return strategicpatch.StrategicMergePatch(old, new, obj) }
		if r.Family != nil {
			merge = jsonpatch.MergePatch
		}
		merged, err := merge(mustJSON(old), js)
		if err != nil {
			s.T.Fatal(err)
		}
		next := r.New()
		if err := yaml.Unmarshal(merged, next); err != nil {
			s.T.Fatal(err)
		}
		now, err := k.Update(s.T.Context(), s.Server, next)
		if apierrors.IsConflict(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("update %s: %w", name, err)
		}
		return now, nil
	}
}

func (s *Stage) writeStatus(k *api.Kind[api.Object], old api.Object, js []byte) (api.Object, error) {
	s.T.Helper()
	next := k.Def().New()
	if err := yaml.Unmarshal(js, next); err != nil {
		return nil, err
	}
	ns, name := old.GetNamespace(), old.GetName()
	for {
		now := api.Clone(old)
		k.Def().CopyStatus(now, next)
		if !k.Def().Versioned {
			now.SetResourceVersion("")
		}
		now, err := k.UpdateStatus(s.T.Context(), s.Server, now)
		if apierrors.IsConflict(err) {
			if old, err = k.Get(s.T.Context(), s.Server, ns, name); err == nil {
				continue
			}
		}
		if err != nil {
			return nil, fmt.Errorf("status of %s: %w", name, err)
		}
		return now, nil
	}
}

func mustJSON(o api.Object) []byte {
	b, err := yaml.Marshal(o)
	if err == nil {
		b, err = yaml.YAMLToJSON(b)
	}
	if err != nil {
		panic(err)
	}
	return b
}

// Place is what an id like NAMESPACE/NAME, or NAME, says.
func Place(id string) (ns, name string) {
	if ns, name, ok := strings.Cut(id, "/"); ok {
		return ns, name
	}
	return "", id
}

// Delete deletes an object: of a kind, by its id.
func (s *Stage) Delete(kind, id string, o api.Options) {
	s.T.Helper()
	ns, name := Place(id)
	if err := api.Untyped(s.Kind(kind)).Delete(s.T.Context(), s.Server, ns, name, o); err != nil {
		s.T.Fatalf("delete %s %s: %v", kind, id, err)
	}
}

// Untouched checks that nobody changed an object that the server handed out: what
// it holds is still what it stored.
func (s *Stage) Untouched() {
	s.T.Helper()
	stored, _ := s.Server.Kinds()
	for _, r := range stored {
		resp, err := s.Server.Handle(s.T.Context(), &api.Request{Verb: api.List, Resource: r})
		if err != nil {
			s.T.Fatal(err)
		}
		decode := func(body []byte) api.Object {
			o, err := r.Codec.Decode(body)
			if err != nil {
				s.T.Fatal(err)
			}
			return o
		}
		for _, i := range resp.List.Items {
			stored, err := i.Body()
			if err != nil {
				s.T.Fatal(err)
			}
			held, err := r.Codec.Encode(i.Object())
			if err != nil {
				s.T.Fatal(err)
			}
			if !bytes.Equal(stored, held) && !equality.Semantic.DeepEqual(decode(held), decode(stored)) {
				s.T.Errorf("%s %s was changed in place", r.Resource, i.Object().GetName())
			}
		}
	}
}
