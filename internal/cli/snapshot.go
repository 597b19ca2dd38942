package cli

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"proa/internal/store/snapshot"
	"proa/internal/system"
)

// SnapshotSave writes a snapshot of the cluster's data.
var SnapshotSave = &Command{
	Name: "snapshot save", Args: "FILE", Group: "Data", Config: true,
	Short: "Write all objects of the cluster into a file",
	Long: `Asks the running server for every object as it is at one revision, checks what
comes, and puts it into FILE once it is whole and on the disk. Writers are not
held up. If no server runs, the store is read directly (--store as for 'up').

The history goes along: earlier states, as 'proa history' shows them.

FILE holds the cluster's Secrets in the clear; its mode is 0600. It does not hold
keys and certificates (ROOT/pki), images, nor what is on volumes: keep those too.`,
	Flags: func(fs *flag.FlagSet, c *Call) {
		fs.BoolVar(&c.without, "without-history", false, "leave the history out")
	},
	Run: func(ctx context.Context, c *Call) error {
		r, err := snapshotRequest(c)
		if err != nil {
			return err
		}
		s, err := system.SaveSnapshot(ctx, r)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.Out, "Saved %d objects%s at revision %d to %s (%d bytes)\n", s.Objects, earlierIn(s), s.Revision, r.File, s.Size)
		return nil
	},
}

// SnapshotInspect says what a snapshot holds.
var SnapshotInspect = &Command{
	Name: "snapshot inspect", Args: "FILE", Group: "Data",
	Short: "Check such a file and say what it holds",
	Long:  "Reads the whole file, compares every checksum, and exits with 1 if anything is amiss.",
	Run: func(_ context.Context, c *Call) error {
		file, err := onlyFile(c)
		if err != nil {
			return err
		}
		s, err := system.InspectSnapshot(file)
		if err != nil {
			return err
		}
		return printSummary(c.Out, s)
	},
}

// SnapshotRestore fills a store from a snapshot.
var SnapshotRestore = &Command{
	Name: "snapshot restore", Args: "FILE", Group: "Data", Config: true,
	Short: "Fill the cluster's store from such a file",
	Long: `Checks the whole FILE first and then writes every object into the store that
--store names, which no server may use meanwhile. It may be another store than the
cluster had: that is how a cluster moves from this machine's disk to an etcd and
back; from then on start it with the same --store.

Objects get new resource versions, above every one that the cluster ever gave
out, so that whoever watched it lists anew. A history in FILE takes the place of
the store's; earlier states keep their revisions, and the revision that an object
had when FILE was written names what was restored ('proa show --rev').

If the cluster went on for long after the snapshot, under heavy writing, name its
last revision with --above.

A restore that was cut off is run again; no server starts on half of one.`,
	Flags: func(fs *flag.FlagSet, c *Call) {
		fs.BoolVar(&c.force, "replace", false, "delete what the store holds first (without it, a store that is not empty is refused)")
		fs.BoolVar(&c.without, "without-history", false, "leave the history out, and what the store has of one as it is")
		fs.Func("above", "`REVISION` that the cluster gave out after the snapshot", func(v string) (err error) {
			if c.above, err = strconv.ParseInt(v, 10, 64); err != nil || c.above < 0 {
				return fmt.Errorf("must be a revision, which is a number")
			}
			return nil
		})
	},
	Run: func(ctx context.Context, c *Call) error {
		r, err := snapshotRequest(c)
		if err != nil {
			return err
		}
		s, err := system.RestoreSnapshot(ctx, r)
		if err != nil {
			return err
		}
		if c.without {
			s.History = nil
		}
		fmt.Fprintf(c.Out, "Restored %d objects%s of revision %d into %s\n", s.Objects, earlierIn(s), s.Revision, c.Settings.Get("store"))
		start := "proa up"
		if c.Settings.from["root"] != "default" {
			start += " --root=" + c.Settings.Get("root")
		}
		if c.Settings.from["store"] != "default" {
			start += " --store=" + c.Settings.Get("store")
		}
		fmt.Fprintf(c.Out, "Start the cluster with '%s'\n", start)
		return nil
	},
}

// earlierIn is how much of a history a snapshot has, in words.
func earlierIn(s *snapshot.Summary) string {
	if s.History == nil {
		return ""
	}
	return fmt.Sprintf(" and %d earlier states", s.History.States)
}

func onlyFile(c *Call) (string, error) {
	if len(c.Args) != 1 {
		return "", usageError(fmt.Sprintf("it takes one FILE, got %q", strings.Join(c.Args, " ")))
	}
	return c.Args[0], nil
}

func snapshotRequest(c *Call) (system.SnapshotRequest, error) {
	file, err := onlyFile(c)
	if err != nil {
		return system.SnapshotRequest{}, err
	}
	places, err := placesOf(c)
	if err != nil {
		return system.SnapshotRequest{}, err
	}
	at := storeConfig(c)
	if at.History, err = history(c.Settings); err != nil {
		return system.SnapshotRequest{}, err
	}
	return system.SnapshotRequest{Places: places, Store: at, File: file, NodeName: c.Settings.Get("node-name"),
		Replace: c.force, Without: c.without, Above: c.above, Log: logger(c, os.Stderr), Say: progress(c.Out, nil)}, nil
}

func storeConfig(c *Call) system.StoreConfig {
	s := c.Settings
	return system.StoreConfig{URL: s.Get("store"), CA: s.Get("store-ca"), Cert: s.Get("store-cert"), Key: s.Get("store-key")}
}

func printSummary(w io.Writer, s *snapshot.Summary) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, x := range [][2]string{
		{"Revision", strconv.FormatInt(s.Revision, 10)},
		{"Time", s.Time.UTC().Format(time.RFC3339)},
		{"Cluster", s.Cluster.UID},
		{"Pods in", s.Cluster.PodCIDR},
		{"Services in", s.Cluster.ServiceCIDR},
		{"Domain", s.Cluster.Domain},
		{"Store", s.Store},
		{"Written by", "proa " + s.Proa},
		{"Size", fmt.Sprintf("%d bytes, whole and undamaged", s.Size)},
	} {
		fmt.Fprintf(t, "%s:\t%s\n", x[0], x[1])
	}
	for _, name := range s.Sections {
		fmt.Fprintf(t, "Skipped:\tthe section %q, which this proa does not know\n", name)
	}
	if h := s.History; h != nil {
		fmt.Fprintf(t, "History:\t%d earlier states of %d objects, %d bytes\n", h.States, h.Objects, h.Bytes)
	} else {
		fmt.Fprintf(t, "History:\tnone\n")
	}
	fmt.Fprintln(t, "\nKIND\tOBJECTS\tBYTES")
	bytes := int64(0)
	for _, k := range s.Kinds {
		fmt.Fprintf(t, "%s\t%d\t%d\n", k.Prefix, k.Objects, k.Bytes)
		bytes += k.Bytes
	}
	fmt.Fprintf(t, "all\t%d\t%d\n", s.Objects, bytes)
	return t.Flush()
}
