package cli

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"proa/internal/system"
)

// Up starts the cluster.
var Up = &Command{
	Name: "up", Group: "Cluster", Config: true,
	Short: "Start the cluster on this machine",
	Long: `Starts API server, store, scheduler, controllers, node agent, service proxy and
DNS in one process, and containerd beside it, and runs until it is told to end.
Containers run on when proa ends; the next 'proa up' takes them over. 'proa
down' stops everything.

With --pretend no container is started and no privilege is needed: the nodes
only play their part, which is good for trying out manifests and controllers.
With --pretend-script, what happens to them is read from a file of lines such as

  boot    1-100 apart 100ms              one after the other, not all at once
  silence 3,5   at 1m for 60s            nothing passes between node and API
  failure 10%   every 5m for 2m          the machine is gone, with its containers
  crash   1-50  at 10m apart 1s          the agent ends and starts again
  slow    2 of 1-10 by 5s                pulls and starts take that much longer

and also memory-pressure, disk-pressure, pid-pressure, mend, label and seed. The
same happens at once to a node with the annotation proa.dev/pretend:
'proa kubectl annotate node NAME proa.dev/pretend="silence for 60s"'.`,
	Flags: func(fs *flag.FlagSet, c *Call) {
		fs.BoolVar(&c.detach, "d", false, "run in the background; returns when the cluster is ready")
		fs.Func("nodes", "`N` nodes (more than one only with --pretend)", func(v string) (err error) {
			n, err := strconv.Atoi(v)
			if err != nil || n < 1 || n > 5000 {
				return fmt.Errorf("must be a number from 1 to 5000")
			}
			c.nodes = n
			return nil
		})
		fs.BoolVar(&c.pretend, "pretend", false, "run pretend nodes, without root and without containers")
		fs.StringVar(&c.script, "pretend-script", "", "`FILE` that says what happens to the pretend nodes, and when")
	},
	Run: up,
}

func up(ctx context.Context, c *Call) error {
	cfg, err := systemConfig(c)
	if err != nil {
		return err
	}
	if c.nodes > 1 && !c.pretend {
		return usageError("--nodes needs --pretend: a machine is one node; join other machines to grow")
	}
	if c.script != "" && !c.pretend {
		return usageError("--pretend-script needs --pretend: it is about pretend nodes")
	}
	if !c.pretend && os.Geteuid() != 0 {
		return fmt.Errorf("starting containers needs root: run 'sudo proa up', or try 'proa up --pretend' without")
	}
	if err := cfg.Check(); err != nil {
		return err
	}
	if c.detach {
		return detach(ctx, c, cfg.Places)
	}
	pipe := parentPipe()
	cfg.Say = progress(c.Out, pipe)
	cfg.Log = logger(c, os.Stderr)
	cfg.Ready = func() {
		systemdReady()
		if pipe != nil {
			fmt.Fprintln(pipe, readyLine)
			pipe.Close()
		}
	}
	return system.Run(ctx, cfg)
}

// progress returns a function that prints what is being done, with the time
// since the start, to w and to the parent's pipe while that is open.
func progress(w io.Writer, pipe *os.File) func(string, ...any) {
	start := time.Now()
	return func(format string, args ...any) {
		line := fmt.Sprintf("%7.2fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
		io.WriteString(w, line)
		if pipe != nil {
			io.WriteString(pipe, line) // fails once the pipe is closed, which is fine
		}
	}
}

func logger(c *Call, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Settings.Get("log-level"))); err != nil {
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// pretendRoot is where a cluster without privileges keeps its data.
func pretendRoot() (string, error) {
	if d := os.Getenv("XDG_DATA_HOME"); d != "" {
		return filepath.Join(d, "proa"), nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".local", "share", "proa"), err
}

// systemConfig turns settings and flags into the system's configuration.
func systemConfig(c *Call) (system.Config, error) {
	s := c.Settings
	if c.pretend && s.from["root"] == "default" {
		root, err := pretendRoot()
		if err != nil {
			return system.Config{}, err
		}
		s.values["root"], s.from["root"] = root, "flag --pretend"
	}
	places, err := placesOf(c)
	if err != nil {
		return system.Config{}, err
	}
	cfg := system.Config{
		Places: places, NodeName: s.Get("node-name"), Nodes: max(c.nodes, 1), Pretend: c.pretend, PretendScript: c.script,
		Bind: s.Get("bind"), Advertise: s.Get("advertise"), Domain: s.Get("cluster-domain"),
		RuntimeEndpoint: s.Get("container-runtime-endpoint"),
		PodCIDR:         prefix(s.Get("pod-cidr")), ServiceCIDR: prefix(s.Get("service-cidr")),
		Ports: system.DefaultPorts, Store: storeConfig(c), SchedulerConfig: s.Get("scheduler-config"),
	}
	cfg.SchedulerSeed, _ = strconv.ParseUint(s.Get("scheduler-seed"), 10, 64)
	if base, _ := strconv.Atoi(s.Get("ports")); base > 0 {
		cfg.Ports = system.PortsFrom(base)
	}
	cfg.NodePortFrom, cfg.NodePortTo, err = parsePortRange(s.Get("node-ports"))
	if err != nil {
		return cfg, err
	}
	if cfg.History, err = history(s); err != nil {
		return cfg, err
	}
	if cfg.Store.ScrubEvery, _ = time.ParseDuration(s.Get("scrub-every")); cfg.Store.ScrubEvery == 0 {
		cfg.Store.ScrubEvery = -1
	}
	cfg.Store.ScrubRate, _ = parseSize(s.Get("scrub-rate"))
	cfg.MaxObject, err = parseObjectSize(s.Get("max-object-size"))
	for name := range strings.SplitSeq(s.Get("tls-san"), ",") {
		if name != "" {
			cfg.SANs = append(cfg.SANs, name)
		}
	}
	return cfg, err
}

// history is what the settings say about earlier states; their checks have passed.
func history(s *Settings) (h system.History, err error) {
	h.Secrets = s.Get("history-secrets") == "true"
	if h.Versions, err = strconv.Atoi(s.Get("history")); err != nil {
		return h, err
	}
	h.Bytes, err = parseHistorySize(s.Get("history-size"))
	return h, err
}

func prefix(v string) netip.Prefix {
	p, err := netip.ParsePrefix(v)
	if err != nil {
		return netip.Prefix{} // empty: the setting's check let nothing else through
	}
	return p
}
