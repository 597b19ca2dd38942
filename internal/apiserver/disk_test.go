package apiserver_test

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds/core"
	"proa/internal/store/faulttest"
	"proa/internal/store/lsm"
	"proa/internal/store/memory"
)

// onDisk starts a server whose store is on a disk that a test can spoil.
func onDisk(t *testing.T, disk *faulttest.Disk, o lsm.Options) *apiserver.Server {
	t.Helper()
	o.FS = disk
	e, err := lsm.Open("d", o)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, e, nil)
}

// readable checks that reads go on while writes do not.
func readable(t *testing.T, s *apiserver.Server) {
	t.Helper()
	m := must[*corev1.ConfigMap](t)(core.ConfigMap.Get(t.Context(), s, "a", "x"))
	l := must[*api.Response](t)(s.Handle(t.Context(), &api.Request{Verb: api.List, Resource: core.ConfigMap.Def(), Namespace: "a"}))
	if m.Data["n"] != "1" || len(l.List.Items) != 1 {
		t.Errorf("read %v and %d objects", m.Data, len(l.List.Items))
	}
}

// A disk that fails costs its clients errors that say so, for as long as it
// does. Then the server writes again, by itself, and a watch has missed nothing.
func TestFailingDisk(t *testing.T) {
	var fail atomic.Bool
	disk := faulttest.NewDisk()
	disk.Before = func(op faulttest.Op) error {
		if fail.Load() && op.Kind.Changes() {
			return syscall.EIO
		}
		return nil
	}
	s := onDisk(t, disk, lsm.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	create := func(name string) error {
		_, err := core.ConfigMap.Create(ctx, s, configMap("a", name, "n", "1"))
		return err
	}
	if err := create("x"); err != nil {
		t.Fatal(err)
	}
	w := must[*api.Response](t)(s.Handle(ctx, &api.Request{Verb: api.Watch, Resource: core.ConfigMap.Def(), At: api.Version{ResourceVersion: "1"}}))
	for round := range 3 {
		fail.Store(true)
		for range 5 {
			wantError(t, create("in-doubt"+strconv.Itoa(round)), 500, metav1.StatusReasonInternalError, "the store failed to write to its disk")
		}
		readable(t, s)
		fail.Store(false)
		for err := create("after"); err != nil; err = create("after") { // until the server has reopened its store
			if ctx.Err() != nil {
				t.Fatalf("it does not come back: %v", err)
			}
			wantError(t, err, 500, metav1.StatusReasonInternalError, "the store failed to write to its disk")
			time.Sleep(time.Millisecond)
		}
		if err := core.ConfigMap.Delete(ctx, s, "a", "after", api.Options{}); err != nil {
			t.Fatal(err)
		}
		_ = core.ConfigMap.Delete(ctx, s, "a", "in-doubt"+strconv.Itoa(round), api.Options{}) // it may be there
	}
	last, at := s.Revision(), int64(1)
	for e, err := range w.Events {
		if err != nil || e.Revision != at+1 {
			t.Fatalf("the watch has %d after %d: %v", e.Revision, at, err)
		}
		if at = e.Revision; at == last {
			break
		}
	}
}

// A full disk refuses what needs room, lets go of things, and is forgotten as
// soon as there is room again.
func TestFullDisk(t *testing.T) {
	disk := faulttest.NewDisk()
	s := onDisk(t, disk, lsm.Options{Reserve: 1 << 20})
	if _, err := core.ConfigMap.Create(t.Context(), s, configMap("a", "x", "n", "1")); err != nil {
		t.Fatal(err)
	}
	if _, err := core.Secret.Create(t.Context(), s, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "y"}}); err != nil {
		t.Fatal(err)
	}
	disk.SetFree(1<<20 - 1)
	_, err := core.ConfigMap.Create(t.Context(), s, configMap("a", "z"))
	wantError(t, err, 507, "InsufficientStorage", "delete what is not needed")
	readable(t, s)
	if err := core.Secret.Delete(t.Context(), s, "a", "y", api.Options{}); err != nil {
		t.Errorf("a deletion, which makes room: %v", err)
	}
	disk.SetFree(1 << 30)
	if _, err := core.ConfigMap.Create(t.Context(), s, configMap("a", "z")); err != nil {
		t.Errorf("there is room again: %v", err)
	}
}

// A deletion goes by the version that it names.
func TestDeleteByVersion(t *testing.T) {
	each(t, func(t *testing.T, s *apiserver.Server) {
		old := must[*corev1.ConfigMap](t)(core.ConfigMap.Create(t.Context(), s, configMap("a", "x")))
		now := api.Clone(old)
		now.Data = map[string]string{"n": "1"}
		now = must[*corev1.ConfigMap](t)(core.ConfigMap.Update(t.Context(), s, now))
		err := core.ConfigMap.Delete(t.Context(), s, "a", "x", api.Options{ResourceVersion: &old.ResourceVersion})
		if !apierrors.IsConflict(err) {
			t.Fatalf("deleted an older version: %v", err)
		}
		readable(t, s)
		if err := core.ConfigMap.Delete(t.Context(), s, "a", "x", api.Options{ResourceVersion: &now.ResourceVersion}); err != nil {
			t.Error(err)
		}
	})
}

// A bookmark names no revision whose events have not been delivered.
func TestBookmarksAreNotAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memory.New(nil)
		s, err := apiserver.New(t.Context(), apiserver.Config{Engine: e, Kinds: kindsAll})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			s.Close()
			_ = e.Close()
		}()
		resp := must[*api.Response](t)(s.Handle(t.Context(), &api.Request{Verb: api.Watch, Resource: core.ConfigMap.Def(),
			At: api.Version{Bookmarks: true, Timeout: 10 * time.Minute}}))
		go func() {
			for i := range 50 {
				time.Sleep(10 * time.Second)
				_, _ = core.ConfigMap.Create(t.Context(), s, configMap("a", fmt.Sprint("m", i)))
			}
		}()
		marks, at := 0, int64(0)
		for e, err := range resp.Events {
			if err != nil {
				t.Fatal(err)
			}
			if e.Type == watch.Bookmark {
				marks++
				if e.Revision > s.Revision() {
					t.Fatalf("a bookmark of %d, the newest is %d", e.Revision, s.Revision())
				}
			} else if e.Revision <= at {
				t.Fatalf("the event %d comes after a bookmark of %d", e.Revision, at)
			}
			at = e.Revision
		}
		if marks < 5 {
			t.Errorf("%d bookmarks in ten minutes", marks)
		}
	})
}
