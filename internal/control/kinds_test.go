package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// A shelf is Kinds that a test changes.
type shelf struct {
	mu      sync.Mutex
	now     []*api.Resource
	changed chan struct{}
}

func (s *shelf) kinds() ([]*api.Resource, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.now, s.changed
}

func (s *shelf) set(now ...*api.Resource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
}

// A diary notes what a sweep is told.
type diary struct {
	mu    sync.Mutex
	notes []string
}

func (d *diary) add(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notes = append(d.notes, fmt.Sprintf(format, args...))
}

// read returns the notes, sorted, and forgets them.
func (d *diary) read() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	slices.Sort(d.notes)
	out := strings.Join(d.notes, ", ")
	d.notes = nil
	return out
}

// watcher is a sweep that notes what it sees and what it is asked to reconcile.
func watcher(d *diary, kinds Kinds) *Sweep {
	return &Sweep{Name: "watcher", Kinds: kinds, Slim: true,
		Changed: func(_ *Cluster, kind *api.Resource, old, new api.Object) []Key {
			if new == nil {
				d.add("%s %s gone", kind.Resource, old.GetName())
				return nil
			}
			return []Key{{kind, new.GetNamespace(), new.GetName()}}
		},
		Reconcile: func(_ context.Context, c *Cluster, key Key) (time.Duration, error) {
			o, ok := c.Find(key.Kind, key.Namespace, key.Name)
			if !ok {
				return 0, errors.New("not there")
			}
			d.add("%s%s %s %T", key.Kind.Resource, key.Kind.Singular, key.Name, o)
			return 0, nil
		}}
}

func secret(name string, owners ...metav1.OwnerReference) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, OwnerReferences: owners, Labels: map[string]string{"a": "b"}}}
}

// A kind is followed when it comes, goes on when its definition is another, and
// is forgotten when it goes.
func TestKindsComeAndGo(t *testing.T) {
	s, kinds, seen := server(t), &shelf{}, &diary{}
	maps, secrets := *core.ConfigMap.Def(), *core.Secret.Def()
	maps.Singular, secrets.Singular = "1", "1"
	kinds.set(&maps)
	lists := 0
	counted := api.HandlerFunc(func(ctx context.Context, r *api.Request) (*api.Response, error) {
		if r.Verb == api.List && r.Resource.Resource == "secrets" {
			lists++
		}
		return s.Handle(ctx, r)
	})
	w := watcher(seen, kinds.kinds)
	e := New(counted, []Runner{w}, Config{})
	want := func(step, notes string) {
		t.Helper()
		drive(t, e)
		if got := seen.read(); got != notes {
			t.Errorf("%s: %s, want %s", step, got, notes)
		}
	}
	create := func(name string) {
		t.Helper()
		owner := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "o", UID: "owner"}
		if _, err := core.Secret.Create(t.Context(), s, secret(name, owner)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := core.ConfigMap.Create(t.Context(), s, config("a")); err != nil {
		t.Fatal(err)
	}
	create("b")
	want("configmaps alone", "configmaps1 a *v1.PartialObjectMetadata")
	kinds.set(&maps, &secrets)
	want("secrets come", "secrets1 b *v1.PartialObjectMetadata")
	c := e.cluster[e.sweeps[0].cluster.task]
	if d := c.Dependents("owner"); len(d) != 1 || d[0].Kind != &secrets || d[0].Object.GetName() != "b" || d[0].Object.GetLabels() != nil {
		t.Errorf("dependents %+v", d)
	}
	other := secrets
	other.Singular = "2"
	before := e.find(&secrets)
	kinds.set(&maps, &other)
	want("another definition", "")
	if e.find(&other) != before || e.find(&secrets) != before {
		t.Error("a kind is followed anew, though only its definition is another")
	}
	create("c")
	want("and it is used", "secrets2 c *v1.PartialObjectMetadata")
	kinds.set(&maps)
	create("d")
	had := lists
	want("secrets go", "")
	if _, ok := c.Find(&other, "d", "b"); ok || c.Dependents("owner") != nil || lists != had {
		t.Error("a kind that has gone is followed")
	}
	kinds.set(&maps, &secrets)
	want("secrets come back", "secrets1 b *v1.PartialObjectMetadata, secrets1 c *v1.PartialObjectMetadata, secrets1 d *v1.PartialObjectMetadata")
}

// What a controller reads by its type is kept whole.
func TestSlimOnlyWhereNobodyMinds(t *testing.T) {
	s, seen := server(t), &diary{}
	k := &Controller[*corev1.Secret]{Name: "k", For: core.Secret,
		Reconcile: func(_ context.Context, c *Cluster, s *corev1.Secret) (time.Duration, error) {
			seen.add("typed %s %v", s.Name, s.Labels)
			return 0, nil
		}}
	if _, err := core.Secret.Create(t.Context(), s, secret("b")); err != nil {
		t.Fatal(err)
	}
	for _, rs := range [][]Runner{{k, watcher(seen, Fixed(core.Secret.Def()))}, {watcher(seen, Fixed(core.Secret.Def())), k}} {
		drive(t, New(s, rs, Config{}))
		if got, want := seen.read(), "secretssecret b *v1.Secret, typed b map[a:b]"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// The same with goroutines, where a kind that cannot be read holds nobody up
// for long.
func TestKindsComeWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, kinds, seen := server(t), &shelf{}, &diary{}
		defer s.Close()
		broken := *core.Endpoints.Def()
		kinds.set(core.ConfigMap.Def(), &broken)
		h := api.HandlerFunc(func(ctx context.Context, r *api.Request) (*api.Response, error) {
			if r.Resource == &broken {
				return nil, apierrors.NewInternalError(errors.New("made up"))
			}
			return s.Handle(ctx, r)
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- Run(ctx, h, []Runner{watcher(seen, kinds.kinds)}, Config{}) }()
		write := func(name string) {
			t.Helper()
			if _, err := core.ConfigMap.Create(ctx, s, config(name)); err != nil {
				t.Fatal(err)
			}
			if _, err := core.Secret.Create(ctx, s, secret(name)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		expect := func(want string) {
			t.Helper()
			synctest.Wait()
			if got := seen.read(); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
		write("a")
		expect("")
		time.Sleep(patience)
		expect("configmapsconfigmap a *v1.PartialObjectMetadata")
		kinds.set(core.ConfigMap.Def(), core.Secret.Def())
		expect("secretssecret a *v1.PartialObjectMetadata")
		write("b")
		expect("configmapsconfigmap b *v1.PartialObjectMetadata, secretssecret b *v1.PartialObjectMetadata")
		kinds.set(core.Secret.Def())
		expect("")
		write("c")
		expect("secretssecret c *v1.PartialObjectMetadata")
		cancel()
		<-done
	})
}
