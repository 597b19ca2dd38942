package node

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"proa/internal/host"
	"proa/internal/kubeletapi"
)

// Consumption returns a function that says what this machine has used: processor
// time since it started, and the memory that is not free and does not merely hold
// files that nobody has read lately. A call reads two small files in /proc.
func Consumption(now func() time.Time) func() (kubeletapi.Use, error) {
	c := &consumption{proc: "/proc", now: now}
	return c.read
}

type consumption struct {
	proc string
	now  func() time.Time
}

// tick is the unit of /proc/stat, which is the same on every machine that Linux
// shows to programs: a hundredth of a second.
const tick = 10 * time.Millisecond

func (c *consumption) read() (u kubeletapi.Use, err error) {
	u.Time = c.now()
	if u.CPU, err = c.busy(); err != nil {
		return u, err
	}
	u.Memory, err = c.workingSet()
	return u, err
}

// busy adds up what all processors did that was work for this machine:
//
//	cpu  user nice system idle iowait irq softirq steal guest guest_nice
//
// where guest is in user already, and steal went to others.
func (c *consumption) busy() (uint64, error) {
	path := filepath.Join(c.proc, "stat")
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	f := strings.Fields(string(line))
	if len(f) < 8 || f[0] != "cpu" {
		return 0, fmt.Errorf("%s begins with %.80q, not with a line of ten numbers", path, line)
	}
	sum := uint64(0)
	for _, i := range []int{1, 2, 3, 6, 7} {
		n, err := strconv.ParseUint(f[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		sum += n
	}
	return sum * uint64(tick), nil
}

func (c *consumption) workingSet() (uint64, error) {
	m, err := host.Memory(c.proc, "MemTotal", "MemFree", "Inactive(file)")
	if err != nil {
		return 0, err
	}
	used := m[0] - min(m[0], m[1])
	return used - min(used, m[2]), nil
}
