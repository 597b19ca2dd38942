package story

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"proa/internal/node/mounts"
)

// TestReboot takes the power away: every process of the cluster ends at once, and
// mounts, /run and the node's interface are gone, as after a reboot. The next
// start brings every pod back, restarted once in a new sandbox, none doubled.
func TestReboot(t *testing.T) {
	h := newHost(t, true)
	c := startWeb(t, h)
	c.powerOff()
	t.Logf("started in %s", c.up())
	c.until(60*time.Second, "3/3", "get", "deployment", "web")
	c.until(60*time.Second, "1 1 1 1 1 1 ", "get", "pods", "-l", "app=web", "-o",
		"jsonpath={range .items[*].status.containerStatuses[*]}{.restartCount} {end}")
	c.addresses()
	answers(t, client(h.ns), "GET", "http://"+c.k("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")+"/", "", "proa-test")
}

// powerOff ends all that runs and removes what a machine forgets. proa goes
// first, and containerd before its containers, so that nobody sees anything end.
func (c *cluster) powerOff() {
	c.t.Helper()
	kill(c.t, c.pid())
	kill(c.t, pidIn(c.t, c.p.Run+"/containerd/containerd.pid"))
	for range 10 { // what is killed may just have started something
		n := 0
		for pid, args := range processes() {
			ours := strings.Contains(args, c.root+"/") || strings.Contains(cgroupOf(pid), c.p.Cgroup())
			if ours && unix.Kill(pid, 0) == nil { // it may have ended with another
				kill(c.t, pid)
				n++
			}
		}
		if n == 0 {
			break
		}
	}
	if err := mounts.Below(c.root); err != nil {
		c.t.Fatal(err)
	}
	if err := os.RemoveAll(c.p.Run); err != nil {
		c.t.Fatal(err)
	}
	n := at(c.t, c.ns)
	link, err := n.LinkByName(c.p.Device())
	if err == nil {
		err = n.LinkDel(link)
	}
	if _, gone := err.(netlink.LinkNotFoundError); err != nil && !gone {
		c.t.Fatal(err)
	}
}
