// Package system is the composition root: it decides which parts of Proa run
// in this process, hands each what it needs, and starts and stops them in order.
//
//	store ── API server ── HTTPS
//	            ├── controllers, scheduler
//	            └── node: containerd, registry, pod network, service proxy, DNS, agent
package system

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"proa/internal/host"
	"proa/internal/node/fleet"
	"proa/internal/pki"
	"proa/internal/sched"
	"proa/internal/sched/plugins"
)

// Config is what a cluster on one machine is started with. Places, Domain,
// Ports, node ports, Log, Say and Ready are required.
type Config struct {
	Places        Places
	NodeName      string // the host's name if empty
	Nodes         int    // pretend nodes
	Pretend       bool   // no containers, no privileges
	PretendScript string // file that says what happens to pretend nodes (see [fleet.Parse]); nothing if empty
	Store         StoreConfig
	Bind          string // address that the API listens on; all if empty
	Advertise     string // address of this machine; found out if empty
	Ports         Ports
	PodCIDR       netip.Prefix // chosen if invalid
	ServiceCIDR   netip.Prefix // chosen if invalid
	NodePortFrom  int
	NodePortTo    int
	Domain        string
	SANs          []string // further names in the API's certificate
	MaxObject     int64    // largest body of a request, in bytes; the server's own limit if 0
	History       History

	SchedulerConfig string // file with a KubeSchedulerConfiguration; none if empty
	SchedulerSeed   uint64 // of the clock if 0

	// RuntimeEndpoint is the socket of a runtime that somebody else runs.
	RuntimeEndpoint string

	Log   *slog.Logger
	Say   func(format string, args ...any) // progress, for the user
	Ready func()                           // called once, when everything works
}

// A system is one run of the cluster.
type system struct {
	Config
	id      identity
	address netip.Addr // of this machine
	now     func() time.Time
	ca      *pki.CA
	engine  *Storage
	placing sched.Config  // what the file says
	script  *fleet.Script // of the pretend nodes

	fail  context.CancelCauseFunc
	parts sync.WaitGroup
}

// Run starts the cluster and returns when ctx ends, with nil, or when something
// that it cannot do without has failed. Containers run on.
func Run(ctx context.Context, c Config) error {
	s := &system{Config: c, now: time.Now}
	if err := s.prepare(); err != nil {
		return err
	}
	defer os.Remove(c.Places.PID())
	defer s.engine.Close()
	defer s.parts.Wait()
	ctx, s.fail = context.WithCancelCause(ctx)
	defer s.fail(nil)

	if err := s.start(ctx); err != nil && ctx.Err() == nil {
		s.fail(err)
	}
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	c.Say("Stopping; containers run on")
	return nil
}

// prepare makes folders, takes the data, and settles who this cluster is.
func (s *system) prepare() error {
	var err error
	if s.placing, err = schedulerConfig(s.SchedulerConfig); err != nil {
		return err
	}
	if s.script, err = s.readScript(); err != nil {
		return err
	}
	for _, dir := range []string{s.Places.Root, s.Places.Run, s.Places.Etc} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
	}
	host.FitCPUs()
	host.ExpectHeap(expansion * folderSize(s.Places.Store()))
	s.Store.History = s.History
	engine, err := OpenStorage(context.Background(), s.Places, s.Store, s.Log)
	if err != nil {
		return err
	}
	s.engine = engine
	err = s.History.forget(engine.Engine)
	if err == nil {
		err = s.introduce()
	}
	if err != nil {
		engine.Close()
		return err
	}
	return nil
}

// schedulerConfig reads how pods are placed.
func schedulerConfig(file string) (sched.Config, error) {
	if file == "" {
		return sched.Config{Plugins: plugins.All}, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return sched.Config{}, fmt.Errorf("read the scheduler's configuration: %w", err)
	}
	c, err := sched.Load(text, plugins.All)
	if err != nil {
		return c, fmt.Errorf("scheduler's configuration %s: %w", file, err)
	}
	return c, nil
}

// expansion is how much more memory the state may take than its folder has on
// the disk, where it is compressed.
const expansion = 10

// folderSize is how many bytes the files below a folder have; 0 if it is not there.
func folderSize(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if i, err := d.Info(); err == nil {
				sum += i.Size()
			}
		}
		return nil // what cannot be looked at will be missed when it is opened
	})
	return sum
}

func (s *system) introduce() (err error) {
	if err := os.WriteFile(s.Places.PID(), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	if s.id, err = settle(&s.Config); err != nil {
		return err
	}
	s.address = hostAddress()
	if s.Advertise != "" {
		s.address, err = netip.ParseAddr(s.Advertise)
	}
	if !s.address.IsValid() {
		// Without any network the node's own address in the pod network will do.
		s.address = nth(s.id.PodCIDR, 1)
		if s.Pretend {
			s.address = netip.MustParseAddr("127.0.0.1")
		}
	}
	return err
}

// start brings up the parts, each as soon as what it needs is there.
func (s *system) start(ctx context.Context) error {
	var m *machine
	var err error
	if s.engine.place == StoreMemory {
		s.Say("NOTHING IS KEPT: with --store=memory every object is lost when proa ends")
	}
	if !s.Pretend {
		if m, err = s.startMachine(ctx); err != nil {
			return err
		}
	}
	p, err := s.startPlane(ctx)
	if err != nil {
		return err
	}
	if s.Pretend {
		s.startPretend(ctx, p)
	} else if err = s.startNode(ctx, p, m); err != nil {
		return err
	}
	if err := s.awaitNodes(ctx, p); err != nil {
		return err
	}
	s.parts.Go(func() { p.meter.Run(ctx, p.Server) })
	s.Say("Ready. kubeconfig: %s", s.Places.Kubeconfig())
	s.Ready()
	return nil
}

// part runs one part until it returns. A part that ends with an error before it
// is told to ends the whole.
func (s *system) part(ctx context.Context, name string, run func(context.Context) error) {
	s.parts.Go(func() {
		err := run(ctx)
		if ctx.Err() == nil {
			s.fail(fmt.Errorf("%s ended: %w", name, errors.Join(err, errEnded)))
		}
	})
}

var errEnded = errors.New("it should run until it is told to stop")
