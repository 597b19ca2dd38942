package measure

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// PretendCluster is a control plane with one pretend node, as `proa up --pretend`
// runs it, that can be killed and started again on the same data.
type PretendCluster struct {
	*Process
	Target
	program, root string
	core, port    int
}

// NewPretendCluster settles where a cluster lies and on which port it answers;
// Start starts it.
func NewPretendCluster(core int, program, root string) (*PretendCluster, error) {
	port, err := FreePort()
	return &PretendCluster{program: program, root: root, core: core, port: port}, err
}

// Start starts the program and returns at once.
func (c *PretendCluster) Start() (err error) {
	c.Process, err = Start(c.core, c.root+".log", c.program, "up", "--pretend", "--root", c.root,
		"--ports", strconv.Itoa(c.port), "--bind", "127.0.0.1", "--log-level", "warn")
	return err
}

// Ready waits until the API answers and the default namespace has what pods need.
func (c *PretendCluster) Ready() error {
	return c.Await("proa", 10*time.Millisecond, func(ctx context.Context) (err error) {
		if c.Target, err = TargetOf(filepath.Join(c.root, "etc", "kubeconfig")); err != nil {
			return err
		}
		// The namespace's account is there when the controllers run.
		_, err = c.Get(ctx, c.Client(), "/api/v1/namespaces/default/serviceaccounts/default")
		return err
	})
}

// Store is the folder of the cluster's store.
func (c *PretendCluster) Store() string { return filepath.Join(c.root, "store") }

// Kill ends the process as a crash does, and returns when it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // if it has ended, that is as well
	<-p.ended
}

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
