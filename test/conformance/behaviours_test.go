package conformance

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// A behaviour is one name of the public conformance suite.
type behaviour struct {
	name    string
	since   string
	part    string // heading it stands under
	rows    []string
	pending []string // rows that will show it
	shown   string   // by another test
	waits   string   // for a part that is not there yet
}

var released = regexp.MustCompile(`^(.*) \((v[\d., v]+)\)$`)

func readBehaviours(t testing.TB, areas []*area) []*behaviour {
	t.Helper()
	text, err := os.ReadFile("testdata/behaviours.txt")
	if err != nil {
		t.Fatal(err)
	}
	var out []*behaviour
	byName := map[string]*behaviour{}
	part := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		value, shown := strings.CutPrefix(line, "  shown by: ")
		what, waits := strings.CutPrefix(line, "  waits for: ")
		switch {
		case strings.HasPrefix(line, "## "):
			part = line[3:]
		case line == "" || strings.HasPrefix(line, "#"):
		case shown:
			out[len(out)-1].shown = value
		case waits:
			out[len(out)-1].waits = what
		default:
			m := released.FindStringSubmatch(line)
			if m == nil {
				t.Fatalf("testdata/behaviours.txt: not understood: %q", line)
			}
			b := &behaviour{name: m[1], since: m[2], part: part}
			out, byName[m[1]] = append(out, b), b
		}
	}
	for _, a := range areas {
		for _, r := range a.rows {
			for _, name := range r.covers {
				switch b := byName[name]; {
				case b == nil:
					t.Errorf("%s: %s: covers what testdata/behaviours.txt does not name: %s", a.name, r.title, name)
				case r.pending != "":
					b.pending = append(b.pending, r.title)
				default:
					b.rows = append(b.rows, r.title)
				}
			}
		}
	}
	return out
}

// TestBehaviours checks that it is said of every name of the conformance suite
// what shows it or what it waits for, and that this is so.
func TestBehaviours(t *testing.T) {
	for _, b := range readBehaviours(t, readAreas(t)) {
		done := len(b.rows) > 0 || b.shown != ""
		switch {
		case done && b.waits != "":
			t.Errorf("%s: it is shown, and does not wait for anything any more", b.name)
		case !done && b.waits == "" && len(b.pending) == 0:
			t.Errorf("%s: no row covers it, and testdata/behaviours.txt does not say what it waits for", b.name)
		}
		for file := range strings.SplitSeq(b.shown, ", ") {
			if file == "" {
				continue
			}
			if _, err := os.Stat("../../" + file); err != nil {
				t.Errorf("%s: what shows it is not there: %v", b.name, err)
			}
		}
	}
}
