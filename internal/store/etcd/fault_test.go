package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"proa/internal/store"
	"proa/internal/store/etcd"
	"proa/internal/store/etcd/etcdtest"
	"proa/internal/store/storetest"
)

// raw speaks to etcd past the engine.
func raw(t testing.TB, s *etcdtest.Server) pb.KVClient {
	t.Helper()
	c, err := grpc.NewClient("passthrough:///"+s.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return pb.NewKVClient(c)
}

// until waits for something that nobody tells of.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func put(t testing.TB, e store.Engine, key, value string, expect store.Revision) store.Revision {
	t.Helper()
	rev, err := e.Write(t.Context(), store.Op{Key: key, Value: []byte(value), Expect: expect})
	if err != nil {
		t.Fatalf("write %s: %v", key, err)
	}
	return rev
}

func get(t testing.TB, e store.Engine, key string) *store.Record {
	t.Helper()
	r, _, err := e.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	return r
}

// events collects what a watch delivers up to a revision.
func events(t testing.TB, e store.Engine, after, upTo store.Revision) []store.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seq, err := e.Watch(ctx, "", after)
	if err != nil {
		t.Fatal(err)
	}
	var out []store.Event
	for b, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b.Events...)
		if b.Revision >= upTo {
			return out
		}
	}
	t.Fatalf("the watch ended: %v", ctx.Err())
	return nil
}

// Clients go on over several kill -9 of etcd: what they see is linearizable, and
// a watch has no gap.
func TestKills(t *testing.T) {
	s := etcdtest.Start(t)
	e := open(t, s, func(o *etcd.Options) { o.Patience = time.Minute })
	defer e.Close()
	seed := storetest.Rand(t)
	var log storetest.Log
	var wg sync.WaitGroup
	for id := range 6 {
		r := rand.New(rand.NewPCG(seed.Uint64(), seed.Uint64()))
		wg.Go(func() {
			if err := log.Client(t.Context(), e, id, r, 120); err != nil {
				t.Errorf("client %d: %v", id, err)
			}
		})
	}
	for i := range 3 {
		until(t, "writes", func() bool { return e.Revision() > store.Revision(40*(i+1)) })
		s.Kill()
		s.Run()
	}
	wg.Wait()
	if err := log.Check(); err != nil {
		t.Fatal(err)
	}
	last := map[string]store.Event{}
	n := e.Revision()
	for _, ev := range events(t, e, 0, n) {
		if was := last[ev.Key]; ev.Prev != was.Revision && !(was.Deleted && ev.Prev == 0) {
			t.Fatalf("%s goes from %d to %d, which names %d as the one before", ev.Key, was.Revision, ev.Revision, ev.Prev)
		}
		last[ev.Key] = ev
	}
	for key, ev := range last {
		if r := get(t, e, key); (r == nil) != ev.Deleted || r != nil && r.Revision != ev.Revision {
			t.Errorf("%s: the watch ends with %+v, the store has %+v", key, ev, r)
		}
	}
}

func TestDown(t *testing.T) {
	s := etcdtest.Start(t)
	e := open(t, s, func(o *etcd.Options) { o.Patience = 200 * time.Millisecond })
	defer e.Close()
	rev := put(t, e, "k", "v", store.Absent)
	s.Kill()
	_, err := e.Write(t.Context(), store.Op{Key: "k", Value: []byte("w"), Expect: rev})
	if !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrUnknown) {
		t.Fatalf("write: %v", err)
	}
	_, err = e.Write(t.Context(), store.Op{Key: "k", Value: []byte("w"), Expect: rev}) // sent to nobody
	var down *etcd.DownError
	if !errors.Is(err, store.ErrUnavailable) || !errors.As(err, &down) || !strings.Contains(err.Error(), s.Endpoint) {
		t.Fatalf("write again: %v", err)
	}
	if _, _, err := e.Get(t.Context(), "k"); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("get: %v", err)
	}
	if _, _, err := e.Range(t.Context(), "", "", 0, 0); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("range: %v", err)
	}
	if e.Err() == nil {
		t.Fatal("nothing is said of it")
	}
	if _, err := etcd.Open(t.Context(), etcd.Options{Endpoints: []string{s.Endpoint}, Patience: 50 * time.Millisecond}); !errors.As(err, &down) {
		t.Fatalf("open: %v", err)
	}
	s.Run()
	until(t, "etcd answers again", func() bool { return e.Err() == nil })
	next := put(t, e, "k", "x", rev)
	if got := events(t, e, rev, next); len(got) != 1 || string(got[0].Value) != "x" {
		t.Fatalf("%+v", got)
	}
}

// An answer that does not come back is no failure: the writer finds its own
// change and reports its revision.
func TestAnswerLost(t *testing.T) {
	s := etcdtest.Start(t)
	p := newProxy(t, s.Endpoint)
	e := open(t, s, func(o *etcd.Options) { o.Endpoints, o.Patience = []string{p.endpoint}, time.Minute })
	defer e.Close()
	kv := raw(t, s)
	put(t, e, "gone", "v", store.Absent)
	old := put(t, e, "old", "v", store.Absent)
	for _, op := range []store.Op{
		{Key: "new", Value: []byte("1"), Expect: store.Absent},
		{Key: "old", Value: []byte("2"), Expect: old},
		{Key: "any", Value: []byte("3"), Expect: store.Any},
		{Key: "gone", Delete: true, Expect: store.Any},
	} {
		at := e.Revision()
		before := etcdRevision(t, kv)
		p.set(true, false)
		type answer struct {
			rev store.Revision
			err error
		}
		done := make(chan answer)
		go func() {
			rev, err := e.Write(t.Context(), op)
			done <- answer{rev, err}
		}()
		until(t, "the write gets there", func() bool { return etcdRevision(t, kv) > before })
		p.set(false, false)
		p.cut()
		a := <-done
		if a.err != nil || a.rev != at+1 {
			t.Fatalf("%s: revision %d instead of %d: %v", op.Key, a.rev, at+1, a.err)
		}
		got := events(t, e, at, a.rev)
		if len(got) != 1 || got[0].Key != op.Key || got[0].Deleted != op.Delete {
			t.Fatalf("%s: %+v", op.Key, got)
		}
		if n := len(events(t, e, at, e.Revision())); n != 1 {
			t.Fatalf("%s was written %d times", op.Key, n)
		}
	}
}

// A write that was held up on its way, and was made by a second attempt, does not
// arrive after all: not even when the key is again as it expects.
func TestLateArrival(t *testing.T) {
	s := etcdtest.Start(t)
	p := newProxy(t, s.Endpoint)
	e := open(t, s, func(o *etcd.Options) { o.Endpoints, o.Patience = []string{p.endpoint}, time.Minute })
	defer e.Close()
	put(t, e, "warm", "v", store.Absent)
	p.set(false, true)
	done := make(chan error)
	go func() {
		_, err := e.Write(t.Context(), store.Op{Key: "k", Value: []byte("late"), Expect: store.Absent})
		done <- err
	}()
	until(t, "the write is on its way", func() bool { return p.holds() > 0 })
	p.set(false, false)
	p.cut()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := e.Write(t.Context(), store.Op{Key: "k", Delete: true, Expect: store.Any}); err != nil {
		t.Fatal(err)
	}
	if p.release() == 0 {
		t.Fatal("nothing was held back")
	}
	kv := raw(t, s) // etcd has read what was released when it has answered this, or soon after
	for range 20 {
		etcdRevision(t, kv)
		<-time.After(10 * time.Millisecond)
	}
	if r := get(t, e, "k"); r != nil {
		t.Fatalf("deleted, and then written by a dead connection: %+v", r)
	}
}

func etcdRevision(t testing.TB, kv pb.KVClient) int64 {
	t.Helper()
	r, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("/"), CountOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	return r.Header.Revision
}

func TestDamage(t *testing.T) {
	s := etcdtest.Start(t)
	e := open(t, s, nil)
	defer e.Close()
	put(t, e, "a", "v", store.Absent)
	at := put(t, e, "b", "v", store.Absent)
	kv := raw(t, s)
	r, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("/proa/kb")})
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("%v, %v", r, err)
	}
	seq, err := e.Watch(t.Context(), "", at)
	if err != nil {
		t.Fatal(err)
	}
	r.Kvs[0].Value[len(r.Kvs[0].Value)-1] ^= 4
	if _, err := kv.Put(t.Context(), &pb.PutRequest{Key: r.Kvs[0].Key, Value: r.Kvs[0].Value}); err != nil {
		t.Fatal(err)
	}
	var bad *store.CorruptError
	for _, err := range seq {
		if !errors.As(err, &bad) || bad.Key != "b" {
			t.Fatalf("watch: %v", err)
		}
		break
	}
	if _, _, err := e.Get(t.Context(), "b"); !errors.As(err, &bad) || bad.Key != "b" || bad.Revision != at+1 {
		t.Fatalf("get: %v", err)
	}
	all, _, err := e.Range(t.Context(), "", "", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err := range all {
		if n++; n == 2 && !errors.As(err, &bad) {
			t.Fatalf("range: %v", err)
		}
	}
	rev, err := e.Write(t.Context(), store.Op{Key: "b", Delete: true, Expect: store.Any})
	if err != nil || get(t, e, "b") != nil {
		t.Fatalf("a damaged record cannot be deleted: %v", err)
	}
	if got := events(t, e, rev-1, rev); len(got) != 1 || !got[0].Deleted || got[0].Value != nil {
		t.Fatalf("%+v", got)
	}
}

func TestNoSpace(t *testing.T) {
	s := etcdtest.Start(t, "--quota-backend-bytes=4194304")
	e := open(t, s, nil)
	defer e.Close()
	put(t, e, "k", "v", store.Absent)
	value := make([]byte, 512<<10)
	var err error
	for i := 0; err == nil && i < 100; i++ {
		_, err = e.Write(t.Context(), store.Op{Key: fmt.Sprint("fill/", i), Value: value, Expect: store.Absent})
	}
	if !errors.Is(err, store.ErrReadOnly) || !strings.Contains(err.Error(), "quota") {
		t.Fatalf("write: %v", err)
	}
	if r := get(t, e, "k"); r == nil || string(r.Value) != "v" {
		t.Fatalf("reads end with writes: %+v", r)
	}
	_, err = e.Write(t.Context(), store.Op{Key: "big", Value: make([]byte, 2<<20), Expect: store.Absent})
	var invalid *store.InvalidError
	if !errors.As(err, &invalid) || !strings.Contains(err.Error(), "--max-request-bytes") {
		t.Fatalf("larger than etcd takes: %v", err)
	}
}

// Two stores in one etcd: each sees only its own changes, and goes on when only
// the other one is written.
func TestTwoPrefixes(t *testing.T) {
	s := etcdtest.Start(t)
	a := open(t, s, func(o *etcd.Options) { o.Prefix, o.Owner = "/a", "one" })
	defer a.Close()
	b := open(t, s, func(o *etcd.Options) { o.Prefix, o.Owner = "/a/b", "two" })
	defer b.Close()
	put(t, a, "k", "of a", store.Absent)
	for i := range 20 {
		put(t, b, "k", fmt.Sprint(i), store.Any)
	}
	_, err := a.Write(t.Context(), store.Op{Key: "none", Delete: true, Expect: store.Any})
	var conflict *store.ConflictError
	if !errors.As(err, &conflict) {
		t.Fatalf("%v", err)
	}
	rev := put(t, a, "l", "of a", store.Absent)
	if rev < 22 || a.Revision() != rev {
		t.Fatalf("revision %d, newest %d", rev, a.Revision())
	}
	if got := events(t, a, 0, rev); len(got) != 2 || got[0].Key != "k" || got[1].Key != "l" {
		t.Fatalf("%+v", got)
	}
	all, _, err := a.Range(t.Context(), "", "", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for r, err := range all {
		if err != nil || string(r.Value) != "of a" {
			t.Errorf("%+v, %v", r, err)
		}
	}
	if err := a.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	a.Close()
	a = open(t, s, func(o *etcd.Options) { o.Prefix, o.Owner = "/a", "one" })
	defer a.Close()
	put(t, b, "k", "more", store.Any)
	next := put(t, a, "m", "of a", store.Absent)
	if got := events(t, a, rev, next); len(got) != 1 || got[0].Key != "m" {
		t.Fatalf("from etcd itself: %+v", got)
	}
}

func TestHold(t *testing.T) {
	s := etcdtest.Start(t)
	e := open(t, s, func(o *etcd.Options) { o.Owner = "one" })
	_, err := etcd.Open(t.Context(), etcd.Options{Endpoints: []string{s.Endpoint}, Owner: "two"})
	var held *store.HeldError
	if !errors.As(err, &held) || !strings.Contains(err.Error(), s.Endpoint) {
		t.Fatalf("%v", err)
	}
	again := open(t, s, func(o *etcd.Options) { o.Owner = "one" }) // as after a crash
	again.Close()
	e.Close()
	open(t, s, func(o *etcd.Options) { o.Owner = "two" }).Close()
}

// etcd is compacted by somebody else while it cannot be followed: watchers begin
// anew, and the engine goes on.
func TestCompactedMeanwhile(t *testing.T) {
	s := etcdtest.Start(t)
	p := newProxy(t, s.Endpoint)
	e := open(t, s, func(o *etcd.Options) { o.Endpoints, o.Patience = []string{p.endpoint}, time.Minute })
	defer e.Close()
	at := put(t, e, "k", "v", store.Absent)
	seq, err := e.Watch(t.Context(), "", at)
	if err != nil {
		t.Fatal(err)
	}
	p.set(true, true)
	p.cut()
	other := open(t, s, nil)
	defer other.Close()
	for i := range 10 {
		at = put(t, other, "k", fmt.Sprint(i), store.Any)
	}
	if err := other.Compact(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	p.set(false, false)
	p.cut()
	for _, err := range seq {
		if !errors.Is(err, store.ErrCompacted) {
			t.Fatalf("the watch goes on with %v", err)
		}
		break
	}
	if e.Horizon() != at {
		t.Errorf("horizon %d instead of %d", e.Horizon(), at)
	}
	next := put(t, e, "k", "w", at)
	if got := events(t, e, at, next); len(got) != 1 {
		t.Fatalf("%+v", got)
	}
}

func TestGoneBack(t *testing.T) {
	s := etcdtest.Start(t)
	e := open(t, s, func(o *etcd.Options) { o.Patience = time.Minute })
	defer e.Close()
	for i := range 10 {
		put(t, e, "k", fmt.Sprint(i), store.Any)
	}
	s.Kill()
	if err := os.RemoveAll(s.Dir); err != nil {
		t.Fatal(err)
	}
	s.Run()
	until(t, "it is noticed", func() bool { return e.Err() != nil && !errors.Is(e.Err(), store.ErrUnavailable) })
	_, err := e.Write(t.Context(), store.Op{Key: "k", Value: []byte("v"), Expect: store.Any})
	if err == nil || !strings.Contains(err.Error(), "gone back from revision") {
		t.Fatalf("%v", err)
	}
}

func TestForeignKeys(t *testing.T) {
	s := etcdtest.Start(t)
	if _, err := raw(t, s).Put(t.Context(), &pb.PutRequest{Key: []byte("/registry/x"), Value: []byte("y")}); err != nil {
		t.Fatal(err)
	}
	_, err := etcd.Open(t.Context(), etcd.Options{Endpoints: []string{s.Endpoint}, Prefix: "/registry"})
	if err == nil || !strings.Contains(err.Error(), "1 keys below /registry that are not proa's") {
		t.Fatalf("%v", err)
	}
}

// The first of two endpoints is dead.
func TestNextEndpoint(t *testing.T) {
	s := etcdtest.Start(t)
	e := open(t, s, func(o *etcd.Options) { o.Endpoints = []string{"127.0.0.1:1", s.Endpoint} })
	defer e.Close()
	put(t, e, "k", "v", store.Absent)
}

// Of three members one is killed after the other, and one stops without letting
// go of its connections: clients go on, and what they see is linearizable.
func TestMembers(t *testing.T) {
	members := etcdtest.StartMembers(t, 3)
	e := open(t, members[0], func(o *etcd.Options) {
		o.Patience = time.Minute
		o.Endpoints = nil
		for _, m := range members {
			o.Endpoints = append(o.Endpoints, m.Endpoint)
		}
	})
	defer e.Close()
	seed := storetest.Rand(t)
	var log storetest.Log
	var wg sync.WaitGroup
	for id := range 4 {
		r := rand.New(rand.NewPCG(seed.Uint64(), seed.Uint64()))
		wg.Go(func() {
			if err := log.Client(t.Context(), e, id, r, 400); err != nil {
				t.Errorf("client %d: %v", id, err)
			}
		})
	}
	for i, m := range members {
		until(t, "writes", func() bool { return e.Revision() > store.Revision(40*(i+1)) })
		if i == 2 {
			m.Pause()
			until(t, "writes without it", func() bool { return e.Revision() > 140 })
			m.Resume()
			continue
		}
		m.Kill()
		until(t, "writes without it", func() bool { return e.Revision() > store.Revision(40*(i+1)+10) })
		m.Run()
	}
	wg.Wait()
	if err := log.Check(); err != nil {
		t.Fatal(err)
	}
	events(t, e, 0, e.Revision())
}
