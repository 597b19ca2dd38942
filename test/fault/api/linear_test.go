package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	kube "proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/store"
)

// Concurrent clients of the API on a disk that loses power and fails: what they
// were answered is what one client after the other could have been answered.
func TestLinearizable(t *testing.T) {
	t.Parallel()
	for _, disk := range []bool{true, false} {
		name := "memory"
		if disk {
			name = "lsm"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			linearizable(t, disk)
		})
	}
}

const (
	clients = 8
	keys    = 5
	perTurn = 40 // operations of a client between two checks
)

func linearizable(t *testing.T, disk bool) {
	random := seeded(t)
	w := newWorld(t, random, time.Hour, disk)
	operations, unknowns, lists, rounds := 0, 0, 0, 0
	for end := time.Now().Add(length(t, 3*time.Second)); (rounds < 2 || time.Now().Before(end)) && !t.Failed(); rounds++ {
		h := &history{w: w, start: time.Now(), round: rounds}
		var wg sync.WaitGroup
		left := new(atomic.Int64)
		left.Store(clients * perTurn)
		for id := range clients {
			c := &session{h: h, id: id, random: fork(random), client: client{w: w}, known: map[string]int64{}, left: left}
			wg.Go(c.work)
		}
		if disk {
			h.breakThings(left)
		}
		wg.Wait()
		h.check(t)
		operations, unknowns, lists = operations+len(h.ops), unknowns+h.unknowns, lists+len(h.lists)
	}
	t.Logf("%d rounds, %d operations (%d of them with an unknown outcome), %d lists, %d crashes, %d I/O errors", rounds, operations, unknowns, lists, w.crashes, w.faults)
	if operations == 0 || lists == 0 || disk && w.crashes == 0 {
		t.Error("nothing has been tested")
	}
}

// A history is what the clients of one round asked and were answered.
type history struct {
	w     *world
	start time.Time
	round int

	high atomic.Int64 // the highest revision that an answer has told

	mu       sync.Mutex
	ops      []porcupine.Operation
	lists    []listed
	unknowns int
}

// A listed is a list that was answered.
type listed struct {
	rev, atLeast int64 // of the list; known to be acknowledged before it was asked for
	items        map[string]output
}

// breakThings breaks something once or twice while the clients work.
func (h *history) breakThings(left *atomic.Int64) {
	for range 1 + h.w.random.IntN(2) {
		at := h.w.random.Int64N(clients * perTurn)
		for left.Load() > at {
			time.Sleep(time.Millisecond)
		}
		if h.w.random.IntN(3) == 0 {
			h.w.fault()
		} else {
			h.w.crash()
		}
	}
}

// A session is one client, which asks one thing after the other.
type session struct {
	h      *history
	id     int
	random *rand.Rand
	client client
	known  map[string]int64 // resourceVersions that it has seen last
	writes int
	left   *atomic.Int64
}

func (c *session) work() {
	defer c.client.close()
	for c.left.Add(-1) >= 0 {
		in := input{verb: "gccuuuudpl"[c.random.IntN(10)], key: fmt.Sprintf("r%d-k%d", c.h.round, c.random.IntN(keys))}
		if c.random.IntN(2) == 0 {
			in.expect = c.known[in.key]
		}
		c.writes++
		in.value = fmt.Sprintf("c%d.%d.%d", c.h.round, c.id, c.writes)
		call := time.Since(c.h.start).Nanoseconds()
		if in.verb == 'l' {
			c.list(call)
			continue
		}
		c.one(in, call)
	}
}

const collection = "/api/v1/namespaces/default/configmaps"

// one asks and notes the answer.
func (c *session) one(in input, call int64) {
	object := collection + "/" + in.key
	var a answer
	switch in.verb {
	case 'g':
		in.expect, in.value = 0, ""
		a = c.ask(http.MethodGet, object+[]string{"", "?resourceVersion=0"}[c.random.IntN(2)], "", nil)
	case 'c':
		in.expect = 0
		a = c.send(http.MethodPost, collection, in)
	case 'u':
		a = c.send(http.MethodPut, object, in)
	case 'p':
		in.verb = 'u'
		body := fmt.Sprintf(`{"metadata":{%s},"data":{"v":%q}}`, field("resourceVersion", in.expect), in.value)
		a = c.ask(http.MethodPatch, object, "application/merge-patch+json", []byte(body))
	case 'd':
		body := `{}`
		if in.expect > 0 {
			body = fmt.Sprintf(`{"preconditions":{%s}}`, field("resourceVersion", in.expect))
		}
		a = c.ask(http.MethodDelete, object, kube.MediaJSON, []byte(body))
	}
	out := output{outcome: a.outcome}
	if a.outcome == done && in.verb != 'd' {
		m, err := a.configMap()
		if err != nil {
			c.h.w.t.Errorf("the answer to %+v: %v", in, err)
			return
		}
		out.rev, out.value = revision(m), m.Data["v"]
		c.known[in.key] = out.rev
		c.h.saw(out.rev)
	}
	c.h.note(porcupine.Operation{ClientId: c.id, Input: in, Call: call, Output: out, Return: time.Since(c.h.start).Nanoseconds()})
}

func field(name string, v int64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf(`%q:"%d"`, name, v)
}

// send writes a whole object, as JSON or protobuf.
func (c *session) send(method, path string, in input) answer {
	m := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, Data: map[string]string{"v": in.value}}
	m.Name, m.Namespace = in.key, "default"
	if in.expect > 0 {
		m.ResourceVersion = strconv.FormatInt(in.expect, 10)
	}
	if c.random.IntN(2) == 0 {
		body, err := json.Marshal(m)
		if err != nil {
			c.h.w.t.Error(err)
		}
		return c.ask(method, path, kube.MediaJSON, body)
	}
	raw, err := m.Marshal()
	if err != nil {
		c.h.w.t.Error(err)
	}
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, Raw: raw}
	body, err := u.Marshal()
	if err != nil {
		c.h.w.t.Error(err)
	}
	return c.ask(method, path, kube.MediaProtobuf, append([]byte("k8s\x00"), body...))
}

// An answer is what came back.
type answer struct {
	outcome
	typ  string
	body []byte
}

// ask sends one request; what is not clearly answered has an unknown outcome.
func (c *session) ask(method, path, typ string, body []byte) answer {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	resp, err := c.reach(ctx, method, path, typ, body)
	if err != nil {
		return answer{outcome: unknown}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	a := answer{typ: resp.Header.Get("Content-Type"), body: b}
	switch {
	case err != nil || resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		a.outcome = unknown
	case resp.StatusCode/100 == 2:
	case resp.StatusCode == http.StatusConflict:
		a.outcome = conflict
	case resp.StatusCode == http.StatusNotFound:
		a.outcome = missing
	default:
		c.h.w.t.Errorf("%s %s: %s: %.300s", method, path, resp.Status, b)
	}
	return a
}

// reach tries until there is a server to send the request to.
func (c *session) reach(ctx context.Context, method, path, typ string, body []byte) (*http.Response, error) {
	for {
		r, h := c.client.to()
		req, err := http.NewRequestWithContext(ctx, method, r.url+path, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", typ)
		req.Header.Set("Accept", []string{kube.MediaJSON, kube.MediaProtobuf}[c.random.IntN(2)])
		resp, err := h.Do(req)
		if dial := (*net.OpError)(nil); !errors.As(err, &dial) || dial.Op != "dial" || ctx.Err() != nil {
			return resp, err
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (a answer) into(o interface{ Unmarshal([]byte) error }) error {
	if strings.HasPrefix(a.typ, kube.MediaJSON) {
		return json.Unmarshal(a.body, o)
	}
	var u runtime.Unknown
	if len(a.body) < 4 {
		return fmt.Errorf("%d bytes of %s", len(a.body), a.typ)
	}
	if err := u.Unmarshal(a.body[4:]); err != nil {
		return err
	}
	return o.Unmarshal(u.Raw)
}

func (a answer) configMap() (*corev1.ConfigMap, error) {
	m := new(corev1.ConfigMap)
	return m, a.into(m)
}

func revision(o metav1.Object) int64 {
	n, err := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0 // which no object has: the check will say so
	}
	return n
}

// list is a get of every object, and is compared with the state of its revision besides.
func (c *session) list(call int64) {
	atLeast := c.h.high.Load()
	a := c.ask(http.MethodGet, collection+[]string{"", "?resourceVersion=0"}[c.random.IntN(2)], "", nil)
	if a.outcome != done {
		return
	}
	var l corev1.ConfigMapList
	if err := a.into(&l); err != nil {
		c.h.w.t.Errorf("a list: %v", err)
		return
	}
	rev, err := strconv.ParseInt(l.ResourceVersion, 10, 64)
	if err != nil {
		c.h.w.t.Errorf("a list has the resourceVersion %q", l.ResourceVersion)
		return
	}
	got := listed{rev, atLeast, map[string]output{}}
	for i := range l.Items {
		m := &l.Items[i]
		got.items[m.Name] = output{rev: revision(m), value: m.Data["v"]}
	}
	c.h.saw(rev)
	at := time.Since(c.h.start).Nanoseconds()
	for k := range keys {
		key := fmt.Sprintf("r%d-k%d", c.h.round, k)
		out, ok := got.items[key]
		if !ok {
			out.outcome = missing
		}
		c.h.note(porcupine.Operation{ClientId: c.id, Input: input{verb: 'g', key: key}, Call: call, Output: out, Return: at})
	}
	c.h.mu.Lock()
	c.h.lists = append(c.h.lists, got)
	c.h.mu.Unlock()
}

func (h *history) saw(rev int64) {
	for {
		high := h.high.Load()
		if rev <= high || h.high.CompareAndSwap(high, rev) {
			return
		}
	}
}

func (h *history) note(o porcupine.Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o.Output.(output).outcome == unknown {
		if o.Input.(input).verb == 'g' {
			return
		}
		o.Return = forever
		h.unknowns++
	}
	h.ops = append(h.ops, o)
}

// check judges the round.
func (h *history) check(t *testing.T) {
	res, info := porcupine.CheckOperationsVerbose(model, h.ops, time.Minute)
	switch res {
	case porcupine.Illegal:
		file := filepath.Join(os.TempDir(), fmt.Sprintf("linearizable-%d.html", time.Now().UnixNano()))
		t.Errorf("%d operations are not linearizable; see %s: %v", len(h.ops), file, porcupine.VisualizePath(model, info, file))
	case porcupine.Unknown:
		t.Logf("judging %d operations takes too long", len(h.ops))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	now := h.w.now().real.Revision()
	if err := h.w.truth.reach(ctx, now); err != nil {
		t.Fatal(err)
	}
	h.checkWrites(t)
	h.checkLists(t)
}

// checkWrites compares what was acknowledged with the log.
func (h *history) checkWrites(t *testing.T) {
	events := h.w.truth.upTo(1 << 60)
	mine := map[string]bool{}
	for _, o := range h.ops {
		in, out := o.Input.(input), o.Output.(output)
		mine[in.value] = true
		if in.verb != 'c' && in.verb != 'u' || out.outcome != done {
			continue
		}
		if out.rev < 1 || out.rev > int64(len(events)) || value(t, &events[out.rev-1]) != in.value {
			t.Errorf("%+v was answered with %+v, but that is not what the log has there", in, out)
		}
	}
	for i := range events {
		if v := value(t, &events[i]); strings.HasPrefix(v, fmt.Sprintf("c%d.", h.round)) && !mine[v] {
			t.Errorf("revision %d has %s, which nobody asked for", i+1, v)
		}
	}
}

const prefix = "/core/configmaps/default/"

// value is what a change of one of the test's objects made of it.
func value(t *testing.T, e *store.Event) string {
	if e.Deleted || !strings.HasPrefix(e.Key, prefix+"r") {
		return ""
	}
	o, err := core.ConfigMap.Def().Codec.Decode(e.Value)
	if err != nil {
		t.Errorf("revision %d cannot be decoded: %v", e.Revision, err)
		return ""
	}
	return o.(*corev1.ConfigMap).Data["v"]
}

// checkLists compares every list with the state that its revision has.
func (h *history) checkLists(t *testing.T) {
	lists := slices.SortedFunc(slices.Values(h.lists), func(a, b listed) int { return cmp.Compare(a.rev, b.rev) })
	now := map[string]output{}
	for _, e := range h.w.truth.upTo(h.w.now().real.Revision()) {
		for len(lists) > 0 && lists[0].rev < e.Revision {
			lists[0].compare(t, now)
			lists = lists[1:]
		}
		if name, ok := strings.CutPrefix(e.Key, prefix); ok {
			if now[name] = (output{rev: e.Revision, value: value(t, &e)}); e.Deleted {
				delete(now, name)
			}
		}
	}
	for _, l := range lists {
		l.compare(t, now)
	}
}

func (l *listed) compare(t *testing.T, state map[string]output) {
	if l.rev < l.atLeast {
		t.Errorf("a list shows revision %d, but %d was acknowledged before it was asked for", l.rev, l.atLeast)
	}
	if !maps.Equal(l.items, state) {
		t.Errorf("a list of revision %d has %v; the state is %v", l.rev, l.items, state)
	}
}

// The judge must see what is wrong.
func TestModel(t *testing.T) {
	op := func(call, ret int64, in input, out output) porcupine.Operation {
		return porcupine.Operation{Input: in, Call: call, Output: out, Return: ret}
	}
	create := op(0, 1, input{verb: 'c', key: "k", value: "a"}, output{rev: 1, value: "a"})
	update := op(2, 3, input{verb: 'u', key: "k", value: "b"}, output{rev: 2, value: "b"})
	for name, c := range map[string]struct {
		ops []porcupine.Operation
		ok  bool
	}{
		"in order":                 {[]porcupine.Operation{create, update, op(4, 5, input{verb: 'g', key: "k"}, output{rev: 2, value: "b"})}, true},
		"a stale read":             {[]porcupine.Operation{create, update, op(4, 5, input{verb: 'g', key: "k"}, output{rev: 1, value: "a"})}, false},
		"a lost create":            {[]porcupine.Operation{create, op(4, 5, input{verb: 'g', key: "k"}, output{outcome: missing})}, false},
		"created twice":            {[]porcupine.Operation{create, op(2, 3, input{verb: 'c', key: "k", value: "b"}, output{rev: 2, value: "b"})}, false},
		"a revision going back":    {[]porcupine.Operation{create, op(2, 3, input{verb: 'u', key: "k", value: "b"}, output{rev: 1, value: "b"})}, false},
		"a conflict without cause": {[]porcupine.Operation{create, op(2, 3, input{verb: 'u', key: "k", value: "b", expect: 1}, output{outcome: conflict})}, false},
		"a precondition ignored":   {[]porcupine.Operation{create, update, op(4, 5, input{verb: 'd', key: "k", expect: 1}, output{})}, false},
		"unknown and made":         {[]porcupine.Operation{create, op(2, forever, input{verb: 'u', key: "k", value: "b"}, output{outcome: unknown}), op(4, 5, input{verb: 'g', key: "k"}, output{rev: 7, value: "b"})}, true},
		"unknown and not made":     {[]porcupine.Operation{create, op(2, forever, input{verb: 'u', key: "k", value: "b"}, output{outcome: unknown}), op(4, 5, input{verb: 'g', key: "k"}, output{rev: 1, value: "a"})}, true},
		"unknown, made and undone": {[]porcupine.Operation{create, op(2, forever, input{verb: 'u', key: "k", value: "b"}, output{outcome: unknown}), op(4, 5, input{verb: 'g', key: "k"}, output{rev: 7, value: "b"}), op(6, 7, input{verb: 'g', key: "k"}, output{rev: 1, value: "a"})}, false},
	} {
		if porcupine.CheckOperations(model, c.ops) != c.ok {
			t.Errorf("%s: judged the other way", name)
		}
	}
}
