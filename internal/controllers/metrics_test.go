package controllers_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/kinds/metrics"
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

// measured answers as a server of metrics.
type measured struct{ w *world }

func (m measured) Pods(ctx context.Context, _ string, _ labels.Selector) (out []*metrics.PodMetrics, err error) {
	pods, err := core.Pod.List(ctx, m.w.h, "", api.Selectors{})
	for _, p := range pods {
		if v, ok := m.w.used.ask("usage " + p.Name); ok {
			out = append(out, &metrics.PodMetrics{ObjectMeta: metav1.ObjectMeta{Name: p.Name}, Timestamp: metav1.NewTime(m.w.clock.Now().UTC().Truncate(time.Second)),
				Containers: []metrics.ContainerMetrics{{Name: "c", Usage: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(v)}}}})
		}
	}
	return out, err
}

func (m measured) Ask(ctx context.Context, path string, _ url.Values) ([]byte, error) {
	type obj = map[string]any
	now := m.w.clock.Now().UTC().Format("2006-01-02T15:04:05Z")
	items := []obj{}
	parts := strings.Split(path, "/")
	name := parts[len(parts)-1]
	v, ok := m.w.used.ask("metric " + name)
	if !ok {
		return nil, errors.New("there is no metric " + name)
	}
	if !strings.Contains(path, "/pods/*/") {
		items = append(items, obj{"timestamp": now, "value": v})
		return json.Marshal(obj{"items": items})
	}
	pods, err := core.Pod.List(ctx, m.w.h, "", api.Selectors{})
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		items = append(items, obj{"describedObject": obj{"name": p.Name}, "timestamp": now, "value": v})
	}
	return json.Marshal(obj{"items": items})
}
