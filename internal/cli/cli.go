// Package cli is the command line: one file per command, listed here.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// A Command is one word after "proa".
type Command struct {
	Name   string
	Args   string // what follows the flags, for the usage line
	Short  string // one line
	Long   string // what it does, for its own help
	Group  string // heading in "proa --help"; hidden if empty
	Raw    bool   // flags are not parsed: everything goes to Run
	Config bool   // takes the settings as flags
	Flags  func(*flag.FlagSet, *Call)
	Run    func(ctx context.Context, c *Call) error
}

// A Call is one use of a command.
type Call struct {
	Args     []string
	Settings *Settings
	Out, Err io.Writer

	detach, pretend, force, keep, json bool
	without                            bool // a snapshot: the history
	nodes                              int
	script                             string
	above                              int64

	kubeconfig, context, namespace, output string
	all, dry                               bool
	at                                     time.Time
	rev                                    int64
}

// Commands is every command, in the order of the help.
func Commands() []*Command {
	return []*Command{
		Up, Down, Status, Kubectl,
		Why, History, Show, Undo,
		SnapshotSave, SnapshotInspect, SnapshotRestore,
		ImageLoad, ImageList,
		Install, Uninstall, Clean, Config,
		Version, Unpack,
	}
}

// groups are the headings of the help, in order.
var groups = []string{"Cluster", "Objects", "Data", "Images", "Machine", "Other"}

// Main runs the command line and returns the exit status: 2 for a wrong call, 1
// for a failure, that of kubectl for kubectl.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	return run(ctx, args, os.Stdout, os.Stderr)
}

// An exitError ends the program with a status of its own and says nothing.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// A usageError is a wrong call.
type usageError string

func (e usageError) Error() string { return string(e) }

func run(ctx context.Context, args []string, out, errw io.Writer) int {
	err := dispatch(ctx, args, out, errw)
	var exit exitError
	var usage usageError
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &exit):
		return int(exit)
	case errors.As(err, &usage):
		fmt.Fprintf(errw, "proa: %v\n", err)
		return 2
	}
	fmt.Fprintf(errw, "proa: %v\n", err)
	return 1
}

func dispatch(ctx context.Context, args []string, out, errw io.Writer) error {
	if len(args) == 0 || args[0] == "help" && len(args) == 1 || args[0] == "-h" || args[0] == "--help" || args[0] == "-help" {
		help(out)
		return nil
	}
	if args[0] == "help" {
		args = append(args[1:], "--help")
	}
	if args[0] == "--version" {
		args = []string{"version"}
	}
	cmd, rest := find(args)
	if cmd == nil {
		return usageError(fmt.Sprintf("unknown command %q%s\nRun 'proa --help' for the commands.", strings.Join(args[:min(2, len(args))], " "), suggest(args[0])))
	}
	c := &Call{Args: rest, Settings: newSettings(), Out: out, Err: errw}
	if cmd.Raw {
		return cmd.Run(ctx, c)
	}
	fs := flag.NewFlagSet("proa "+cmd.Name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	if cmd.Config {
		c.Settings.flags(fs)
	}
	if cmd.Flags != nil {
		cmd.Flags(fs, c)
	}
	free, err := parse(fs, rest)
	if errors.Is(err, flag.ErrHelp) {
		cmd.help(out, fs)
		return nil
	}
	if err != nil {
		return usageError(fmt.Sprintf("%s: %v\nRun 'proa %s --help' for its flags.", cmd.Name, err, cmd.Name))
	}
	c.Args = free
	if cmd.Args == "" && len(c.Args) > 0 {
		return usageError(fmt.Sprintf("%s takes no arguments, got %q", cmd.Name, c.Args[0]))
	}
	if cmd.Config {
		if err := c.Settings.load(); err != nil {
			return usageError(err.Error())
		}
	}
	return cmd.Run(ctx, c)
}

// parse takes flags wherever they stand among the arguments.
func parse(fs *flag.FlagSet, args []string) (free []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		if args = fs.Args(); len(args) == 0 {
			return free, nil
		}
		free, args = append(free, args[0]), args[1:]
	}
}

// find returns the command that args begin with; a name may have two words.
func find(args []string) (*Command, []string) {
	for _, c := range Commands() {
		words := strings.Fields(c.Name)
		if len(args) >= len(words) && strings.Join(args[:len(words)], " ") == c.Name {
			return c, args[len(words):]
		}
	}
	return nil, nil
}

func suggest(word string) string {
	var same []string
	for _, c := range Commands() {
		if c.Group != "" && (strings.HasPrefix(c.Name, word+" ") || strings.HasPrefix(c.Name, word) || strings.HasPrefix(word, c.Name)) {
			same = append(same, c.Name)
		}
	}
	if len(same) == 0 {
		return ""
	}
	return ": did you mean " + strings.Join(same, ", ") + "?"
}

func help(w io.Writer) {
	fmt.Fprint(w, `Proa is a Kubernetes-compatible cluster in one program.

  proa up                 start it (as root); then use kubectl as always
  proa kubectl get pods   kubectl, with the cluster's kubeconfig

Usage: proa COMMAND [flags] [arguments]
`)
	for _, g := range groups {
		fmt.Fprintf(w, "\n%s:\n", g)
		for _, c := range Commands() {
			if c.Group == g {
				fmt.Fprintf(w, "  %-16s %s\n", c.Name, c.Short)
			}
		}
	}
	fmt.Fprint(w, "\nRun 'proa COMMAND --help' for what a command does and its flags.\n")
}

func (c *Command) help(w io.Writer, fs *flag.FlagSet) {
	fmt.Fprintf(w, "%s\n\nUsage: proa %s [flags] %s\n", c.Short, c.Name, c.Args)
	if c.Long != "" {
		fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(c.Long))
	}
	first := true
	fs.VisitAll(func(f *flag.Flag) {
		if first {
			fmt.Fprint(w, "\nFlags:\n")
			first = false
		}
		name, usage := flag.UnquoteUsage(f)
		dash := "--"
		if len(f.Name) == 1 {
			dash = "-"
		}
		line := fmt.Sprintf("  %s%s %s", dash, f.Name, name)
		if f.DefValue != "" && f.DefValue != "false" {
			usage += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(w, "%-34s %s\n", line, usage)
	})
}
