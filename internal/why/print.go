package why

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"
)

// Print writes an answer for people: a line for each cause, each indented below
// what it causes, then what would help. Times are told in the zone of now.
func (w *Answer) Print(out io.Writer, now time.Time) {
	head := w.Object
	if w.Owner != "" {
		head += " of " + w.Owner
	}
	if w.Namespace != "" {
		head += " in namespace " + w.Namespace
	}
	fmt.Fprintf(out, "%s: %s%s\n", head, w.Text, since(&w.Cause, now))
	var help []string
	w.Cause.print(out, now, 1, &help)
	section(out, "What would help:", help)
	section(out, "Note:", w.Notes)
}

func section(out io.Writer, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(out, "\n%s\n", title)
	for _, l := range lines {
		fmt.Fprintf(out, "  - %s\n", l)
	}
}

// print writes what is below c, and adds what helps.
func (c *Cause) print(out io.Writer, now time.Time, depth int, help *[]string) {
	for _, b := range c.Causes {
		line := strings.Repeat("  ", depth)
		if b.Object != "" {
			line += b.Object
			if n := len(b.Alike); n > 0 {
				line += fmt.Sprintf(" and %d more alike", n)
			}
			line += ": "
		}
		fmt.Fprintf(out, "%s%s%s\n", line, b.Text, since(b, now))
		b.print(out, now, depth+1, help)
	}
	for _, h := range c.Help {
		if !slices.Contains(*help, h) {
			*help = append(*help, h)
		}
	}
}

func more(c *Cause) string {
	if c.More == "" {
		return ""
	}
	return " (" + c.More + ")"
}

// since says more of a cause, and from when on it holds.
func since(c *Cause, now time.Time) string {
	if c.Since == nil {
		return more(c)
	}
	t := c.Since.In(now.Location())
	layout := time.DateTime
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		layout = time.TimeOnly
	}
	return more(c) + fmt.Sprintf(" (since %s, %s)", t.Format(layout), duration.HumanDuration(max(0, now.Sub(t))))
}
