// Package metrics declares the kinds of metrics.k8s.io/v1beta1: what nodes and
// pods use. Nothing of them is stored; whoever starts the server answers. The Go
// types are here because no module that the server is made of has them.
package metrics

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"proa/internal/api"
	"proa/internal/kinds/column"
)

// Group is the group of both kinds, and Version the only version.
const (
	Group   = "metrics.k8s.io"
	Version = "v1beta1"
)

// NodeMetrics is what a node used in the time of Window before Timestamp.
type NodeMetrics struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Timestamp metav1.Time         `json:"timestamp"`
	Window    metav1.Duration     `json:"window"`
	Usage     corev1.ResourceList `json:"usage"` // of memory: the working set
}

// PodMetrics is what the containers of a pod used in the time of Window before Timestamp.
type PodMetrics struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Timestamp  metav1.Time        `json:"timestamp"`
	Window     metav1.Duration    `json:"window"`
	Containers []ContainerMetrics `json:"containers"`
}

// ContainerMetrics is what one container used.
type ContainerMetrics struct {
	Name  string              `json:"name"`
	Usage corev1.ResourceList `json:"usage"` // of memory: the working set
}

// DeepCopyObject implements runtime.Object.
func (m *NodeMetrics) DeepCopyObject() runtime.Object {
	out := *m
	out.ObjectMeta = *m.ObjectMeta.DeepCopy()
	out.Usage = m.Usage.DeepCopy()
	return &out
}

// DeepCopyObject implements runtime.Object.
func (m *PodMetrics) DeepCopyObject() runtime.Object {
	out := *m
	out.ObjectMeta = *m.ObjectMeta.DeepCopy()
	if m.Containers != nil {
		out.Containers = make([]ContainerMetrics, len(m.Containers))
	}
	for i, c := range m.Containers {
		out.Containers[i] = ContainerMetrics{c.Name, c.Usage.DeepCopy()}
	}
	return &out
}

// Total is what the containers used together.
func (m *PodMetrics) Total() corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, c := range m.Containers {
		for name, q := range c.Usage {
			sum := out[name]
			sum.Add(q)
			out[name] = sum
		}
	}
	return out
}

// Nodes is what nodes use.
var Nodes = &api.Kind[*NodeMetrics]{
	API: Group + "/" + Version, Resource: "nodes", Scope: api.Cluster, Virtual: true, Verbs: []api.Verb{api.Get, api.List},
	Whole: true,
	Columns: columns(func(m *NodeMetrics) (corev1.ResourceList, metav1.Duration) {
		return m.Usage, m.Window
	}),
	Models: models("NodeMetrics", "what a node used", "usage", usage),
}

// Pods is what pods use.
var Pods = &api.Kind[*PodMetrics]{
	API: Group + "/" + Version, Resource: "pods", Scope: api.Namespaced, Virtual: true, Verbs: []api.Verb{api.Get, api.List},
	Whole: true,
	Columns: columns(func(m *PodMetrics) (corev1.ResourceList, metav1.Duration) {
		return m.Total(), m.Window
	}),
	Models: models("PodMetrics", "what the containers of a pod used", "containers",
		`{"description":"What each container used.","type":"array","x-kubernetes-list-type":"atomic","items":{"default":{},"allOf":[{"$ref":"`+
			schemas+prefix+`ContainerMetrics"}]}}`),
}

// columns is the whole table: the name, the resources, and over what time they were used.
func columns[T api.Object](of func(T) (corev1.ResourceList, metav1.Duration)) []api.Column[T] {
	used := func(name corev1.ResourceName) func(T) string {
		return func(m T) string {
			list, _ := of(m)
			q, ok := list[name]
			if !ok {
				return "<unknown>"
			}
			return q.String()
		}
	}
	quantity := func(name string, res corev1.ResourceName, doc string) api.Column[T] {
		c := column.Doc(api.Col(name, used(res)), doc)
		c.Format = "quantity"
		return c
	}
	window := column.Doc(api.Col("Window", func(m T) string {
		_, w := of(m)
		return w.Duration.String()
	}), "How long before the timestamp the use of the processor was measured.")
	window.Format = "duration"
	return []api.Column[T]{
		column.Name(column.Plain[T]),
		quantity("cpu", corev1.ResourceCPU, "How many processors were busy on average."),
		quantity("memory", corev1.ResourceMemory, "Working set, in bytes."),
		window,
	}
}

// What OpenAPI calls the types, and where definitions refer to each other.
const (
	prefix  = "io.k8s.metrics.pkg.apis.metrics.v1beta1."
	meta    = "io.k8s.apimachinery.pkg.apis.meta.v1."
	amount  = "io.k8s.apimachinery.pkg.api.resource.Quantity"
	schemas = "#/components/schemas/"

	usage = `{"description":"How much of each resource was used; of memory it is the working set.","type":"object","additionalProperties":{"$ref":"` + schemas + amount + `"}}`
)

// models are the OpenAPI definitions of a kind, of which one field is its own.
func models(kind, doc, own, schema string) func(bool) (*api.Models, error) {
	return func(bool) (*api.Models, error) {
		ref := func(name, doc string) string {
			return fmt.Sprintf(`{"description":%q,"default":{},"allOf":[{"$ref":"%s%s"}]}`, doc, schemas, name)
		}
		typ := `"apiVersion":{"type":"string","description":"Group and version."},"kind":{"type":"string","description":"What this is."}`
		gvk := func(kind string) string {
			return fmt.Sprintf(`"x-kubernetes-group-version-kind":[{"group":%q,"version":%q,"kind":%q}]`, Group, Version, kind)
		}
		all := map[string]string{
			kind: `{"description":"` + kind + ` is ` + doc + ` in the time of the window before the timestamp.","type":"object","required":["timestamp","window","` + own + `"],"properties":{` + typ +
				`,"metadata":` + ref(meta+"ObjectMeta", "Whose use it is: name, namespace and labels.") +
				`,"timestamp":` + ref(meta+"Time", "When it was measured last.") +
				`,"window":` + ref(meta+"Duration", "How long before that it was measured first.") +
				`,"` + own + `":` + schema + `},` + gvk(kind) + `}`,
			kind + "List": `{"description":"` + kind + `List is a list of ` + kind + `.","type":"object","required":["items"],"properties":{` + typ +
				`,"metadata":` + ref(meta+"ListMeta", "Of the list.") +
				`,"items":{"description":"What each used.","type":"array","items":` + ref(prefix+kind, "One.") + `}},` + gvk(kind+"List") + `}`,
			"ContainerMetrics": `{"description":"ContainerMetrics is what one container used.","type":"object","required":["name","usage"],"properties":{` +
				`"name":{"description":"As in the pod's spec.","type":"string","default":""},"usage":` + usage + `}}`,
		}
		if kind == "NodeMetrics" {
			delete(all, "ContainerMetrics")
		}
		m := &api.Models{Name: prefix + kind, List: prefix + kind + "List", Definitions: map[string]json.RawMessage{},
			Needs: []string{meta + "ObjectMeta", meta + "ListMeta", meta + "Time", meta + "Duration", amount}}
		for name, text := range all {
			m.Definitions[prefix+name] = json.RawMessage(text)
		}
		return m, nil
	}
}
