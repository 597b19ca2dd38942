package sched

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A State is the cluster as scheduling sees it: the nodes, and the pods that
// run on them or have been promised to them. It is changed piece by piece and
// not safe for use by several goroutines.
type State struct {
	Nodes  []*Node // those that exist
	byName map[string]*Node
	pods   map[types.UID]*Pod
	owned  map[types.UID]map[*Node]int // pods on nodes by their controller
	images map[string]int              // on how many nodes an image is
	affine int

	namespaces map[string]map[string]string // their labels
}

// A Node is a node with the pods on it.
type Node struct {
	*corev1.Node
	Pods   map[types.UID]*Pod
	Alloc  Resources
	Used   Resources
	Scored Resources
	Ports  []HostPort       // taken, by all pods
	Images map[string]int64 // sizes in bytes by every name they have
	Affine int              // pods that want to be near or away from others
}

// NewState returns a State of no nodes.
func NewState() *State {
	return &State{byName: map[string]*Node{}, pods: map[types.UID]*Pod{}, owned: map[types.UID]map[*Node]int{}, images: map[string]int{},
		namespaces: map[string]map[string]string{}}
}

// Node returns a node by its name, or nil.
func (s *State) Node(name string) *Node {
	if n := s.byName[name]; n != nil && n.Node != nil {
		return n
	}
	return nil
}

// Pod returns a pod on a node by its UID, or nil.
func (s *State) Pod(uid types.UID) *Pod { return s.pods[uid] }

// Owned counts the pods of a controller on each node.
func (s *State) Owned(uid types.UID) map[*Node]int { return s.owned[uid] }

// HasImage says on how many nodes an image is.
func (s *State) HasImage(name string) int { return s.images[name] }

func (s *State) place(name string) *Node {
	n := s.byName[name]
	if n == nil {
		n = &Node{Pods: map[types.UID]*Pod{}}
		s.byName[name] = n
	}
	return n
}

// SetNode adds a node or takes in its new state, and says what changed for the better.
func (s *State) SetNode(node *corev1.Node) (what Event) {
	n := s.place(node.Name)
	old := n.Node
	n.Node = node
	if old == nil {
		s.Nodes = append(s.Nodes, n)
		what = NodeAdded
	}
	if old == nil || !equality.Semantic.DeepEqual(old.Status.Allocatable, node.Status.Allocatable) {
		n.Alloc = resourcesOf(node.Status.Allocatable)
		what |= NodeResources
	}
	if old == nil || !equality.Semantic.DeepEqual(old.Labels, node.Labels) {
		what |= NodeLabels
	}
	if old == nil || old.Spec.Unschedulable != node.Spec.Unschedulable || !equality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) {
		what |= NodeTaints
	}
	if old == nil || !equality.Semantic.DeepEqual(old.Status.Images, node.Status.Images) {
		s.setImages(n, node.Status.Images)
		what |= NodeImages
	}
	return what
}

func (s *State) setImages(n *Node, images []corev1.ContainerImage) {
	for name := range n.Images {
		if s.images[name]--; s.images[name] == 0 {
			delete(s.images, name)
		}
	}
	n.Images = map[string]int64{}
	for _, i := range images {
		for _, name := range i.Names {
			if _, twice := n.Images[name]; !twice {
				s.images[name]++
			}
			n.Images[name] = i.SizeBytes
		}
	}
}

// RemoveNode forgets a node. Pods on it stay until they are removed themselves.
func (s *State) RemoveNode(name string) {
	n := s.byName[name]
	if n == nil || n.Node == nil {
		return
	}
	s.setImages(n, nil)
	s.Nodes = slices.DeleteFunc(s.Nodes, func(o *Node) bool { return o == n })
	n.Node = nil
	if len(n.Pods) == 0 {
		delete(s.byName, name)
	}
}

// AddPod counts a pod in on a node.
func (s *State) AddPod(p *Pod, name string) {
	if s.pods[p.UID] != nil {
		s.RemovePod(p.UID)
	}
	n := s.place(name)
	p.node = n
	s.pods[p.UID] = p
	n.Pods[p.UID] = p
	n.Used.add(&p.Req, 1)
	n.Scored.add(&p.Scored, 1)
	n.Ports = append(n.Ports, p.Ports...)
	if affine(p.Pod) {
		n.Affine++
		s.affine++
	}
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		if s.owned[ref.UID] == nil {
			s.owned[ref.UID] = map[*Node]int{}
		}
		s.owned[ref.UID][n]++
	}
}

// RemovePod counts a pod out, and returns it if it was there.
func (s *State) RemovePod(uid types.UID) *Pod {
	p := s.pods[uid]
	if p == nil {
		return nil
	}
	n := p.node
	delete(s.pods, uid)
	delete(n.Pods, uid)
	n.Used.add(&p.Req, -1)
	n.Scored.add(&p.Scored, -1)
	for _, port := range p.Ports {
		if i := slices.Index(n.Ports, port); i >= 0 {
			n.Ports = slices.Delete(n.Ports, i, i+1)
		}
	}
	if affine(p.Pod) {
		n.Affine--
		s.affine--
	}
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		nodes := s.owned[ref.UID]
		if nodes[n]--; nodes[n] == 0 {
			delete(nodes, n)
		}
		if len(nodes) == 0 {
			delete(s.owned, ref.UID)
		}
	}
	if n.Node == nil && len(n.Pods) == 0 {
		for name, o := range s.byName {
			if o == n {
				delete(s.byName, name)
			}
		}
	}
	p.node = nil
	return p
}

func affine(p *corev1.Pod) bool {
	a := p.Spec.Affinity
	return a != nil && (a.PodAntiAffinity != nil || a.PodAffinity != nil)
}

// Affine is how many pods on nodes want to be near or away from others.
func (s *State) Affine() int { return s.affine }

// NamespaceLabels returns the labels of a namespace.
func (s *State) NamespaceLabels(name string) map[string]string { return s.namespaces[name] }

// SetNamespace takes in a namespace's labels, and says what changed.
func (s *State) SetNamespace(name string, labels map[string]string) (what Event) {
	if !maps.Equal(s.namespaces[name], labels) {
		what = Namespaces
	}
	s.namespaces[name] = labels
	return what
}

// RemoveNamespace forgets a namespace.
func (s *State) RemoveNamespace(name string) { delete(s.namespaces, name) }
