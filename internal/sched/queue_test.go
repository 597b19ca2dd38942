package sched

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// queuePlay is a queue, and a clock that only the test moves.
type queuePlay struct {
	*queue
	now  time.Time
	pods map[string]*item
}

func newQueuePlay() *queuePlay {
	return &queuePlay{newQueue(firstPause, mostPause), time.Unix(1e9, 0), map[string]*item{}}
}

func (q *queuePlay) come(name string, priority int32) *item {
	p := &corev1.Pod{}
	p.Name, p.UID, p.Spec.Priority = name, types.UID(name), &priority
	p.Labels = map[string]string{"app": name[:1]} // pods whose names begin the same are alike
	it := q.add(NewPod(p))
	q.pods[name] = it
	return it
}

// fails says that a pod fits nowhere because of a plugin.
func (q *queuePlay) fails(it *item, p *Plugin) {
	it.attempts++
	q.wait(it, &Failure{Wakes: p.Wakes, By: []*Plugin{p}}, q.now)
}

// after moves the clock, and returns who is tried then.
func (q *queuePlay) after(d time.Duration) string {
	q.now = q.now.Add(d)
	q.fire(q.now)
	return q.all()
}

func (q *queuePlay) all() string {
	var names []string
	for {
		it := q.pop()
		if it == nil {
			return strings.Join(names, " ")
		}
		names = append(names, it.pod.Name)
	}
}

func (q *queuePlay) expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: tried %q, want %q", what, got, want)
	}
}

func TestQueueOrder(t *testing.T) {
	q := newQueuePlay()
	q.come("a", 0)
	q.come("b", 5)
	q.come("c", 0)
	q.come("d", 9)
	q.expect(t, "by priority, then by arrival", q.all(), "d b a c")
}

func TestQueueWaitsForWhatHelps(t *testing.T) {
	q := newQueuePlay()
	picky := &Plugin{Name: "Picky", Wakes: PodGone | NodeAdded, Helps: func(pod *Pod, _ *State, c *Change) bool {
		return c.Node == nil || c.Node.Name == "for-"+pod.Name[:1]
	}}
	calls := 0
	helps := picky.Helps
	picky.Helps = func(pod *Pod, s *State, c *Change) bool { calls++; return helps(pod, s, c) }
	for i := range 3 {
		q.come(fmt.Sprint("a", i), 0)
	}
	q.come("b", 0)
	q.all()
	for _, it := range q.pods {
		q.fails(it, picky)
	}
	q.expect(t, "nothing happened", q.after(time.Minute), "")
	q.wake(nil, &Change{What: NodeTaints}, q.now)
	q.expect(t, "a kind of change that does not matter", q.all(), "")
	node := &corev1.Node{}
	node.Name = "for-b"
	calls = 0
	q.wake(nil, &Change{What: NodeAdded, Node: node}, q.now)
	if calls != 2 {
		t.Errorf("asked %d times for two kinds of pods", calls)
	}
	q.expect(t, "a node that only b can use", q.all(), "b")
	q.wake(nil, &Change{What: PodGone}, q.now)
	q.expect(t, "a pod that left", q.all(), "a0 a1 a2")
	q.expect(t, "nobody waits any more", q.after(mostWait), "")
}

func TestQueueLongestWait(t *testing.T) {
	q := newQueuePlay()
	it := q.come("a", 0)
	q.all()
	q.fails(it, &Plugin{Name: "P", Wakes: NodeAdded})
	q.expect(t, "before", q.after(mostWait-time.Second), "")
	q.expect(t, "nobody waits for ever", q.after(time.Second), "a")
}

func TestQueuePauses(t *testing.T) {
	q := newQueuePlay()
	it := q.come("a", 0)
	q.all()
	for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second, 10 * time.Second} {
		it.attempts++
		q.retry(it, q.now)
		q.expect(t, fmt.Sprint("attempt ", i, " before"), q.after(want-time.Millisecond), "")
		q.expect(t, fmt.Sprint("attempt ", i), q.after(time.Millisecond), "a")
	}
}

// A pod that something may have helped rests after its attempts, unless there is
// nothing else to do; one that could not be bound rests in any case.
func TestQueuePauseIsCutShort(t *testing.T) {
	q := newQueuePlay()
	any := &Plugin{Name: "P", Wakes: AnyEvent}
	a, b := q.come("a", 0), q.come("b", 0)
	q.all()
	q.fails(a, any)
	b.attempts++
	q.retry(b, q.now)
	q.come("c", 0)
	q.wake(nil, &Change{What: PodGone}, q.now)
	if it := q.pop(); it.pod.Name != "c" {
		t.Errorf("%s is tried before c", it.pod.Name)
	}
	q.expect(t, "now", q.all(), "a")
	q.expect(t, "later", q.after(time.Second), "b")
}

func TestQueueForgets(t *testing.T) {
	q := newQueuePlay()
	any := &Plugin{Name: "P", Wakes: AnyEvent}
	for i := range 6 {
		it := q.come(fmt.Sprint("a", i), 0)
		switch i % 3 {
		case 1:
			q.pop()
		case 2:
			q.unlink(it)
			q.fails(it, any)
		}
	}
	for name := range q.pods {
		q.remove(types.UID(name))
	}
	q.wake(nil, &Change{What: AnyEvent}, q.now)
	q.expect(t, "all are gone", q.after(time.Hour), "")
	if len(q.items)+q.active.Len()+q.timed.Len()+q.resting.Len()+len(q.companies) != 0 {
		t.Errorf("left: %d %d %d %d", len(q.items), q.active.Len(), q.timed.Len(), len(q.companies))
	}
}

// A pod that others have left a node for is tried before those that came after it,
// without a pause; those that are like it are asked for by one of them.
func TestQueueKeepsPromises(t *testing.T) {
	q, s := newQueuePlay(), NewState()
	calls := 0
	fit := &Plugin{Name: "P", Wakes: PodGone, Helps: func(pod *Pod, s *State, _ *Change) bool {
		calls++
		return s.Nominated(pod.UID) == "x"
	}}
	for i := range 4 {
		q.come(fmt.Sprint("a", i), 0)
	}
	q.all()
	for i := range 4 {
		it := q.pods[fmt.Sprint("a", i)]
		q.fails(it, fit)
		s.Nominate(it.pod, []string{"w", "x", "y", ""}[i])
	}
	q.come("b", 0)
	gone := &corev1.Pod{}
	gone.Spec.NodeName = "x"
	q.wake(s, &Change{What: PodGone, Pod: NewPod(gone)}, q.now)
	if calls != 2 {
		t.Errorf("asked %d times: for the one that is to come, and for the others", calls)
	}
	q.expect(t, "the one for which the room was made", q.all(), "a1 b")
}

// TestAfter has what is written about a pod come in the order in which it was found
// out, whoever gets to it first.
func TestAfter(t *testing.T) {
	it := newQueuePlay().come("a", 0)
	var order []int
	first, second := it.after(func() { order = append(order, 1) }), it.after(func() { order = append(order, 2) })
	done := make(chan struct{})
	go func() { defer close(done); second() }()
	first()
	<-done
	if len(order) != 2 || order[0] != 1 {
		t.Errorf("written in the order %v", order)
	}
}

// A pod that is to be placed is placed also where more time passes between two looks
// at the clock than a row of decisions may take: nobody says again that it is there.
func TestOneDecisionAtLeast(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := New(nil, Config{Now: func() time.Time { now = now.Add(2 * batchTime); return now }})
	p := &corev1.Pod{}
	p.Name, p.UID, p.Spec.SchedulerName = "p", "p", corev1.DefaultSchedulerName
	s.queue.add(NewPod(p))
	made := make(chan int, 1)
	go func() {
		acts, _ := s.next(t.Context())
		made <- len(acts)
	}()
	select {
	case n := <-made:
		if n != 1 {
			t.Errorf("%d decisions", n)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for what has come already")
		s.mu.Lock()
		s.ended = true
		s.mu.Unlock()
		s.work.Broadcast()
		<-made
	}
}

// Of pods that are alike but for their importance each kind is asked for itself: what
// is promised to others is in the way of the less important only.
func TestQueueAsksByPriority(t *testing.T) {
	q := newQueuePlay()
	high := &Plugin{Name: "P", Wakes: PodGone, Helps: func(pod *Pod, _ *State, _ *Change) bool { return pod.Priority > 0 }}
	for range 20 { // which of a company speaks for all is chance's
		for i := range 3 {
			q.come(fmt.Sprint("a", i), int32(i))
		}
		q.all()
		for i := range 3 {
			q.fails(q.pods[fmt.Sprint("a", i)], high)
		}
		q.now = q.now.Add(mostPause)
		q.wake(nil, &Change{What: PodGone}, q.now)
		q.expect(t, "the important", q.all(), "a2 a1")
		for name := range q.pods {
			q.remove(types.UID(name))
		}
	}
}

// A pod whose status names its claim before the claim is seen is looked at when that comes.
func TestClaimSeenLater(t *testing.T) {
	s := New(nil, Config{Now: func() time.Time { return time.Unix(1e9, 0) }})
	p := &corev1.Pod{}
	p.Namespace, p.Name, p.UID, p.Spec.SchedulerName = "default", "p", "p", corev1.DefaultSchedulerName
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimTemplateName: new("t")}}
	s.sawWaiting(p)
	named := p.DeepCopy()
	named.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "gpu", ResourceClaimName: new("p-gpu")}}
	s.sawWaiting(named)
	if n := s.queue.active.Len(); n > 0 {
		t.Errorf("%d pods are tried before their claims are seen", n)
	}
	c := &resourcev1.ResourceClaim{}
	c.Namespace, c.Name, c.UID = "default", "p-gpu", "c"
	c.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(p, corev1.SchemeGroupVersion.WithKind("Pod"))}
	s.sawClaim(c, false)
	if n := s.queue.active.Len(); n != 1 {
		t.Errorf("%d pods are tried when the claim is there", n)
	}
}
