package controllers_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"sync"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// metered is what a script says of metrics.
type metered struct {
	mu sync.Mutex
	by map[string]string // "usage PREFIX" and "metric NAME"
}

func (m *metered) set(what, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.by == nil {
		m.by = map[string]string{}
	}
	m.by[what] = value
}

// ask returns the value that a script gave what begins so.
func (m *metered) ask(what string) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, v := range m.by {
		if strings.HasPrefix(what, k) {
			return v, true
		}
	}
	return "", false
}

// measure answers as a server of metrics.
func (w *world) measure(ctx context.Context, path string, _ url.Values) ([]byte, error) {
	type m = map[string]any
	now := w.clock.Now().UTC().Format("2006-01-02T15:04:05Z")
	items := []m{}
	parts := strings.Split(path, "/")
	name := parts[len(parts)-1]
	pods, err := core.Pod.List(ctx, w.h, "", api.Selectors{})
	if err != nil {
		return nil, err
	}
	switch {
	case strings.HasPrefix(path, "/apis/metrics.k8s.io/"):
		for _, p := range pods {
			if v, ok := w.used.ask("usage " + p.Name); ok {
				items = append(items, m{"metadata": m{"name": p.Name}, "timestamp": now, "window": "0s", "containers": []m{{"name": "c", "usage": m{"cpu": v}}}})
			}
		}
	default:
		v, ok := w.used.ask("metric " + name)
		if !ok {
			return nil, errors.New("there is no metric " + name)
		}
		if !strings.Contains(path, "/pods/*/") {
			items = append(items, m{"timestamp": now, "value": v})
			break
		}
		for _, p := range pods {
			items = append(items, m{"describedObject": m{"name": p.Name}, "timestamp": now, "value": v})
		}
	}
	return json.Marshal(m{"items": items})
}
