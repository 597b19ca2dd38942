package main

import (
	"fmt"
	"os"
	"testing"
	"time"

	"proa/internal/cli"
	"proa/test/bench/measure"
)

const asProa = "PROA_FAULT_AS_PROA"

// TestMain lets this program be proa, too.
func TestMain(m *testing.M) {
	if os.Getenv(asProa) != "" {
		os.Exit(cli.Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// Some kills of the real program under 16 writers: nothing that was acknowledged
// is lost, and it comes back by itself each time.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a real process for some seconds")
	}
	t.Setenv(asProa, "1")
	s := settings{length: 8 * time.Second, writers: 16, seed: uint64(time.Now().UnixNano())}
	t.Log("seed", s.seed)
	dir, remove, err := measure.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	defer remove()
	c, err := measure.NewPretendCluster(measure.AnyCore, os.Args[0], dir+"/p")
	if err != nil {
		t.Fatal(err)
	}
	r, err := run(s, c)
	t.Log(r)
	if err != nil {
		t.Error(err)
	}
	if r.kills == 0 || r.acknowledged == 0 || r.events == 0 {
		t.Error("nothing has been tested")
	}
}

// What a server must not do is noticed: each case is a history with one fault.
func TestNotices(t *testing.T) {
	made := func(n, rv string) change { return change{"w0-0", "", state{n, rv}} }
	for _, c := range []struct {
		name  string
		lines []string
		acked []change
	}{
		{"lost", nil, []change{made("w0-0.1", "5")}},
		{"twice", []string{added("w0-0.1", 5), added("w0-0.1", 5)}, []change{made("w0-0.1", "5")}},
		{"going back", []string{added("w0-0.1", 5), modified("w0-0.2", 4)}, nil},
		{"of nobody", []string{added("w0-0.9", 5)}, nil},
		{"at another revision", []string{added("w0-0.1", 6)}, []change{made("w0-0.1", "5")}},
		{"deletion lost", []string{added("w0-0.1", 5)}, []change{made("w0-0.1", "5"), {"w0-0", "w0-0.1", state{}}}},
		{"bookmark behind", []string{added("w0-0.1", 5), `{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"4"}}}`}, []change{made("w0-0.1", "5")}},
	} {
		tr := newTrial(settings{}, &measure.PretendCluster{})
		tr.watch.at, tr.watch.gaps = 1, []gap{{0, 1}}
		for _, l := range c.lines {
			if err := tr.watch.take([]byte(l)); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		tr.watch.compare(c.acked)
		if len(tr.report.violations) == 0 {
			t.Errorf("%s was not noticed", c.name)
		}
	}
	tr := newTrial(settings{}, &measure.PretendCluster{})
	tr.watch.at, tr.watch.gaps = 1, []gap{{0, 1}}
	if err := tr.watch.take([]byte(added("w0-0.1", 5))); err != nil {
		t.Error(err)
	}
	if tr.watch.compare([]change{made("w0-0.1", "5")}); len(tr.report.violations) > 0 {
		t.Errorf("a good history: %s", tr.report.violations)
	}
	before := tr.high.Load() + 10
	if tr.rises(before, state{"n", "10"}); len(tr.report.violations) != 1 {
		t.Error("a revision that does not rise was not noticed")
	}
}

func added(n string, rev int64) string    { return line("ADDED", n, rev) }
func modified(n string, rev int64) string { return line("MODIFIED", n, rev) }

func line(typ, n string, rev int64) string {
	return fmt.Sprintf(`{"type":%q,"object":{"kind":"ConfigMap","metadata":{"name":"w0-0","resourceVersion":"%d"},"data":{"n":%q}}}`, typ, rev, n)
}
