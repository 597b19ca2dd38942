// Package dns is the cluster's name server: the Kubernetes DNS specification
// 1.1.0, answered from memory, on every node. Everything outside of the
// cluster's zone is asked of the resolvers that the node itself uses.
//
// Names are kept in wire form, lower case, in one map. Address queries, by far
// the most, are parsed, looked up and answered without an allocation; all
// others take the way through github.com/miekg/dns.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"

	"proa/internal/api"
)

// Config is what a name server needs to know. Listen is required.
type Config struct {
	Log *slog.Logger

	Listen []netip.AddrPort // UDP and TCP; the addresses need not be there yet
	Zone   string           // the cluster's domain; default "cluster.local"

	// ResolvConf names the file with the resolvers to ask about other names;
	// default "/etc/resolv.conf". It is read again when it changes. When it
	// names only the stub of systemd-resolved, StubConf is read instead, default
	// "/run/systemd/resolve/resolv.conf".
	ResolvConf, StubConf string
}

// TTL of the answers about the cluster, in seconds, negative ones included.
const ttl = 5

// A Server is a name server.
type Server struct {
	c     Config
	log   *slog.Logger
	zone  *zone
	fwd   *forwarder
	ready chan struct{}

	mu     sync.Mutex
	synced uint8
}

// New returns a server that does not listen yet.
func New(c Config) (*Server, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Zone == "" {
		c.Zone = "cluster.local"
	}
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	if c.StubConf == "" {
		c.StubConf = "/run/systemd/resolve/resolv.conf"
	}
	if len(c.Listen) == 0 {
		return nil, errors.New("dns: an address to listen on is required")
	}
	c.Zone = strings.ToLower(strings.Trim(c.Zone, "."))
	if _, ok := wireName(c.Zone); !ok {
		return nil, fmt.Errorf("dns: %q is no domain name", c.Zone)
	}
	s := &Server{c: c, log: c.Log, zone: newZone(c.Zone, c.Listen), ready: make(chan struct{})}
	s.fwd = newForwarder(&s.c, s.zone.wire)
	return s, nil
}

// Ready is closed when the server listens and knows the whole cluster.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run answers until ctx ends, from what h holds. Queries for the cluster's
// names that come before everything is known are answered SERVFAIL, so that
// nobody takes a name for missing.
func Run(ctx context.Context, h api.Handler, s *Server) error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	if err := s.fwd.start(ctx, &all); err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	all.Go(func() { s.follow(ctx, h) })
	return s.serve(ctx)
}

// Bits of Server.synced.
const (
	haveServices = 1 << iota
	haveSlices
	haveNamespaces
	haveSockets
	haveAll = 1<<iota - 1
)

func (s *Server) have(bit uint8) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.synced
	s.synced |= bit
	if before|haveSockets != haveAll && s.synced|haveSockets == haveAll {
		s.zone.open()
	}
	if before != haveAll && s.synced == haveAll {
		close(s.ready)
		s.log.Info("The cluster's name server answers", "listen", s.c.Listen, "zone", s.c.Zone)
	}
}
