package sched

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/sched/devices"
)

// A State is the cluster as scheduling sees it: the nodes, and the pods that
// run on them or have been promised to them. It is changed piece by piece and
// not safe for use by several goroutines.
//
// What was worked out from it once is kept up to date by what changed since:
// pods that come and go and nodes that have more or less to give are written to a
// log; other nodes, other labels or namespaces start a new layout, on which
// nothing of the old is of use.
type State struct {
	Nodes   []*Node // those that exist; a node's Index is its place
	Volumes Volumes
	Devices *devices.State
	Select  Selectors
	Budgets Budgets

	byName     map[string]*Node
	pods       map[types.UID]*Pod
	groups     map[string]map[string]*Group // by namespace and key
	affine     map[*Group]bool              // those that want to be near or away from others
	images     map[string]int               // on how many nodes an image is
	namespaces map[string]map[string]string // their labels
	nominated  map[types.UID]nomination
	priorities map[int32]int      // pods on nodes by priority
	leaving    map[types.UID]bool // victims that have been told to go

	expects uint64 // nominations ever of pods that want to be near or away from others
	layout  uint64
	domains map[string]*Domains // of this layout, by topology key
	log     []move
	logged  int64 // moves ever
}

// A Node is a node with the pods on it.
type Node struct {
	*corev1.Node
	Index  int // in State.Nodes; -1 if it does not exist
	Pods   map[types.UID]*Pod
	Alloc  Resources
	Used   Resources
	Scored Resources
	Ports  []HostPort       // taken, by all pods
	Images map[string]int64 // sizes in bytes by every name they have

	nominated []*Pod // that are to come here once others have gone
	version   uint64 // of what it has and of who is on it
	name      string
}

// A Group is pods that nothing about placing others tells apart: they have the
// same namespace, labels and terms, and are all leaving or all not.
type Group struct {
	Namespace string
	Labels    labels.Set
	Leaving   bool
	Terms     *Terms
	On        map[*Node]int

	key string
}

// Domains are the parts into which a topology key divides the nodes.
type Domains struct {
	Of    []int32 // by a node's index; -1 for a node without the key
	Count int
}

// A move is a pod that came to a node, or left it; without a pod, the node
// itself has changed.
type move struct {
	pod    *Pod
	node   *Node
	came   bool
	taints bool
}

// mostMoves is how many moves are remembered for those that lag behind.
const mostMoves = 1 << 13

type nomination struct {
	pod  *Pod
	node *Node
}

// NewState returns a State of no nodes.
func NewState() *State {
	return &State{
		byName: map[string]*Node{}, pods: map[types.UID]*Pod{}, groups: map[string]map[string]*Group{}, affine: map[*Group]bool{},
		images: map[string]int{}, namespaces: map[string]map[string]string{}, nominated: map[types.UID]nomination{}, priorities: map[int32]int{}, leaving: map[types.UID]bool{},
		domains: map[string]*Domains{}, Volumes: newVolumes(), Devices: devices.NewState(), Select: newSelectors(),
	}
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

// HasImage says on how many nodes an image is.
func (s *State) HasImage(name string) int { return s.images[name] }

// Groups returns the groups of pods in a namespace.
func (s *State) Groups(namespace string) map[string]*Group { return s.groups[namespace] }

// Affine returns the groups of pods that want to be near or away from others.
func (s *State) Affine() map[*Group]bool { return s.affine }

// GroupsFor returns every group that a term may select.
func (s *State) GroupsFor(t *Term) (out []*Group) {
	if t.all || t.spaces != nil {
		for _, of := range s.groups {
			out = slices.AppendSeq(out, maps.Values(of))
		}
		return out
	}
	for _, name := range t.names {
		out = slices.AppendSeq(out, maps.Values(s.groups[name]))
	}
	return out
}

// Domains divides the nodes by a topology key.
func (s *State) Domains(key string) *Domains {
	d := s.domains[key]
	if d == nil {
		d = &Domains{Of: make([]int32, len(s.Nodes))}
		ids := map[string]int32{}
		for i, n := range s.Nodes {
			v, ok := n.Labels[key]
			if !ok {
				d.Of[i] = -1
				continue
			}
			id, ok := ids[v]
			if !ok {
				id = int32(len(ids))
				ids[v] = id
			}
			d.Of[i] = id
		}
		d.Count = len(ids)
		s.domains[key] = d
	}
	return d
}

// relayout forgets what was worked out from the nodes as they were.
func (s *State) relayout() {
	s.layout++
	clear(s.domains)
	s.logged += int64(len(s.log))
	s.log = s.log[:0]
}

func (s *State) place(name string) *Node {
	n := s.byName[name]
	if n == nil {
		n = &Node{Pods: map[types.UID]*Pod{}, Index: -1, name: name}
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
		n.Index = len(s.Nodes)
		s.Nodes = append(s.Nodes, n)
		what = NodeAdded
	}
	if old == nil || !equality.Semantic.DeepEqual(old.Status.Allocatable, node.Status.Allocatable) {
		n.Alloc = resourcesOf(node.Status.Allocatable)
		what |= NodeResources
	}
	if old == nil || !maps.Equal(old.Labels, node.Labels) {
		what |= NodeLabels
	}
	if old == nil || old.Spec.Unschedulable != node.Spec.Unschedulable || !equality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) {
		what |= NodeTaints
	}
	if old == nil || !equality.Semantic.DeepEqual(old.Status.Images, node.Status.Images) {
		s.setImages(n, node.Status.Images)
		what |= NodeImages
	}
	if what == 0 {
		return what
	}
	n.version++
	if what&(NodeAdded|NodeLabels|NodeImages) != 0 {
		s.relayout()
	} else {
		s.record(move{node: n, taints: what&NodeTaints != 0})
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
	s.Nodes = slices.Delete(s.Nodes, n.Index, n.Index+1)
	for i, o := range s.Nodes[n.Index:] {
		o.Index = n.Index + i
	}
	n.Node, n.Index, n.Alloc = nil, -1, Resources{}
	n.version++
	s.relayout()
	s.tidy(n)
}

// tidy drops a node that does not exist once nobody is on it.
func (s *State) tidy(n *Node) {
	if n.Node == nil && len(n.Pods) == 0 && len(n.nominated) == 0 {
		delete(s.byName, n.name)
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
	n.add(p)
	of := s.groups[p.Namespace]
	if of == nil {
		of = map[string]*Group{}
		s.groups[p.Namespace] = of
	}
	g := of[p.group]
	if g == nil {
		g = &Group{Namespace: p.Namespace, Labels: p.Labels, Leaving: p.DeletionTimestamp != nil, Terms: p.Terms(), On: map[*Node]int{}, key: p.group}
		of[p.group] = g
		if !g.Terms.Empty() {
			s.affine[g] = true
		}
	}
	p.terms, p.group = g.Terms, g.key // one copy for all
	p.shape, p.shaped = "", false
	g.On[n]++
	s.priorities[p.Priority]++
	s.Volumes.use(p, 1)
	s.record(move{pod: p, node: n, came: true})
}

// RemovePod counts a pod out, and returns it if it was there.
func (s *State) RemovePod(uid types.UID) *Pod {
	p := s.pods[uid]
	if p == nil {
		return nil
	}
	n := p.node
	delete(s.pods, uid)
	n.remove(p)
	g := s.groups[p.Namespace][p.group]
	if g.On[n]--; g.On[n] == 0 {
		delete(g.On, n)
	}
	if len(g.On) == 0 {
		delete(s.affine, g)
		delete(s.groups[p.Namespace], p.group)
		if len(s.groups[p.Namespace]) == 0 {
			delete(s.groups, p.Namespace)
		}
	}
	if s.priorities[p.Priority]--; s.priorities[p.Priority] == 0 {
		delete(s.priorities, p.Priority)
	}
	s.Volumes.use(p, -1)
	s.record(move{pod: p, node: n})
	s.tidy(n)
	p.node = nil
	return p
}

func (s *State) record(m move) {
	if m.node.Index < 0 {
		return
	}
	if len(s.log) == mostMoves {
		s.log = append(s.log[:0], s.log[mostMoves/2:]...)
		s.logged += mostMoves / 2
	}
	s.log = append(s.log, m)
}

// now is the number of moves so far.
func (s *State) now() int64 { return s.logged + int64(len(s.log)) }

// since returns the moves after the first at, if they are still known.
func (s *State) since(at int64) ([]move, bool) {
	if at < s.logged {
		return nil, false
	}
	return s.log[at-s.logged:], true
}

func (n *Node) add(p *Pod) {
	n.Pods[p.UID] = p
	n.Used.add(&p.Req, 1)
	n.Scored.add(&p.Scored, 1)
	n.Ports = append(n.Ports, p.Ports...)
	n.version++
}

func (n *Node) remove(p *Pod) {
	delete(n.Pods, p.UID)
	n.Used.add(&p.Req, -1)
	n.Scored.add(&p.Scored, -1)
	for _, port := range p.Ports {
		if i := slices.Index(n.Ports, port); i >= 0 {
			n.Ports = slices.Delete(n.Ports, i, i+1)
		}
	}
	n.version++
}

// copy returns a node to try changes on.
func (n *Node) copy() *Node {
	c := *n
	c.Pods = maps.Clone(n.Pods)
	c.Used.Others, c.Scored.Others = maps.Clone(n.Used.Others), maps.Clone(n.Scored.Others)
	c.Ports = slices.Clone(n.Ports)
	return &c
}

// Nominate notes that a pod is to come to a node once others have left it;
// nowhere if name is empty.
func (s *State) Nominate(p *Pod, name string) {
	if old, ok := s.nominated[p.UID]; ok {
		old.node.nominated = slices.DeleteFunc(old.node.nominated, func(o *Pod) bool { return o.UID == p.UID })
		old.node.version++
		delete(s.nominated, p.UID)
		s.tidy(old.node)
	}
	if name != "" {
		n := s.place(name)
		n.nominated = append(n.nominated, p)
		n.version++
		s.nominated[p.UID] = nomination{p, n}
		if !p.Terms().Empty() {
			s.expects++
		}
	}
}

// Nominated returns the name of the node that the pod is to come to, if there is one.
func (s *State) Nominated(uid types.UID) string {
	if at, ok := s.nominated[uid]; ok {
		return at.node.name
	}
	return ""
}

// nominatedFor are the pods that are to come to a node, which need not exist any more.
func (s *State) nominatedFor(name string) []*Pod {
	if n := s.byName[name]; n != nil {
		return n.nominated
	}
	return nil
}

// promised are the pods that are to come to the node that a pod has gone from.
func (s *State) promised(c *Change) []*Pod {
	if c.What&PodGone == 0 || c.Pod == nil || c.Was != nil {
		return nil
	}
	return s.nominatedFor(c.Pod.Spec.NodeName)
}

// Opens says whether a pod's having gone from a node may help another that lacked
// cpu, memory or the like there. Where nobody has been promised room it may. Else the
// other must find room beside those that are to come and are as important, now or
// once the less important are gone; while these leave for its own sake it waits for
// the last of them.
func (s *State) Opens(name string, pod *Pod) bool {
	n := s.byName[name]
	if n == nil || n.Node == nil || len(n.nominated) == 0 {
		return true
	}
	used, leaving := n.Used, false
	used.Others = nil // they are not looked at
	fits := func() bool { return pod.Req.FitsBeside(&used, &n.Alloc) }
	for _, o := range n.before(pod) {
		used.add(&o.Req, 1)
	}
	if fits() {
		return true
	}
	for _, o := range n.Pods {
		if o.Priority < pod.Priority {
			used.add(&o.Req, -1)
			leaving = leaving || o.DeletionTimestamp != nil || s.leaving[o.UID]
		}
	}
	if leaving && s.Nominated(pod.UID) == name {
		return false
	}
	return fits()
}

// Expected says whether any nominated pod is one that ok says it is.
func (s *State) Expected(ok func(*Pod) bool) bool {
	for _, at := range s.nominated {
		if ok(at.pod) {
			return true
		}
	}
	return false
}

// NamespaceLabels returns the labels of a namespace.
func (s *State) NamespaceLabels(name string) map[string]string { return s.namespaces[name] }

// SetNamespace takes in a namespace's labels, and says what changed.
func (s *State) SetNamespace(name string, labels map[string]string) (what Event) {
	if old, ok := s.namespaces[name]; !ok || !maps.Equal(old, labels) {
		what = Namespaces
		s.namespaces[name] = labels
		s.relayout()
	}
	return what
}

// RemoveNamespace forgets a namespace.
func (s *State) RemoveNamespace(name string) { delete(s.namespaces, name) }
