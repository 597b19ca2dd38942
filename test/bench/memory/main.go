// Command memory measures what stored objects cost in memory: the live heap and
// the PSS that 100,000 Pods add to an API server alone, and to a control plane
// with scheduler, controllers and a pretend node in the process, as multiples of
// their stored bytes. The collector is set as proa sets it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/admit"
	"proa/internal/host"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/store/lsm"
	"proa/test/bench/measure"
)

func main() {
	pods := flag.Int("pods", 100_000, "pods of 2.3 KB")
	settle := flag.Duration("settle", 25*time.Second, "how long a server is left alone before it is looked at")
	profile := flag.String("profile", "", "file for a heap profile of the whole control plane")
	alone := flag.String("alone", "", "serve the store in this folder and say what that takes (for this program itself)")
	flag.Parse()
	err := error(nil)
	if *alone != "" {
		err = serveAlone(*alone)
	} else {
		err = run(*pods, *settle, *profile)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-memory:", err)
		os.Exit(1)
	}
}

const mb = 1e6

// A use is what a process takes, in bytes.
type use struct{ heap, pss float64 }

func (u use) minus(v use) use { return use{u.heap - v.heap, u.pss - v.pss} }

func run(pods int, settle time.Duration, profile string) error {
	program, err := measure.Proa()
	if err != nil {
		return err
	}
	dir, remove, err := measure.Scratch()
	if err != nil {
		return err
	}
	defer remove()
	c, err := measure.NewPretendCluster(measure.AnyCore, program, filepath.Join(dir, "p"))
	if err != nil {
		return err
	}
	raw := measure.NewRaw("server", "pods", "heap_mb", "pss_mb")
	var alone, whole [2]use
	stored := int64(0)
	for i := range 2 {
		if whole[i], err = runWhole(c, settle, []string{"", profile}[i]); err != nil {
			return err
		}
		if alone[i], err = runAlone(c.Store()); err != nil {
			return err
		}
		raw.Add("control plane", i*pods, 0, whole[i].heap/mb, whole[i].pss/mb)
		raw.Add("server alone", i*pods, 0, alone[i].heap/mb, alone[i].pss/mb)
		fmt.Printf("  %d pods: the server alone %.1f MB live heap, %.1f MB PSS; with scheduler, controllers and a node %.1f MB, %.1f MB\n",
			i*pods, alone[i].heap/mb, alone[i].pss/mb, whole[i].heap/mb, whole[i].pss/mb)
		if i == 0 {
			if stored, err = measure.Lay(c.Store(), core.Pod.Def(), sample, pods); err != nil {
				return err
			}
		}
	}
	fmt.Printf("  %d pods are %.1f MB as stored, %d bytes each; GOGC as proa sets it: 100, with at most %d MB above what lives\n",
		pods, float64(stored)/mb, stored/int64(pods), host.MaxHeadroom>>20)
	if err := raw.Write("memory"); err != nil {
		return err
	}
	claim := func(what string, u use, target float64) measure.Claim {
		return measure.Claim{Figure: u.heap / mb, Unit: fmt.Sprintf("MB of live heap for %d pods in %s (%.1f MB PSS)", pods, what, u.pss/mb),
			Ratio: u.heap / float64(stored), Reference: "their stored bytes", Target: target, Less: true}
	}
	measure.Report("memory", []measure.Claim{
		claim("a server alone", alone[1].minus(alone[0]), 1.5),
		claim("a server with scheduler and controllers", whole[1].minus(whole[0]), 4),
	})
	return nil
}

const sample = "sample"

// runWhole starts the control plane and looks at it once it has come to rest.
func runWhole(c *measure.PretendCluster, settle time.Duration, profile string) (u use, err error) {
	if err := errors.Join(c.Launch(), c.Ready()); err != nil {
		return u, err
	}
	defer func() { c.Stop() }()
	ctx := context.Background()
	client := c.Client()
	defer client.CloseIdleConnections()
	if _, err := c.Get(ctx, client, c.Path("pods")+"/"+sample); err != nil {
		if _, err := c.Do(ctx, client, http.MethodPost, c.Path("pods"), `{"apiVersion":"v1",`+measure.PodBody(sample)); err != nil {
			return u, err
		}
	}
	if err := rest(c.PID()); err != nil {
		return u, err
	}
	time.Sleep(settle)
	b, err := c.Get(ctx, client, "/debug/pprof/heap?gc=1")
	if err != nil {
		return u, err
	}
	if profile != "" {
		if err := os.WriteFile(profile, b, 0o600); err != nil {
			return u, err
		}
	}
	if b, err = c.Get(ctx, client, "/metrics"); err != nil {
		return u, err
	}
	u.heap = measure.Metric(b, "go_memstats_heap_alloc_bytes")
	pss, err := measure.PSS(c.PID())
	u.pss = float64(pss)
	return u, err
}

// rest waits until a process has nothing to do: it has read its data.
func rest(pid int) error {
	for range 150 {
		before, err := measure.CPU(pid)
		if err != nil {
			return err
		}
		time.Sleep(2 * time.Second)
		after, err := measure.CPU(pid)
		if err != nil {
			return err
		}
		if after-before < 100*time.Millisecond {
			return nil
		}
	}
	return errors.New("the server does not come to rest within five minutes")
}

// runAlone has this program serve the store, and reads what it says.
func runAlone(dir string) (u use, err error) {
	self, err := os.Executable()
	if err != nil {
		return u, err
	}
	log := dir + ".alone"
	p, err := measure.Start(measure.AnyCore, log, self, "-alone", dir)
	if err != nil {
		return u, err
	}
	<-p.Ended()
	b, err := os.ReadFile(log)
	if err != nil {
		return u, err
	}
	defer os.Remove(log)
	f := strings.Fields(string(b))
	if len(f) != 2 {
		return u, fmt.Errorf("the server alone says %q", b)
	}
	heap, err1 := strconv.ParseFloat(f[0], 64)
	pss, err2 := strconv.ParseFloat(f[1], 64)
	return use{heap, pss}, errors.Join(err1, err2)
}

// serveAlone loads a store as an API server does, with nothing beside it.
func serveAlone(dir string) error {
	e, err := lsm.Open(dir, lsm.Options{})
	if err != nil {
		return err
	}
	defer e.Close()
	s, err := apiserver.New(context.Background(), apiserver.Config{Engine: e, Kinds: kinds.All, Admit: admit.All(admit.Settings{}), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := core.Pod.Get(context.Background(), api.As(api.User{Name: "bench", Groups: []string{api.GroupMasters}}, s), "default", sample); err != nil {
		return err
	}
	host.TightHeap()
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	pss, err := measure.PSS(os.Getpid())
	fmt.Println(m.HeapAlloc, pss)
	return err
}
