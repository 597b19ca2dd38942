package node

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// A worker brings one pod to its state. It has a goroutine only while there is
// something to do; what takes long (starting a container, ending one) has a
// goroutine of its own and wakes the worker when it is done.
type worker struct {
	a   *Agent
	uid types.UID

	mu     sync.Mutex
	pod    *corev1.Pod // as the API last had it, or was last written by us
	gone   bool        // the API does not have it any more
	mem    *memory
	run    *Run // what the steps left; nil until they were taken
	seen   map[string]*container
	boxes  map[string]*sandbox
	last   *view // as last seen
	busy   bool
	dirty  bool
	ended  bool
	wakeAt time.Time
	unset  func() // stops the timer

	up     context.Context // of starts; ends when the pod goes down
	goDown func()

	want    *corev1.PodStatus // to be written
	held    time.Time         // since when a write is held back
	writing bool
	fails   int
	deleted bool // asked for the end of the API object

	charged atomic.Pointer[corev1.Pod] // what the pod takes from the node counts; nil: it takes nothing
}

func newWorker(a *Agent, pod *corev1.Pod) *worker {
	w := &worker{a: a, uid: pod.UID, pod: pod, mem: newMemory(), seen: map[string]*container{}, boxes: map[string]*sandbox{}}
	w.mem.began, w.mem.hostIPs = a.Clock.Now(), a.hostIPs
	w.up, w.goDown = context.WithCancel(a.ctx)
	return w
}

// see takes a state of the pod from the API.
func (w *worker) see(pod *corev1.Pod) {
	w.mu.Lock()
	if !older(pod, w.pod) {
		w.pod = pod
	}
	if w.last != nil {
		w.charge(w.last)
	}
	w.down()
	w.mu.Unlock()
	w.wake()
}

// down notes that the pod is to end. The worker is locked.
func (w *worker) down() {
	if w.pod.DeletionTimestamp == nil {
		return
	}
	if w.mem.deleting.IsZero() {
		w.mem.deleting = w.a.Clock.Now()
		if w.run == nil && w.pod.DeletionGracePeriodSeconds != nil {
			// Found like this by a new agent: the time has been running.
			began := w.pod.DeletionTimestamp.Add(-time.Duration(*w.pod.DeletionGracePeriodSeconds) * time.Second)
			if began.Before(w.mem.deleting) && w.mem.deleting.Sub(began) < time.Hour {
				w.mem.deleting = began
			}
		}
	}
	w.goDown()
}

// forcedGrace is how long, at most, what still runs of a pod gets to end after the
// API has let the pod go: whoever forced that counts on its being gone, and its
// successor may be running.
const forcedGrace = 2 * time.Second

// vanish notes that the API does not have the pod any more.
func (w *worker) vanish() {
	w.mu.Lock()
	if !w.gone {
		w.gone = true
		now := w.a.Clock.Now()
		in := &input{pod: w.pod, mem: w.mem, now: now}
		left, _ := in.deadline()
		if w.pod = api.Clone(w.pod); w.pod.DeletionTimestamp == nil {
			w.pod.DeletionTimestamp = new(metav1.NewTime(now))
		}
		w.pod.DeletionGracePeriodSeconds = new(int64(min(left, forcedGrace) / time.Second))
		w.mem.deleting = now
		w.down()
	}
	w.mu.Unlock()
	w.wake()
}

// older says whether a is an earlier state than b.
func older(a, b *corev1.Pod) bool {
	x, err1 := strconv.ParseInt(a.ResourceVersion, 10, 64)
	y, err2 := strconv.ParseInt(b.ResourceVersion, 10, 64)
	return err1 == nil && err2 == nil && x < y
}

func (w *worker) current() *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return nil
	}
	return w.pod
}

// wake makes the worker look at its pod, now or after what it is doing.
func (w *worker) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dirty = true
	if w.busy || w.ended || w.a.ctx.Err() != nil {
		return
	}
	w.busy = true
	w.beside("look", w.loop)
}

// sleep stops the timer.
func (w *worker) sleep() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unset != nil {
		w.unset()
		w.unset = nil
	}
}

func (w *worker) loop() {
	for {
		w.mu.Lock()
		if !w.dirty || w.ended || w.a.ctx.Err() != nil {
			w.busy = false
			w.mu.Unlock()
			return
		}
		w.dirty = false
		w.mu.Unlock()
		w.sync(w.a.ctx)
	}
}

// retryLook is after how long a failed look at the runtime is repeated.
const retryLook = time.Second

// sync looks, decides and acts, once.
func (w *worker) sync(ctx context.Context) {
	w.mu.Lock()
	jobs := w.mem.jobs()
	w.mu.Unlock()
	v, err := w.observe(ctx)
	if err != nil {
		if ctx.Err() == nil {
			w.a.Log.Warn("cannot look at a pod's containers", "pod", w.pod.Name, "namespace", w.pod.Namespace, "err", err)
			w.mu.Lock()
			w.timer(w.a.Clock.Now().Add(retryLook))
			w.mu.Unlock()
		}
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mem.jobs() < jobs {
		w.dirty = true // one has ended meanwhile, and what was seen may be from before what it did
		return
	}
	w.last = v
	in := &input{pod: w.pod, view: v, mem: w.mem, now: w.a.Clock.Now()}
	w.clear(in)
	p := decide(in)
	w.act(in, p)
	w.a.prober.watch(w, in.pod, v, p.watch)
	w.keep(in, p)
	w.timer(p.wake)
	w.finish(v, p)
}

// clear brings the memory in line with what is seen.
func (w *worker) clear(in *input) {
	if w.mem.ended == nil && w.pod.DeletionTimestamp == nil {
		if w.mem.ended = in.pastDeadline(); w.mem.ended == nil {
			w.mem.ended = w.a.refuse(w, in)
		}
	}
	if w.mem.ended != nil {
		w.goDown()
	}
	w.charge(in.view)
	live := map[string]bool{}
	for _, c := range in.view.containers {
		live[c.id] = true
	}
	for id := range w.mem.told {
		if !live[id] {
			delete(w.mem.told, id)
		}
	}
	for id := range w.mem.probes {
		if !live[id] {
			delete(w.mem.probes, id)
		}
	}
	resume(w.mem, in.pod, in.view)
}

// charge notes what the pod takes from the node. One whose end the API has seen takes
// nothing, though its sandbox may still be there: others may have been given its place.
// The worker is locked.
func (w *worker) charge(v *view) {
	told := core.PodFinished(w.pod) && len(v.alive()) == 0
	if told || w.mem.stopped || w.mem.ended != nil && len(v.sandboxes) == 0 {
		w.charged.Store(nil)
	} else {
		w.charged.Store(w.pod)
	}
}

func (in *input) pastDeadline() *ending {
	if core.PodFinished(in.pod) {
		return nil
	}
	e, _ := in.expire()
	return e
}

// act starts what the plan says. The worker is locked.
func (w *worker) act(in *input, p *plan) {
	if _, at := in.expire(); !at.IsZero() && !in.ending() {
		p.later(at)
	}
	for _, c := range p.loop {
		if !w.mem.told[c.id] {
			w.mem.told[c.id] = true
			w.a.event(w.pod, c.name, warning, "BackOff", "Back-off restarting failed container %s in pod %s", c.name, fullName(w.pod))
		}
	}
	for _, k := range p.kill {
		w.mem.killing[k.c.id] = in.now.Add(k.grace)
		w.job(func() { w.kill(k) })
	}
	switch {
	case p.build != nil:
		w.mem.building = true
		old := in.view.sandboxes
		w.job(func() { w.build(*p.build, old) })
	case p.start != nil:
		w.mem.starting = p.start.name
		if w.run == nil {
			w.mem.starting, w.mem.building = "", true
			w.job(w.prepareAgain)
			break
		}
		s := in.view.sandbox()
		w.job(func() { w.start(p.start, s) })
	case p.down:
		w.mem.stopping = true
		w.job(func() { w.takeDown(p.stop) })
	case len(p.stop) > 0:
		w.mem.stopping = true
		w.job(func() { w.stopOld(p.stop) })
	case w.run == nil && !in.ending() && !w.mem.building && in.view.sandbox() != nil:
		// A pod that an earlier agent started: its volumes are kept up to date again.
		w.mem.building = true
		w.job(w.prepareAgain)
	case len(p.remove)+len(p.drop) > 0:
		w.job(func() { w.collect(p.remove, p.drop) })
	}
}

// job runs f beside the worker and wakes it afterwards.
func (w *worker) job(f func()) {
	w.beside("job", func() {
		f()
		w.wake()
	})
}

// beside runs a piece of the worker's work beside it.
func (w *worker) beside(what string, work func()) { w.a.start(string(w.uid)+" "+what, work) }

// with changes the memory.
func (w *worker) with(f func(*memory)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w.mem)
}

// timer sets when the worker wakes by itself. The worker is locked.
func (w *worker) timer(at time.Time) {
	if !w.held.IsZero() {
		if t := w.held.Add(longestHold); at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if at.Equal(w.wakeAt) && w.unset != nil {
		return
	}
	if w.unset != nil {
		w.unset()
		w.unset = nil
	}
	if w.wakeAt = at; at.IsZero() || w.ended {
		return
	}
	w.unset = w.a.Clock.AfterFunc(max(at.Sub(w.a.Clock.Now()), 0), func() {
		w.mu.Lock()
		w.unset = nil
		w.mu.Unlock()
		w.wake()
	})
}

// longestHold is how long a status may wait for the next container to start.
const longestHold = time.Second

// keep has the status written if it differs from what the API has. While
// containers are being started it waits a little for them, so that a pod that
// comes up at once is written once, and not once per container.
func (w *worker) keep(in *input, p *plan) {
	if w.gone {
		return
	}
	if equality.Semantic.DeepEqual(&w.pod.Status, &p.status) {
		w.held, w.want = time.Time{}, nil
		return
	}
	coming := w.mem.building || w.mem.starting != ""
	if coming && p.status.Phase == corev1.PodPending && w.pod.Status.Phase == corev1.PodPending && w.quiet(&p.status) {
		if w.held.IsZero() {
			w.held = in.now
		}
		if in.now.Sub(w.held) < longestHold {
			return
		}
	}
	w.held = time.Time{}
	w.want = &p.status
	if !w.writing {
		w.writing = true
		w.beside("write", w.write)
	}
}

// quiet says whether a status holds no news that a user waits for.
func (w *worker) quiet(st *corev1.PodStatus) bool {
	for _, list := range [][]corev1.ContainerStatus{st.InitContainerStatuses, st.ContainerStatuses, st.EphemeralContainerStatuses} {
		for i := range list {
			if x := list[i].State.Waiting; x != nil && x.Reason != "ContainerCreating" && x.Reason != "PodInitializing" {
				return false
			}
		}
	}
	return true
}

// write writes statuses until there is nothing left to write.
func (w *worker) write() {
	defer w.wake()
	for {
		w.mu.Lock()
		if w.want == nil || w.gone || w.a.ctx.Err() != nil {
			w.writing = false
			w.mu.Unlock()
			return
		}
		st, pod := w.want, w.pod
		w.want = nil
		w.mu.Unlock()
		err := w.writeOnce(w.a.ctx, pod, st)
		if err == nil {
			w.fails = 0
			continue
		}
		w.mu.Lock()
		w.writing = false
		w.fails++
		pause := min(50*time.Millisecond<<min(w.fails, 8), 10*time.Second)
		w.mu.Unlock()
		if w.a.ctx.Err() == nil {
			w.a.Log.Warn("cannot write a pod's status", "namespace", pod.Namespace, "pod", pod.Name, "err", err)
			w.a.sleep(w.a.ctx, pause)
		}
		return
	}
}

// writeOnce writes a status over the state it was made from. If that state is
// not the newest the newest is fetched, and the status is decided again from it.
func (w *worker) writeOnce(ctx context.Context, pod *corev1.Pod, st *corev1.PodStatus) error {
	next := *pod // shares all but the status, which is replaced; UpdateStatus takes a whole object over
	obj := next.DeepCopy()
	obj.Status = *st
	got, err := core.Pod.UpdateStatus(ctx, w.a.Handler, obj)
	if apierrors.IsConflict(err) {
		got, err = core.Pod.Get(ctx, w.a.Handler, pod.Namespace, pod.Name)
	}
	switch {
	case apierrors.IsNotFound(err):
		return nil // the watch will say so
	case err != nil:
		return err
	case got.UID != w.uid:
		w.vanish()
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !older(got, w.pod) {
		w.pod = got
		w.down()
	}
	return nil
}

// finish ends the API object of a pod of which nothing is left, and the worker of
// one that the API does not have. The worker is locked.
func (w *worker) finish(v *view, p *plan) {
	if !p.done || w.pod.DeletionTimestamp == nil {
		return
	}
	if w.gone {
		w.bury(v)
		return
	}
	if w.deleted || w.want != nil || w.writing {
		return
	}
	w.deleted = true
	pod := w.pod
	w.job(func() { w.delete(pod) })
}

func (w *worker) delete(pod *corev1.Pod) {
	uid, zero := pod.UID, int64(0)
	err := core.Pod.Delete(w.a.ctx, w.a.Handler, pod.Namespace, pod.Name, api.Options{UID: &uid, GracePeriod: &zero})
	switch {
	case err == nil || w.a.ctx.Err() != nil:
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		w.vanish()
	default:
		w.a.Log.Warn("cannot remove a pod that has ended", "namespace", pod.Namespace, "pod", pod.Name, "err", err)
		w.a.sleep(w.a.ctx, time.Second)
		w.mu.Lock()
		w.deleted = false
		w.mu.Unlock()
	}
}

// bury removes what a pod that the API does not have leaves behind, and then the
// worker. The worker is locked.
func (w *worker) bury(v *view) {
	if w.mem.burying {
		return
	}
	pod := w.pod
	w.mem.burying = true
	w.beside("bury", func() {
		if err := w.remains(w.a.ctx, v.sandboxes, pod); err != nil {
			if w.a.ctx.Err() == nil {
				w.a.Log.Warn("cannot remove what a pod left", "namespace", pod.Namespace, "pod", pod.Name, "err", err)
			}
			w.a.sleep(w.a.ctx, time.Second)
			w.with(func(m *memory) { m.burying = false })
			w.wake()
			return
		}
		w.mu.Lock()
		w.ended = true
		w.goDown()
		if w.unset != nil {
			w.unset()
			w.unset = nil
		}
		w.mu.Unlock()
		w.a.prober.forget(w)
		w.a.forget(w)
	})
}
