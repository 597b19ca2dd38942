package sched

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"

	"proa/internal/api"
)

// A Plugin is one consideration in placing a pod. For looks at the pod once and
// returns what to ask of each node; nil means that the pod does not care. What
// the questions need to share, they capture.
type Plugin struct {
	Name   string
	Weight int64 // of its score; 1 if 0
	For    Look
	Wakes  Event // what may let in a pod that this plugin kept out

	// Helps looks closer at a change of such a kind: false means that it can not
	// let the pod in. Nil is always true.
	Helps func(pod *Pod, s *State, c *Change) bool

	// Matters says, where For has returned nil, whether it would no longer if o
	// came to a node. Nil is never.
	Matters func(pod *Pod, s *State, o *Pod) bool

	// Configure returns the For of the plugin with options, given as the JSON of its
	// args in a KubeSchedulerConfiguration. Nil means that there are none.
	Configure func(args []byte) (Look, error)
}

// A Look is how a plugin looks at a pod, see [Plugin].
type Look func(pod *Pod, s *State) *Check

// A Check is what a plugin asks of each node for one pod. Every part may be left out.
//
// Fits and Score may look at the node and at the pods on it. If they look at
// more, With and Without are there to tell them what changes elsewhere: they are
// called for every pod that comes or goes while the check is in use, and it may
// be in use for many pods that are alike.
type Check struct {
	Refused string   // why no node will do, whatever it is like
	Only    []string // the only nodes worth asking, by name

	Fits      func(n *Node) Verdict
	Score     func(n *Node) int64                                      // 0 to 100, more is better, unless Normalize makes it so
	Normalize func(scores []int64)                                     // over the nodes that fit
	With      func(p *Pod, n *Node)                                    // from now on as if p ran on n
	Without   func(p *Pod, n *Node)                                    // from now on as if p did not run on n
	Reserve   func(n *Node) error                                      // the pod is going to n; an error sends it back
	Unreserve func(n *Node)                                            // it is not after all
	PreBind   func(ctx context.Context, h api.Handler, n string) error // before the binding is written, outside of the state

	// Relent is asked when no node will do. What it returns, if anything, gives up what
	// is kept for the pod and may be what is in its way.
	Relent func() func(ctx context.Context, h api.Handler) error
}

// A Verdict is what a plugin says of a node for a pod. The zero value means
// that the node will do.
type Verdict struct {
	Whys  []string // why not, each counted for the message to the user
	Final bool     // removing other pods from the node would not help
}

// No returns a verdict against a node that removing pods may change.
func No(why ...string) Verdict { return Verdict{Whys: why} }

// Never returns a verdict against a node that removing pods does not change.
func Never(why ...string) Verdict { return Verdict{Whys: why, Final: true} }

// OK says whether the node will do.
func (v Verdict) OK() bool { return len(v.Whys) == 0 }

// An Event is a set of kinds of change to the cluster.
type Event uint32

// The kinds of change.
const (
	NodeAdded     Event = 1 << iota
	NodeResources       // a node has more to give
	NodeLabels
	NodeTaints  // taints, and spec.unschedulable
	NodeImages  // what images a node holds
	NodeRemoved // which is good for even spreading
	PodGone     // a pod has left a node, has finished, or asks for less
	PodPlaced   // a pod has come to a node
	PodLeaves   // a pod on a node is on its way out, and counts no more among those that are spread
	PodLabels   // the labels of a pod on a node
	Namespaces  // a namespace's labels
	Storage     // claims, volumes, storage classes and what CSI drivers say of nodes
	Devices     // resource claims, device classes, devices and their taints
	AnyEvent    = 1<<iota - 1
)

// A Change is what happened, in detail as far as there is any.
type Change struct {
	What Event
	Node *corev1.Node // as it is now, or was when it was removed
	Pod  *Pod         // as it is now, or was when it went
	Was  *Pod         // before it changed

	Claim, ClaimWas *resourcev1.ResourceClaim // as it is now, unless it is gone, and before it changed
}

// Reverse turns counts of something bad into scores from 0 to 100.
func Reverse(scores []int64) {
	most := int64(0)
	for _, s := range scores {
		most = max(most, s)
	}
	for i, s := range scores {
		scores[i] = 100
		if most > 0 {
			scores[i] = 100 - 100*s/most
		}
	}
}

// Stretch scales scores so that the best is 100.
func Stretch(scores []int64) {
	most := int64(0)
	for _, s := range scores {
		most = max(most, s)
	}
	if most == 0 {
		return
	}
	for i, s := range scores {
		scores[i] = 100 * s / most
	}
}
