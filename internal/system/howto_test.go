package system

import (
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"proa/internal/node/fleet"
)

// TestPretendHowto does what docs/howto/pretend.md says: it applies the manifest,
// gives the orders, lets the time pass that the page names, and compares; and it
// reads the script.
func TestPretendHowto(t *testing.T) {
	const name = "../../docs/howto/pretend.md"
	page, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(page), "\n")
	did := map[string]int{}
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.nodes(4, "")
		c.advance(7 * time.Second) // orders at an instant at which leases are renewed might come before or after
		for i := 0; i < len(lines); i++ {
			line := lines[i]
			if kind, fenced := strings.CutPrefix(line, "```"); fenced {
				end := i + 1 + slices.Index(lines[i+1:], "```")
				block := strings.Join(append(slices.Clone(lines[i+1:end]), ""), "\n")
				word := strings.Fields(kind)
				did[word[0]]++
				switch word[0] {
				case "yaml":
					c.apply([]byte(block))
				case "script":
					if _, err := fleet.Parse(block, 100); err != nil {
						t.Errorf("the page's script: %v", err)
					}
				case "want":
					got := c.show(word[1:]...)
					if *update {
						lines = slices.Replace(lines, i+1, end, strings.Split(strings.TrimSuffix(got, "\n"), "\n")...)
						end = i + 1 + slices.Index(lines[i+1:], "```")
					} else if got != block {
						t.Fatalf("line %d: got:\n%s\nwant:\n%s", i+1, got, block)
					}
				default:
					t.Fatalf("line %d: unknown block %q", i+1, kind)
				}
				i = end
			}
			if order, ok := strings.CutPrefix(line, "    kubectl annotate node "); ok {
				node, order, _ := strings.Cut(order, " "+fleet.Annotation+"=")
				c.annotate(node, strings.Trim(order, "'"))
				did["annotate"]++
			}
			if after, ok := strings.CutSuffix(line, " later, then:"); ok {
				d, err := time.ParseDuration(after)
				if err != nil {
					t.Fatalf("line %d: %v", i+1, err)
				}
				c.advance(d)
			}
		}
	})
	if did["want"] < 5 || did["annotate"] < 1 || did["script"] != 1 {
		t.Errorf("the page has only %v", did)
	}
	if *update {
		if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
