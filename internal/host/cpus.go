package host

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// FitCPUs makes Go use one processor at a time where a limit lets this process
// have no more than one. Go itself goes down to two: they use up in a part of each
// period of the limit (100 ms) what they are allowed, most of all while garbage is
// collected, and for the rest of it nothing runs at all. GOMAXPROCS, if it is set
// in the environment, has the last word.
func FitCPUs() {
	if os.Getenv("GOMAXPROCS") == "" && cpuLimit("/") <= 1 {
		runtime.GOMAXPROCS(1)
	}
}

// cpuLimit is how many processors' time the control groups of this process, below
// a root folder, let it have; infinite without a limit.
func cpuLimit(root string) float64 {
	limit := math.Inf(1)
	own, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return limit
	}
	for line := range strings.Lines(string(own)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3) // 0::/a/b, or 4:cpu,cpuacct:/a/b
		if len(part) < 3 {
			continue
		}
		top := filepath.Join(root, "sys/fs/cgroup")
		switch {
		case slices.Contains(strings.Split(part[1], ","), "cpu"):
			top = filepath.Join(top, part[1])
		case part[1] != "":
			continue
		}
		for dir := filepath.Clean("/" + part[2]); ; dir = filepath.Dir(dir) {
			limit = min(limit, limitOf(filepath.Join(top, dir)))
			if dir == "/" {
				break
			}
		}
	}
	return limit
}

// limitOf is what one control group of either version says.
func limitOf(dir string) float64 {
	number := func(s string) float64 {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || f <= 0 {
			return math.NaN()
		}
		return f
	}
	file := func(name string) string {
		b, _ := os.ReadFile(filepath.Join(dir, name)) // not there: no limit
		return strings.TrimSpace(string(b))
	}
	quota, period, _ := strings.Cut(file("cpu.max"), " ")
	if quota == "" {
		quota, period = file("cpu.cfs_quota_us"), file("cpu.cfs_period_us")
	}
	if limit := number(quota) / number(period); !math.IsNaN(limit) {
		return limit
	}
	return math.Inf(1)
}
