// Package measure is what the benchmarks have in common: statistics, the line
// that each prints last, programs pinned to a core, and the references that
// they are measured beside.
package measure

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Median is the middle of the values, 0 of none.
func Median[T cmp.Ordered](v []T) T { return Quantile(v, 0.5) }

// Quantile is the value that a share q of the values does not exceed (nearest rank).
func Quantile[T cmp.Ordered](v []T, q float64) (out T) {
	if len(v) == 0 {
		return out
	}
	v = slices.Sorted(slices.Values(v))
	return v[min(len(v)-1, max(0, int(math.Ceil(q*float64(len(v))))-1))]
}

// Ratios divides pair by pair.
func Ratios(a, b []float64) []float64 {
	r := make([]float64, min(len(a), len(b)))
	for i := range r {
		r[i] = a[i] / b[i]
	}
	return r
}

// Spread says median, least and most.
func Spread(v []float64) string {
	if len(v) == 0 {
		return "not measured"
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f)", Median(v), slices.Min(v), slices.Max(v))
}

// Millis is a time in milliseconds.
func Millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// A Claim is one figure beside its reference and its target.
type Claim struct {
	Figure    float64
	Unit      string // and what it is of
	Ratio     float64
	Reference string
	Target    float64 // of the ratio, or, if In is set, of the figure
	In        string  // unit of a target for the figure
	Less      bool    // less is better
}

// Share is how much of the target is reached; 1 or more is all of it.
func (c Claim) Share() float64 {
	have := c.Ratio
	if c.In != "" {
		have = c.Figure
	}
	if c.Less && have == 0 {
		return 1 // nothing is what was wanted
	}
	if c.Less {
		return c.Target / have
	}
	return have / c.Target
}

// String is the claim as a benchmark prints it.
func (c Claim) String() string {
	verdict, unit := "met", "x"
	if c.Share() < 1 {
		verdict = "short"
	}
	if c.In != "" {
		unit = " " + c.In
	}
	s := fmt.Sprintf("%s %s", figure(c.Figure), c.Unit)
	if c.Reference != "" {
		s += fmt.Sprintf(", ratio %.2fx of %s", c.Ratio, c.Reference)
	}
	return fmt.Sprintf("%s (target %s%s: %s)", s, figure(c.Target), unit, verdict)
}

func figure(v float64) string {
	if v >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// Report prints every claim and, last, the one that is furthest from its target.
func Report(name string, claims []Claim) {
	if len(claims) == 0 {
		return
	}
	for _, c := range claims {
		fmt.Printf("  %v\n", c)
	}
	worst := slices.MinFunc(claims, func(a, b Claim) int { return cmp.Compare(a.Share(), b.Share()) })
	fmt.Printf("bench-%s: %v\n", name, worst)
}

// Raw is the results of a run as they came, for a CSV file.
type Raw struct{ rows [][]string }

// NewRaw starts with the names of the columns.
func NewRaw(columns ...string) *Raw { return &Raw{[][]string{columns}} }

// Add adds a row: a case, and its figures.
func (r *Raw) Add(name string, round int, figures ...float64) {
	row := []string{name, strconv.Itoa(round)}
	for _, f := range figures {
		row = append(row, strconv.FormatFloat(f, 'f', 3, 64))
	}
	r.rows = append(r.rows, row)
}

// Write writes the file build/bench/NAME.csv and says so.
func (r *Raw) Write(name string) error {
	file := filepath.Join("build", "bench", name+".csv")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := errors.Join(csv.NewWriter(f).WriteAll(r.rows), f.Close()); err != nil {
		return err
	}
	fmt.Printf("  raw results: %s; load of the machine when it ended: %s\n", file, loadAverage())
	return nil
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if f := strings.Fields(string(b)); err == nil && len(f) > 0 {
		return f[0]
	}
	return "unknown"
}

// hostEnv is set in the test host.
const hostEnv = "PROA_BENCH_HOST"

// InHost runs this program again in a test host of its own, unless it is in one
// already, and ends with its status. Returns in the test host.
func InHost() error {
	if os.Getenv(hostEnv) != "" {
		return nil
	}
	if os.Getuid() != 0 {
		return errors.New("needs root: starts containers in a test host")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := append([]string{"--name", fmt.Sprintf("bench-%d", os.Getpid()), "--", self}, os.Args[1:]...)
	cmd := exec.Command("test/host.sh", args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), hostEnv+"=1")
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err == nil {
		os.Exit(0)
	}
	return err
}

// Scratch makes a folder with a short name (sockets lie in it) and returns what
// removes it.
func Scratch() (dir string, remove func(), err error) {
	if dir, err = os.MkdirTemp("/tmp", "bn-"); err != nil {
		return "", nil, err
	}
	gone := clearAway(&left.folders, dir)
	return dir, func() { os.RemoveAll(dir); gone() }, nil
}
