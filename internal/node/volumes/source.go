package volumes

import (
	"context"
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// sources follows the ConfigMaps and Secrets that pods on this node use, each
// once, one object at a time: a node may not read others.
type sources struct {
	m   *Manager
	mu  sync.Mutex
	all map[sourceKey]*source
}

type sourceKey struct{ kind, ns, name string }

// A source is one object that is followed.
type source struct {
	key    sourceKey
	cancel context.CancelFunc
	users  map[*podVolumes]bool
	synced chan struct{} // closed when the object, or its absence, is known
	once   sync.Once
	data   map[string][]byte // nil: it is not there
	there  bool
}

// get returns an object's data and follows it for a pod from now on.
func (s *sources) get(ctx context.Context, p *podVolumes, kind, ns, name string) (map[string][]byte, error) {
	k := sourceKey{kind, ns, name}
	s.mu.Lock()
	src := s.all[k]
	if src == nil {
		run, cancel := context.WithCancel(context.Background())
		src = &source{key: k, cancel: cancel, users: map[*podVolumes]bool{}, synced: make(chan struct{})}
		s.all[k] = src
		s.m.wg.Go(func() { s.follow(run, src) })
	}
	src.users[p] = true
	s.mu.Unlock()
	select {
	case <-src.synced:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !src.there {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: strings.TrimSuffix(kind, "s")}, name)
	}
	return src.data, nil
}

// release ends a pod's use of all objects.
func (s *sources) release(p *podVolumes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, src := range s.all {
		if delete(src.users, p); len(src.users) == 0 {
			src.cancel()
			delete(s.all, k)
		}
	}
}

func (s *sources) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, src := range s.all {
		src.cancel()
		delete(s.all, k)
	}
}

func (s *sources) follow(ctx context.Context, src *source) {
	fail := func(err error) {
		s.m.Log.Warn("cannot follow what a volume shows", "kind", src.key.kind, "namespace", src.key.ns, "name", src.key.name, "err", err)
	}
	sel := api.WithField("metadata.name", src.key.name)
	if src.key.kind == "secrets" {
		followAs(ctx, s, src, core.Secret, sel, fail, func(o *corev1.Secret) map[string][]byte { return o.Data })
		return
	}
	followAs(ctx, s, src, core.ConfigMap, sel, fail, func(o *corev1.ConfigMap) map[string][]byte {
		out := make(map[string][]byte, len(o.Data)+len(o.BinaryData))
		for k, v := range o.Data {
			out[k] = []byte(v)
		}
		for k, v := range o.BinaryData {
			out[k] = v
		}
		return out
	})
}

func followAs[T api.Object](ctx context.Context, s *sources, src *source, k *api.Kind[T], sel api.Selectors, fail func(error), data func(T) map[string][]byte) {
	for c := range k.Follow(ctx, s.m.Handler, src.key.ns, sel, fail) {
		switch {
		case c.Reset && len(c.All) > 0:
			s.put(src, data(c.All[0]), true)
		case c.Reset, c.Type == "DELETED":
			s.put(src, nil, false)
		case c.Type == "BOOKMARK":
		default:
			s.put(src, data(c.Object), true)
		}
	}
}

// put takes a new state and tells the pods.
func (s *sources) put(src *source, data map[string][]byte, there bool) {
	s.mu.Lock()
	src.data, src.there = data, there
	var users []*podVolumes
	for p := range src.users {
		users = append(users, p)
	}
	s.mu.Unlock()
	first := false
	src.once.Do(func() { close(src.synced); first = true })
	if first {
		return // whoever asked waits for synced
	}
	for _, p := range users {
		p.refresh(fmt.Sprintf("%s %s", src.key.kind, src.key.name))
	}
}
