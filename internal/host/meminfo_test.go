package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMemory(t *testing.T) {
	const usual = "MemTotal:       65843484 kB\nMemFree:          100 kB\nMemAvailable:          0 kB\nInactive(file):  250 kB\nHugePages_Total:       4"
	for _, tt := range []struct{ text, names, want string }{
		{usual, "MemTotal", "[67423727616]"},
		{usual, "Inactive(file) MemFree MemAvailable", "[256000 102400 0]"},
		{usual, "Free", "does not tell Free"},
		{usual, "MemFree Inactive", "does not tell Inactive"},
		{usual, "HugePages_Total", `HugePages_Total is "4", not a number of kB`},
		{"MemTotal: many kB\n", "MemTotal", `MemTotal is "many kB", not a number of kB`},
		{"MemTotal: 99999999999999999999 kB\n", "MemTotal", "not a number of kB"},
		{"MemTotal:", "MemTotal", `MemTotal is "", not a number of kB`},
		{"", "MemTotal", "does not tell MemTotal"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "meminfo"), []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		all, err := Memory(dir, strings.Fields(tt.names)...)
		got := fmt.Sprint(all)
		if err != nil {
			got = err.Error()
		}
		if !strings.HasSuffix(got, tt.want) {
			t.Errorf("%s of %.40q: %s, want %s", tt.names, tt.text, got, tt.want)
		}
	}
	if _, err := Memory(t.TempDir(), "MemTotal"); err == nil {
		t.Error("there was nothing to read, and that is no error")
	}
	if all, err := Memory("/proc", "MemTotal", "MemAvailable"); err != nil || all[0] < 1<<20 || all[1] > all[0] {
		t.Errorf("this machine: %v, %v", all, err)
	}
}
