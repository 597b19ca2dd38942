package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Memory reads amounts of the machine's memory, in bytes, by their names in meminfo
// (proc(5)): MemTotal, MemAvailable and others. proc is where /proc is. One that the
// kernel does not tell is an error.
func Memory(proc string, names ...string) ([]uint64, error) {
	path := filepath.Join(proc, "meminfo")
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	out := make([]uint64, len(names))
	for i, name := range names {
		_, line, ok := strings.Cut("\n"+string(b), "\n"+name+":")
		if !ok {
			return nil, fmt.Errorf("%s does not tell %s", path, name)
		}
		line, _, _ = strings.Cut(line, "\n")
		text, ok := strings.CutSuffix(strings.TrimSpace(line), " kB")
		kb, err := strconv.ParseUint(text, 10, 54)
		if err != nil || !ok {
			return nil, fmt.Errorf("%s: %s is %q, not a number of kB", path, name, strings.TrimSpace(line))
		}
		out[i] = kb << 10
	}
	return out, nil
}
