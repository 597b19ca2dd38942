package node

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestConsumption(t *testing.T) {
	now := time.Unix(7, 0)
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := &consumption{proc: dir, now: func() time.Time { return now }}
	if _, err := c.read(); err == nil {
		t.Error("nothing was read")
	}
	write("stat", "cpu  100 20 3 4000 500 6 7 800 90 10\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
	write("meminfo", "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    300 kB\n")
	if _, err := c.read(); err == nil {
		t.Error("a meminfo without Inactive(file) was taken")
	}
	write("meminfo", "MemTotal:       1000 kB\nMemFree:         100 kB\nInactive(file):  250 kB\n")
	u, err := c.read()
	if err != nil || u.CPU != uint64(1360*time.Millisecond) || u.Memory != 650<<10 || !u.Time.Equal(now) {
		t.Errorf("%+v, %v", u, err)
	}
	write("stat", "cpu  100 20\n")
	if _, err := c.read(); err == nil {
		t.Error("a short line was taken")
	}
	real := Consumption(time.Now)
	a, err := real()
	if err != nil || a.CPU == 0 || a.Memory == 0 {
		t.Errorf("this machine: %+v, %v", a, err)
	}
	if b, err := real(); err != nil || b.CPU < a.CPU {
		t.Errorf("this machine: %+v after %+v, %v", b, a, err)
	}
}
