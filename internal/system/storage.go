package system

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"proa/internal/host"
	"proa/internal/store"
	"proa/internal/store/etcd"
	"proa/internal/store/lsm"
	"proa/internal/store/memory"
	"proa/internal/store/snapshot"
)

// The stores that are not named by an etcd's URL.
const (
	StoreLSM    = "lsm"    // Pebble, in the root's folder
	StoreMemory = "memory" // nowhere
)

// A StoreConfig says where the cluster's data is kept.
type StoreConfig struct {
	URL            string  // StoreLSM, StoreMemory or an etcd's URL; empty: StoreLSM
	History        History // of objects' earlier states
	CA, Cert, Key  string  // PEM files, for an etcd with TLS: its authority, and what to show to it
	AnyUnfinished  bool    // opens also what a restore has left unfinished
	AnyOfThisPlace bool    // opens also another store than the cluster was started with

	// ScrubEvery and ScrubRate are those of lsm.Options.
	ScrubEvery time.Duration
	ScrubRate  int64
}

// CheckStore returns an error if a URL names no store.
func CheckStore(url string) error {
	if url == StoreLSM || url == StoreMemory {
		return nil
	}
	if !strings.Contains(url, "://") {
		return errors.New("must be lsm, memory, or the URL of an etcd such as etcd://10.0.0.1:2379")
	}
	_, err := etcd.ParseURL(url)
	return err
}

// place names a store whatever endpoints lead to it.
func (c StoreConfig) place() string {
	if t, err := etcd.ParseURL(c.URL); err == nil {
		return "etcd" + t.Prefix
	}
	if c.URL == "" {
		return StoreLSM
	}
	return c.URL
}

// A Storage is an open store, and the hold on the place that it belongs to.
type Storage struct {
	store.Engine
	place string
	hold  io.Closer // nil: the engine's own
}

// OpenStorage opens the store of a cluster, which no other process can use then.
func OpenStorage(ctx context.Context, p Places, c StoreConfig, log *slog.Logger) (*Storage, error) {
	s, err := openStorage(ctx, p, c, log)
	var held *store.HeldError
	switch {
	case errors.As(err, &held) && held.Dir != p.Store():
		return nil, fmt.Errorf("another proa uses %s, or was killed there in the last seconds: stop it, or give this one another prefix, as in --store=etcd://HOST:PORT/PREFIX", held.Dir)
	case errors.As(err, &held):
		return nil, fmt.Errorf("another proa (process %d) runs the cluster in %s: stop it with 'proa down', or give this one its own --root", held.PID, p.Root)
	case err != nil:
		return nil, fmt.Errorf("open the store: %w", err)
	}
	if c.AnyUnfinished {
		return s, nil
	}
	if err := snapshot.Finished(ctx, s.Engine); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func openStorage(ctx context.Context, p Places, c StoreConfig, log *slog.Logger) (*Storage, error) {
	s := &Storage{place: c.place()}
	var err error
	if s.place == StoreLSM {
		if err := c.settled(p); err != nil {
			return nil, err
		}
		s.Engine, err = lsm.Open(p.Store(), lsm.Options{Logger: log, History: c.History.keeping(), ScrubEvery: c.ScrubEvery, ScrubRate: c.ScrubRate})
		return s, err
	}
	if err := os.MkdirAll(p.Store(), 0o700); err != nil {
		return nil, err
	}
	if s.hold, err = store.Hold(p.Store()); err != nil {
		return nil, err
	}
	if err = c.settled(p); err == nil {
		switch s.place {
		case StoreMemory:
			s.Engine = memory.Keeping(nil, c.History.keeping())
		default:
			s.Engine, err = c.openEtcd(ctx, p, log)
		}
	}
	if err != nil {
		s.hold.Close()
		return nil, err
	}
	return s, nil
}

func (c StoreConfig) openEtcd(ctx context.Context, p Places, log *slog.Logger) (store.Engine, error) {
	t, err := etcd.ParseURL(c.URL)
	if err != nil {
		return nil, err
	}
	o := etcd.Options{Endpoints: t.Endpoints, Prefix: t.Prefix, Logger: log, History: c.History.keeping()}
	if t.TLS {
		if o.TLS, err = c.tls(); err != nil {
			return nil, err
		}
	}
	if o.Owner, err = owner(p); err != nil {
		return nil, err
	}
	return etcd.Open(ctx, o)
}

func (c StoreConfig) tls() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("--store-ca: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--store-ca: %s holds no certificate in PEM", c.CA)
		}
	}
	if (c.Cert == "") != (c.Key == "") {
		return nil, errors.New("--store-cert and --store-key go together")
	}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("--store-cert and --store-key: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// owner is the name under which this place holds a store elsewhere.
func owner(p Places) (string, error) {
	file := filepath.Join(p.Store(), "owner")
	b, err := os.ReadFile(file)
	if err == nil && len(b) > 0 {
		return string(b), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never fails
	name := hex.EncodeToString(random)
	return name, host.WriteFile(file, []byte(name), 0o600)
}

// settled says whether the cluster at a place keeps its data in this store: with
// another one it would be an empty cluster, and its containers would be removed.
func (c StoreConfig) settled(p Places) error {
	if c.AnyOfThisPlace {
		return nil
	}
	i, err := identityOf(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	have := StoreConfig{URL: i.Store}
	if have.place() == c.place() {
		return nil
	}
	return fmt.Errorf("the cluster in %s keeps its data in %s, not in %s: start it with --store=%s; to move it, see 'proa snapshot save --help' and 'proa snapshot restore --help'",
		p.Root, have.name(), c.name(), have.name())
}

func (c StoreConfig) name() string {
	if c.URL == "" {
		return StoreLSM
	}
	return c.URL
}

// Err says why the store does not take writes, or nil.
func (s *Storage) Err() error {
	if e, ok := s.Engine.(interface{ Err() error }); ok {
		return e.Err()
	}
	return nil
}

// Syncs is how often the store has made this machine's disk sync.
func (s *Storage) Syncs() int64 {
	if e, ok := s.Engine.(*lsm.Engine); ok {
		return e.Syncs()
	}
	return 0
}

// Close closes the store and gives its place back.
func (s *Storage) Close() error {
	err := s.Engine.Close()
	if s.hold != nil {
		err = errors.Join(err, s.hold.Close())
	}
	return err
}
