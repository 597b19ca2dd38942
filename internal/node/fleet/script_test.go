package fleet

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestParse reads one line after another: what a right one plays in its first
// hour, and of a wrong one what is said.
func TestParse(t *testing.T) {
	for _, c := range []struct{ script, want string }{
		{"", "boots 10"},
		{"# nothing\n\n   # at all", "boots 10"},
		{"boot all apart 2s", "1:0s boot, 2:2s boot, 3:4s boot, 4:6s boot, 5:8s boot, 6:10s boot, 7:12s boot, 8:14s boot, 9:16s boot, 10:18s boot"},
		{"boot 9-10 at 10m", "boots 8, 9:10m boot, 10:10m boot"},
		{"silence 3,5 at 1m for 60s # of two", "boots 10, 3:1m silence for 1m, 5:1m silence for 1m"},
		{"silence 5,3-5,4 at 1m", "boots 10, 3:1m silence, 4:1m silence, 5:1m silence"},
		{"failure 2 every 25m for 1m", "boots 10, 2:0s failure for 1m, 2:25m failure for 1m, 2:50m failure for 1m"},
		{"failure 2 at 10m every 15m for 1m times 2", "boots 10, 2:10m failure for 1m, 2:25m failure for 1m"},
		{"crash 1-3 at 1m apart 1s", "boots 10, 1:1m crash, 2:1m1s crash, 3:1m2s crash"},
		{"crash 1 every 30m", "boots 10, 1:0s crash, 1:30m crash"},
		{"slow 1 by 5s", "boots 10, 1:0s slow by 5s"},
		{"slow 1 at 1h for 1m by 5s", "boots 10"},
		{"memory-pressure 1 at 1s\ndisk-pressure 2 at 1s\npid-pressure 3 at 1s", "boots 10, 1:1s memory-pressure, 2:1s disk-pressure, 3:1s pid-pressure"},
		{"mend 1 every 20m times 2", "boots 10, 1:0s mend, 1:20m mend"},
		{"label 1-5 zone=a disk=ssd\nlabel 6-10 zone=b\nsilence zone=b,1 at 1m\nlabel 2 zone=", "boots 10, 1:1m silence, 6:1m silence, 7:1m silence, 8:1m silence, 9:1m silence, 10:1m silence"},
		{"silence 100% of 4-5 at 1m", "boots 10, 4:1m silence, 5:1m silence"},
		{"silence 2 of 4-5 at 1m", "boots 10, 4:1m silence, 5:1m silence"},

		{"silent 3", "line 1: silent: there is no such word: is it silence?"},
		{"\ndisk 3", "line 2: disk: there is no such word: is it disk-pressure?"},
		{"explode 3", "line 1: explode: there is no such word: say boot, failure, crash, silence, slow, memory-pressure, disk-pressure, pid-pressure, mend"},
		{"silence", "line 1: silence: nodes: they are missing: say all, numbers and ranges such as 1-50,60, or a share such as 10%"},
		{"silence for 60s", `line 1: silence: nodes: "for" are no nodes: say all, numbers and ranges such as 1-50,60, a share such as 10%, or a label such as zone=a`},
		{"silence 0-5", "line 1: silence: nodes: 0-5: the nodes are 1 to 10 (--nodes says how many)"},
		{"silence 3,11", "line 1: silence: nodes: 11: the nodes are 1 to 10 (--nodes says how many)"},
		{"silence 5-3", "line 1: silence: nodes: 5-3: a range begins with the smaller number: 3-5"},
		{"silence 3,", `line 1: silence: nodes: "" are no nodes: say all, numbers and ranges such as 1-50,60, a share such as 10%, or a label such as zone=a`},
		{"silence zone=a\nlabel 1 zone=a", "line 1: silence: nodes: no label line above gives a node zone=a"},
		{"silence 0%", `line 1: silence: nodes: "0%" is no share: say a number above 0 and up to 100, such as 10%`},
		{"silence ten%", `line 1: silence: nodes: "ten%" is no share: say a number above 0 and up to 100, such as 10%`},
		{"silence ten of all", `line 1: silence: nodes: "ten" of: say a share or a number of nodes, such as 10% of 1-50 or 3 of all`},
		{"silence 3 of", "line 1: silence: nodes: 3 of: say of which nodes, such as 3 of 1-50"},
		{"silence 3 of 1-2", "line 1: silence: nodes: 3 of 1-2: there are only 2"},
		{"silence 3 during 5m", "line 1: silence: during: there is no such field: say at, apart, jitter, for, every, times"},
		{"silence 3 by 5s", "line 1: silence: by: there is no such field: say at, apart, jitter, for, every, times"},
		{"boot 3 for 5s", "line 1: boot: for: there is no such field: say at, apart, jitter"},
		{"silence 3 at", "line 1: silence: at: its value is missing"},
		{"silence 3 at 60", `line 1: silence: at: "60" is no time: say a number with its unit, such as 500ms, 60s, 5m or 1h30m`},
		{"silence 3 for -5s", `line 1: silence: for: "-5s" is no time: say a number with its unit, such as 500ms, 60s, 5m or 1h30m`},
		{"silence 3 at 1m at 2m", "line 1: silence: at: it is given twice"},
		{"silence 3 every 5m", "line 1: silence: every: it needs for, as what does not end cannot come again: such as every 5m for 1m"},
		{"silence 3 every 5m for 5m", "line 1: silence: for: 5m is not shorter than every, 5m: it would never be over"},
		{"silence 3 for 5m times 3", "line 1: silence: times: it needs every, how long after one time the next is: such as every 5m times 3"},
		{"crash 3 every 5m times 0", `line 1: crash: times: "0" is no number of times: say a whole number, 1 or more`},
		{"slow 3 for 5m", "line 1: slow: by is missing: such as by 5s"},
		{"boot 10% at 1m", "line 1: boot: nodes: say which: all, or numbers and ranges such as 1-50,60"},
		{"boot 1-5 at 1m\nboot 5 at 2m", "line 2: boot: nodes: line 1 has said when node 5 boots"},
		{"seed", "line 1: seed: it needs one whole number, 0 or more: such as seed 7"},
		{"seed -1", "line 1: seed: it needs one whole number, 0 or more: such as seed 7"},
		{"seed 1 2", "line 1: seed: it needs one whole number, 0 or more: such as seed 7"},
		{"seed 1\n\nseed 2", "line 3: seed: line 1 has given one already"},
		{"label", "line 1: label: nodes: they are missing: say all, numbers and ranges such as 1-50,60, or a share such as 10%"},
		{"label 50% a=b", "line 1: label: nodes: say which: all, or numbers and ranges such as 1-50,60"},
		{"label 1", "line 1: label: labels are missing: such as label 1-50 zone=a"},
		{"label 1 zone", `line 1: label: "zone" is no label: say KEY=VALUE`},
		{"label 1 a b=c", `line 1: label: "a" is no label: say KEY=VALUE`},
		{"label 1 /=c", `line 1: label: label key "/": `},
		{"label 1 a=b/c", `line 1: label: label value "b/c": `},
	} {
		s, err := Parse(c.script, 10)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = played(s, time.Hour)
		}
		if got != c.want && !(strings.HasSuffix(c.want, `": `) && strings.HasPrefix(got, c.want)) {
			t.Errorf("%q:\ngot  %s\nwant %s", c.script, got, c.want)
		}
	}
	if _, err := Parse("silence 2", 1); err == nil || err.Error() != "line 1: silence: nodes: 2: the nodes are only one, 1 (--nodes says how many)" {
		t.Error(err)
	}
}

// played is what a script plays before a time; the nodes that boot by themselves
// are counted.
func played(s *Script, before time.Duration) string {
	var out []string
	boots := 0
	for p := s.Plan(); ; {
		at, ok := p.Next()
		if !ok || at >= before {
			break
		}
		e, _ := p.Take()
		if e.Line == 0 {
			boots++
			continue
		}
		out = append(out, fmt.Sprintf("%d:%s %s", e.Node, short(e.At), e.Order))
	}
	if boots > 0 {
		out = slices.Insert(out, 0, fmt.Sprintf("boots %d", boots))
	}
	return strings.Join(out, ", ")
}

func TestParseOrder(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"silence for 60s", "silence for 1m"},
		{"failure", "failure"},
		{"  crash   for 10s ", "crash for 10s"},
		{"slow by 5s for 2m", "slow by 5s for 2m"},
		{"boot", "boot"},
		{"mend", "mend"},
		{"", "it is empty: say a word, such as silence for 60s"},
		{"silent for 60s", "silent: there is no such word: is it silence?"},
		{"silence for 60", `silence: for: "60" is no time: say a number with its unit, such as 500ms, 60s, 5m or 1h30m`},
		{"silence at 60s", "silence: at: there is no such field: say for"},
		{"silence every 60s for 5s", "silence: every: there is no such field: say for"},
		{"mend for 5s", "mend: for: there is no such field: nothing follows the word"},
		{"slow for 5s", "slow: by is missing: such as by 5s"},
	} {
		o, err := ParseOrder(c.text)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = o.String()
		}
		if got != c.want {
			t.Errorf("%q: got %s, want %s", c.text, got, c.want)
		}
	}
}

// The same script with the same seed plays the same faults, with another seed
// others; each time of a line that comes again, other nodes are chosen.
func TestPlanIsDecidedByTheSeed(t *testing.T) {
	const lines = "failure 10% every 5m for 1m jitter 1m\nsilence 3 of 1-50 at 1m jitter 30s\ncrash all at 2m apart 1s jitter 10s"
	plan := func(text string) string {
		t.Helper()
		s, err := Parse(text, 100)
		if err != nil {
			t.Fatal(err)
		}
		last := time.Duration(0)
		for p := s.Plan(); ; {
			e, _ := p.Take()
			if e.At > time.Hour {
				break
			}
			if e.At < last {
				t.Fatalf("an event at %s comes after one at %s", e.At, last)
			}
			last = e.At
		}
		return played(s, time.Hour)
	}
	a, b := plan("seed 7\n"+lines), plan("seed 8\n"+lines)
	if a != plan("seed 7\n"+lines) {
		t.Error("the same seed plays other faults")
	}
	if a == b {
		t.Error("another seed plays the same faults")
	}
	for word, want := range map[string]int{"failure": 12 * 10, "silence": 3, "crash": 100} {
		if n := strings.Count(a, word); n < want-10 || n > want { // of the last time, some come after the hour
			t.Errorf("%d of %s, want %d", n, word, want)
		}
	}
	failed := map[string]bool{}
	for part := range strings.SplitSeq(a, ", ") {
		if node, what, _ := strings.Cut(part, ":"); strings.Contains(what, "failure") {
			failed[node] = true
		}
	}
	if len(failed) < 40 {
		t.Errorf("only %d nodes fail in twelve times ten of a hundred", len(failed))
	}
}

func TestPrompt(t *testing.T) {
	s, err := Parse("boot 2 at 5s\nboot 3-4 apart 1s\nsilence 5 at 10s\nfailure 6 at 2m\nboot 8 at 1h", 8)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(s.Prompt(time.Minute)); got != "[true false true false false true true false]" {
		t.Error(got)
	}
}
