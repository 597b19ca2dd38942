package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"syscall"
	"time"

	"proa/internal/host"
	"proa/internal/system"
)

// Down stops the cluster.
var Down = &Command{
	Name: "down", Group: "Cluster", Config: true,
	Short: "Stop the cluster and its containers; data stays",
	Long: `Ends proa, then every container and containerd. The next 'proa up' starts the
pods again. With --keep-containers only proa ends, as on a restart.`,
	Flags: func(fs *flag.FlagSet, c *Call) {
		fs.BoolVar(&c.keep, "keep-containers", false, "let containers run on")
	},
	Run: func(ctx context.Context, c *Call) error {
		places, err := placesOf(c)
		if err != nil {
			return err
		}
		pid, err := stopProa(ctx, places)
		if err != nil {
			return err
		}
		if pid > 0 {
			fmt.Fprintf(c.Out, "Stopped proa (process %d)\n", pid)
		} else {
			fmt.Fprintln(c.Out, "proa is not running")
		}
		if c.keep {
			return nil
		}
		return system.StopContainers(ctx, places, c.say())
	},
}

// Clean removes what the cluster made.
var Clean = &Command{
	Name: "clean", Group: "Machine", Config: true,
	Short: "Stop the cluster and remove everything it made, data included",
	Flags: func(fs *flag.FlagSet, c *Call) { fs.BoolVar(&c.force, "yes", false, "do it without asking") },
	Run: func(ctx context.Context, c *Call) error {
		places, err := placesOf(c)
		if err != nil {
			return err
		}
		if !c.force && !confirm(c, places) {
			return errors.New("nothing was removed")
		}
		if _, err := stopProa(ctx, places); err != nil {
			return err
		}
		return system.Clean(ctx, places, c.say())
	},
}

func (c *Call) say() func(string, ...any) {
	return func(format string, args ...any) { fmt.Fprintf(c.Out, format+"\n", args...) }
}

func confirm(c *Call, p system.Places) bool {
	fmt.Fprintf(c.Out, "Remove the cluster in %s: its containers, volumes and all its data? Type yes: ", p.Root)
	var word string
	fmt.Fscanln(os.Stdin, &word)
	return word == "yes"
}

// stopTimeout is how long proa may take to end in good order.
const stopTimeout = 30 * time.Second

// stopProa asks the running proa to end and waits until it has. It returns its
// process id, or 0 if there was none.
func stopProa(ctx context.Context, p system.Places) (int, error) {
	pid, err := system.PID(p)
	if err != nil || pid == 0 {
		return 0, err
	}
	proc, err := host.Find(pid)
	if errors.Is(err, os.ErrProcessDone) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer proc.Close()
	if err := proc.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	limit, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	err = proc.Wait(limit)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = fmt.Errorf("process %d has not ended after %v: look into %s", pid, stopTimeout, p.Log())
	}
	if err != nil {
		return 0, err
	}
	return pid, nil
}
