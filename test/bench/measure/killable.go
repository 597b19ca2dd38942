package measure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A Killable is a server, with all its processes, that can be killed and started
// again on the same data. It serves pods and configmaps of the same JSON as
// every other, in the namespace default.
type Killable interface {
	Name() string
	Launch() error                 // starts all processes and returns at once
	Ready() error                  // waits until it answers and works as a whole
	Kill()                         // ends all processes, as a crash does, and waits until they are gone
	Stop()                         // in peace
	Failed() error                 // why a process has ended by itself since Launch, or nil
	PIDs() []int                   // of its processes
	Server() Target                // where it answers; known once it was ready
	Path(resource string) string   // of the objects of a resource
	APIVersion() string            // that they have
	Definition(kind string) string // how the resource of a kind is defined; empty if it is built in
}

// PretendCluster is a control plane with pretend nodes, as `proa up --pretend`
// runs it.
type PretendCluster struct {
	*Process
	Target
	Nodes         int // one if 0
	program, root string
	core, port    int
}

// NewPretendCluster settles where a cluster lies and on which port it answers.
func NewPretendCluster(core int, program, root string) (*PretendCluster, error) {
	port, err := FreePort()
	return &PretendCluster{program: program, root: root, core: core, port: port}, err
}

// Name is Killable's.
func (c *PretendCluster) Name() string { return "proa" }

// Launch is Killable's.
func (c *PretendCluster) Launch() (err error) {
	c.Process, err = Start(c.core, c.root+".log", c.program, "up", "--pretend", "--root", c.root,
		"--ports", strconv.Itoa(c.port), "--bind", "127.0.0.1", "--log-level", "warn",
		"--nodes", strconv.Itoa(max(c.Nodes, 1)))
	return err
}

// Ready is Killable's.
func (c *PretendCluster) Ready() error {
	return c.Await("proa", 10*time.Millisecond, func(ctx context.Context) (err error) {
		if c.Target, err = TargetOf(filepath.Join(c.root, "etc", "kubeconfig")); err != nil {
			return err
		}
		client := c.Client()
		defer client.CloseIdleConnections()
		// The namespace's account is there when the controllers run.
		_, err = c.Get(ctx, client, "/api/v1/namespaces/default/serviceaccounts/default")
		return err
	})
}

// PIDs is Killable's.
func (c *PretendCluster) PIDs() []int { return []int{c.PID()} }

// Server is Killable's.
func (c *PretendCluster) Server() Target { return c.Target }

// Path is Killable's.
func (c *PretendCluster) Path(resource string) string {
	return "/api/v1/namespaces/default/" + resource
}

// APIVersion is Killable's.
func (c *PretendCluster) APIVersion() string { return "v1" }

// Definition is Killable's.
func (c *PretendCluster) Definition(string) string { return "" }

// Store is the folder of the cluster's store.
func (c *PretendCluster) Store() string { return filepath.Join(c.root, "store") }

// CRDPair is a CRD server with an etcd of its own.
type CRDPair struct {
	Etcd     *Etcd
	CRD      *CRD
	ID       *Identity
	core     int
	bin, dir string
}

// NewCRDPair settles where the two lie; bin holds the programs.
func NewCRDPair(core int, bin, dir string) (*CRDPair, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	id, err := NewIdentity(dir)
	return &CRDPair{ID: id, core: core, bin: bin, dir: dir}, err
}

// Name is Killable's.
func (c *CRDPair) Name() string { return "crd" }

// Launch is Killable's. The API server waits for etcd by itself.
func (c *CRDPair) Launch() (err error) {
	if c.Etcd, err = LaunchEtcd(c.core, c.bin, c.dir, c.ID); err != nil {
		return err
	}
	if c.CRD, err = LaunchCRD(c.core, c.bin, c.dir, c.ID, c.Etcd); err != nil {
		c.Etcd.Kill()
	}
	return err
}

// Ready is Killable's. It defines the resources, too.
func (c *CRDPair) Ready() error {
	client := c.CRD.Client()
	defer client.CloseIdleConnections()
	for _, kind := range []string{"Pod", "ConfigMap"} {
		err := c.CRD.Await("the CRD server", 10*time.Millisecond, func(ctx context.Context) error {
			_, err := c.CRD.Get(ctx, client, c.Path(strings.ToLower(kind)+"s")+"?limit=1")
			if err == nil {
				return nil
			}
			_, e := c.CRD.Do(ctx, client, http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", c.Definition(kind))
			return errors.Join(err, e)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Kill is Killable's.
func (c *CRDPair) Kill() {
	c.CRD.Process.signalKill()
	c.Etcd.Kill()
	c.CRD.Kill()
}

// Stop is Killable's.
func (c *CRDPair) Stop() {
	c.CRD.Stop()
	c.Etcd.Stop()
}

// Failed is Killable's.
func (c *CRDPair) Failed() error { return errors.Join(c.Etcd.Failed(), c.CRD.Failed()) }

// PIDs is Killable's.
func (c *CRDPair) PIDs() []int { return []int{c.Etcd.PID(), c.CRD.PID()} }

// Server is Killable's.
func (c *CRDPair) Server() Target { return c.CRD.Target }

// CRDGroup is the group of the custom resources.
const CRDGroup = "bench.proa.local"

// Path is Killable's.
func (c *CRDPair) Path(resource string) string {
	return "/apis/" + c.APIVersion() + "/namespaces/default/" + resource
}

// APIVersion is Killable's.
func (c *CRDPair) APIVersion() string { return CRDGroup + "/v1" }

// Definition is Killable's.
func (c *CRDPair) Definition(kind string) string {
	return fmt.Sprintf(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"%[3]ss.%[1]s"},
"spec":{"group":%[1]q,"scope":"Namespaced","names":{"plural":"%[3]ss","singular":%[3]q,"kind":%[2]q,"listKind":"%[2]sList"},
"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`,
		CRDGroup, kind, strings.ToLower(kind))
}

var (
	_ Killable = (*PretendCluster)(nil)
	_ Killable = (*CRDPair)(nil)
)

// Kill ends the process as a crash does, and returns when it is gone.
func (p *Process) Kill() {
	p.signalKill()
	<-p.ended
}

func (p *Process) signalKill() { _ = p.cmd.Process.Kill() } // if it has ended, that is as well

// Failed is why the process has ended, or nil while it runs.
func (p *Process) Failed() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s ended: %w", filepath.Base(p.cmd.Path), errors.Join(p.err, errSelfEnded))
	default:
		return nil
	}
}

var errSelfEnded = errors.New("nobody told it to")

// Peak is the most memory, in bytes, that a process has had resident since it
// started (VmHWM of proc(5)).
func Peak(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status tells no VmHWM", pid)
}
