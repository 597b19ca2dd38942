package host

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

// The tightest limit counts, of the process's own group or one above, in both
// versions of control groups.
func TestCPULimit(t *testing.T) {
	none := math.Inf(1)
	for name, c := range map[string]struct {
		files map[string]string
		want  float64
	}{
		"nothing there":   {nil, none},
		"v2":              {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "50000 100000\n"}, 0.5},
		"v2, above":       {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": "100000 100000\n"}, 1},
		"v2, none":        {map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, none},
		"v2, a namespace": {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2},
		"v1": {map[string]string{"proc/self/cgroup": "5:memory:/m\n4:cpu:/a/b\n0::/\n", "sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us": "-1\n",
			"sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us": "100000\n", "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "150000\n", "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n"}, 1.5},
		"v1, joined": {map[string]string{"proc/self/cgroup": "4:cpu,cpuacct:/a\n", "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "100000",
			"sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000"}, 1},
		"v1, none":    {map[string]string{"proc/self/cgroup": "4:cpu:/a\n", "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1"}, none},
		"not a limit": {map[string]string{"proc/self/cgroup": "what\n0::/a\n", "sys/fs/cgroup/a/cpu.max": "many\n"}, none},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, text := range c.files {
				file = filepath.Join(root, file)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := cpuLimit(root); got != c.want {
				t.Errorf("%v processors instead of %v", got, c.want)
			}
		})
	}
}
