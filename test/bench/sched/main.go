// Command sched measures the scheduler on 5,000 nodes with the workloads of
// Kubernetes' scheduler_perf, a row each: pods per second from the first creation
// to the last binding, through an API server in this process whose store syncs
// every write. Nodes are objects only: no agent runs, no controller either. The
// reference is the floor that Kubernetes' own CI holds its scheduler to in that
// workload; there pods come at a rate that is limited, and are not defaulted,
// judged and synced by the same processor.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"proa/internal/host"
	"proa/test/bench/measure"
)

func main() {
	b := bench{}
	only := flag.String("rows", "", "rows to run, with commas between; all if empty")
	flag.IntVar(&b.nodes, "nodes", 5000, "nodes")
	flag.IntVar(&b.pods, "pods", 2000, "pods that are measured in each row")
	flag.IntVar(&b.runs, "runs", 1, "runs of each row")
	flag.StringVar(&b.profile, "profile", "", "file for a processor profile of what is measured in the last row")
	flag.Parse()
	if *only != "" {
		b.only = strings.Split(*only, ",")
	}
	if err := b.run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench-sched:", err)
		os.Exit(1)
	}
}

type bench struct {
	nodes, pods, runs int
	only              []string
	profile           string
	base              string // folder of a store with the nodes
}

// What the figures are to come to, in pods/s and as a multiple of a floor.
const (
	ofBasic     = 5000
	ofSpreading = 2000
	ofAffinity  = 500
	ofFloor     = 3
)

func (b *bench) run() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	go host.KeepHeapTight(ctx) // as proa sets it
	dir, remove, err := measure.Scratch()
	if err != nil {
		return err
	}
	defer remove()
	b.base = filepath.Join(dir, "base")
	if err := b.layNodes(ctx); err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	raw := measure.NewRaw("row", "run", "pods", "pods_per_s", "floor")
	var claims []measure.Claim
	for _, r := range rows {
		if len(b.only) > 0 && !slices.Contains(b.only, r.name) {
			continue
		}
		var rates []float64
		for n := range b.runs {
			took, err := b.measure(ctx, &r, filepath.Join(dir, fmt.Sprintf("%s-%d", r.name, n)))
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			rate := float64(b.pods) / took.Seconds()
			rates = append(rates, rate)
			raw.Add(r.name, n+1, float64(b.pods), rate, r.floor)
		}
		rate := measure.Median(rates)
		fmt.Printf("  %-28s %8.0f pods/s", r.name, rate)
		if r.floor > 0 {
			fmt.Printf(", %5.1fx of upstream's floor of %.0f", rate/r.floor, r.floor)
		}
		fmt.Println()
		c := measure.Claim{Figure: rate, Unit: "pods/s in " + r.name}
		if r.floor > 0 {
			c.Ratio, c.Reference = rate/r.floor, "upstream's floor"
			c.Target = ofFloor
			claims = append(claims, c)
		}
		if r.target > 0 {
			c.Target, c.In = r.target, "pods/s"
			claims = append(claims, c)
		}
	}
	if err := raw.Write("sched"); err != nil {
		return err
	}
	measure.Report("sched", claims)
	return nil
}
