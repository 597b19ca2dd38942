package etcd_test

import (
	"context"
	"testing"

	"proa/internal/store"
	"proa/internal/store/etcd"
	"proa/internal/store/etcd/etcdtest"
	"proa/internal/store/storetest"
)

func open(t testing.TB, s *etcdtest.Server, change func(*etcd.Options)) *etcd.Engine {
	t.Helper()
	o := etcd.Options{Endpoints: []string{s.Endpoint}}
	if change != nil {
		change(&o)
	}
	e, err := etcd.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEtcd(t *testing.T) {
	etcdtest.Binary(t)
	storetest.Run(t, true, func(t *testing.T) storetest.Opener {
		s := etcdtest.Start(t)
		return func(t testing.TB, clock store.Clock) store.Engine {
			return open(t, s, func(o *etcd.Options) { o.Clock, o.Owner = clock, "test" })
		}
	})
}

func TestHistory(t *testing.T) {
	etcdtest.Binary(t)
	storetest.RunHistory(t, true, func(t *testing.T) storetest.KeepingOpener {
		s := etcdtest.Start(t)
		return func(t testing.TB, clock store.Clock, k store.Keeping) store.Engine {
			return open(t, s, func(o *etcd.Options) { o.Clock, o.Owner, o.History = clock, "test", k })
		}
	})
}
