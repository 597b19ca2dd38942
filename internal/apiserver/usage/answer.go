package usage

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/kinds/metrics"
)

// Subs answers reads of metrics.k8s.io: see apiserver.Config. What there is a
// metric of, and its labels, is what the server says now.
func (m *Meter) Subs() map[string]api.SubFunc {
	return map[string]api.SubFunc{
		metrics.Nodes.Def().GroupResource().String(): m.answerNodes,
		metrics.Pods.Def().GroupResource().String():  m.answerPods,
	}
}

func (m *Meter) answerNodes(ctx context.Context, env api.Env, r *api.Request) (*api.Response, error) {
	return answer(ctx, env, r, core.Node, "nodemetrics", m.ofNode)
}

func (m *Meter) answerPods(ctx context.Context, env api.Env, r *api.Request) (*api.Response, error) {
	return answer(ctx, env, r, core.Pod, "podmetrics", m.ofPod)
}

// answer answers a get or a list of the metrics of a kind, of which an object may have none.
func answer[T api.Object, M interface {
	api.Object
	comparable
}](ctx context.Context, env api.Env, r *api.Request, kind *api.Kind[T], what string, of func(T) M) (*api.Response, error) {
	var none M
	if r.Verb == api.Get {
		got, err := kind.Get(ctx, env, r.Namespace, r.Name)
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
		o := none
		if err == nil {
			o = of(got)
		}
		if o == none {
			return nil, unmeasured(what, strings.TrimPrefix(r.Namespace+"/"+r.Name, "/"))
		}
		return one(r, o), nil
	}
	list, err := kind.List(ctx, env, r.Namespace, api.Selectors{Labels: r.Select.Labels})
	if err != nil {
		return nil, err
	}
	out := &api.ItemList{Items: []*api.Item{}}
	for _, got := range list {
		if o := of(got); o != none && r.Select.Matches(r.Resource, o) {
			out.Items = append(out.Items, api.NewItem(r.Resource, 0, nil, o))
		}
	}
	return &api.Response{List: out}, nil
}

func one(r *api.Request, o api.Object) *api.Response {
	return &api.Response{Object: api.NewItem(r.Resource, 0, nil, o).Object()}
}

// unmeasured says that there are no metrics, by the name that metrics-server
// gives what it has none of.
func unmeasured(what, name string) error {
	return apierrors.NewNotFound(schema.GroupResource{Group: metrics.Group, Resource: what}, name)
}

// ofNode is what a node uses, or nil if that is not known.
func (m *Meter) ofNode(n *corev1.Node) *metrics.NodeMetrics {
	have := m.get(n.Name)
	if have == nil || have.silent || have.self.window == 0 {
		return nil
	}
	return &metrics.NodeMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels, CreationTimestamp: metav1.NewTime(have.self.last.Time)},
		Timestamp:  metav1.NewTime(have.self.last.Time), Window: window(have.self.window), Usage: have.self.usage(),
	}
}

// ofPod is what a pod uses, or nil if that is not known of all its containers that run.
func (m *Meter) ofPod(p *corev1.Pod) *metrics.PodMetrics {
	if p.Status.Phase != corev1.PodRunning {
		return nil
	}
	have := m.get(p.Spec.NodeName)
	if have == nil || have.silent {
		return nil
	}
	list := have.pods[pod{p.Namespace, p.Name}]
	if len(list) == 0 {
		return nil
	}
	o := &metrics.PodMetrics{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels},
		Containers: make([]metrics.ContainerMetrics, len(list)),
	}
	for i := range list {
		c := &list[i]
		if start := p.Status.StartTime; c.window == 0 || start != nil && c.began.Before(start.Time) { // too new, or of a pod before this one
			return nil
		}
		if at := c.last.Time; i == 0 || at.Before(o.Timestamp.Time) {
			o.Timestamp, o.Window = metav1.NewTime(at), window(c.window)
		}
		o.Containers[i] = metrics.ContainerMetrics{Name: c.name, Usage: c.usage()}
	}
	o.CreationTimestamp = o.Timestamp
	return o
}

func window(d time.Duration) metav1.Duration {
	return metav1.Duration{Duration: d.Round(time.Millisecond)}
}

func (m *meter) usage() corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(m.cpu), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(int64(m.last.Memory), resource.BinarySI),
	}
}
