package fleet

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

// A Script says what happens to the nodes of a fleet, and when.
type Script struct {
	nodes  int
	seed   uint64
	labels map[int]map[string]string
	lines  []*line
}

// A line is one of a script: an order, to whom, and when.
type line struct {
	number int
	Order
	who    choice
	at     time.Duration
	every  time.Duration
	times  int // 0: without end
	apart  time.Duration
	jitter time.Duration
}

// A choice is of nodes: all that are listed, or some of them.
type choice struct {
	from  []int
	share float64 // of them, as a part of 1
	count int     // of them; all, if both are 0
}

// Parse reads a script for so many nodes, which are numbered from 1. A line is a
// word, the nodes, and fields, each a name and a value; what follows a # is not read:
//
//	seed 7                                   what chance decides by
//	label   1-50 zone=a                      labels that nodes register with
//	boot    1-100 apart 100ms                one after another; else all at once
//	silence 3,5 at 1m for 60s                nothing passes between node and API
//	failure 10% every 5m for 2m jitter 30s   the machine is gone, with its containers
//	crash   zone=a at 10m apart 1s           the agent ends and starts again
//	slow    2 of 1-10 by 5s                  pulls and starts take that much longer
//
// Nodes are all, numbers and ranges of them, a label that the script gives, or, of
// any of these, a share (10% of 1-50) or a number (3 of all), chosen by the seed
// each time. Times are since the nodes were started, and default to 0:
//
//	at D      when
//	every D   again after each D
//	times N   so often in all, with every; without end if it is not said
//	for D     how long it lasts; until a mend if it is not said
//	apart D   one of the nodes after another, not all at once
//	jitter D  up to D later, by chance
//	by D      of slow: how much longer everything takes
//
// Errors say the line, what is wrong in it, and what would be right.
func Parse(text string, nodes int) (*Script, error) {
	s := &Script{nodes: nodes, labels: map[int]map[string]string{}}
	seeded, booted := 0, map[int]int{} // the lines
	for i, l := range strings.Split(text, "\n") {
		l, _, _ = strings.Cut(l, "#")
		f := strings.Fields(l)
		if len(f) == 0 {
			continue
		}
		if err := s.read(i+1, f, &seeded, booted); err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", i+1, f[0], err)
		}
	}
	return s, nil
}

func (s *Script) read(number int, f []string, seeded *int, booted map[int]int) (err error) {
	switch f[0] {
	case "seed":
		if *seeded > 0 {
			return fmt.Errorf("line %d has given one already", *seeded)
		}
		*seeded = number
		if len(f) == 2 {
			s.seed, err = strconv.ParseUint(f[1], 10, 64)
		}
		if len(f) != 2 || err != nil {
			return fmt.Errorf("it needs one whole number, 0 or more: such as seed 7")
		}
		return nil
	case "label":
		return s.label(f[1:])
	}
	l := &line{number: number}
	if l.Word, err = word(f[0]); err != nil {
		return err
	}
	var rest []string
	if l.who, rest, err = s.choose(f[1:]); err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	if err := l.fields(rest); err != nil {
		return err
	}
	if l.Word == Boot {
		if l.who.share > 0 || l.who.count > 0 {
			return fmt.Errorf("nodes: say which: all, or numbers and ranges such as 1-50,60")
		}
		for _, n := range l.who.from {
			if booted[n] > 0 {
				return fmt.Errorf("nodes: line %d has said when node %d boots", booted[n], n)
			}
			booted[n] = number
		}
	}
	s.lines = append(s.lines, l)
	return nil
}

// label gives nodes labels.
func (s *Script) label(f []string) error {
	who, rest, err := s.choose(f)
	if err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	if who.share > 0 || who.count > 0 {
		return fmt.Errorf("nodes: say which: all, or numbers and ranges such as 1-50,60")
	}
	if len(rest) == 0 {
		return fmt.Errorf("labels are missing: such as label 1-50 zone=a")
	}
	for _, pair := range rest {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("%q is no label: say KEY=VALUE", pair)
		}
		if bad := validation.IsQualifiedName(key); len(bad) > 0 {
			return fmt.Errorf("label key %q: %s", key, bad[0])
		}
		if bad := validation.IsValidLabelValue(value); len(bad) > 0 {
			return fmt.Errorf("label value %q: %s", value, bad[0])
		}
		for _, n := range who.from {
			if s.labels[n] == nil {
				s.labels[n] = map[string]string{}
			}
			s.labels[n][key] = value
		}
	}
	return nil
}

// Labels are those that the script gives a node.
func (s *Script) Labels(node int) map[string]string {
	if s == nil {
		return nil
	}
	return s.labels[node]
}

// word finds a word by its name.
func word(name string) (*Word, error) {
	var all []string
	near := ""
	for _, w := range Words {
		if w.Name == name {
			return w, nil
		}
		all = append(all, w.Name)
		if n := min(len(name), 4); n >= 3 && strings.HasPrefix(w.Name, name[:n]) {
			near = w.Name
		}
	}
	if near != "" {
		return nil, fmt.Errorf("there is no such word: is it %s?", near)
	}
	return nil, fmt.Errorf("there is no such word: say %s", strings.Join(all, ", "))
}

// choose reads which nodes are meant, and returns what follows.
func (s *Script) choose(f []string) (c choice, rest []string, err error) {
	if len(f) == 0 {
		return c, nil, fmt.Errorf("they are missing: say all, numbers and ranges such as 1-50,60, or a share such as 10%%")
	}
	some := f[0]
	rest = f[1:]
	of := "all"
	switch share, is := strings.CutSuffix(some, "%"); {
	case is:
		p, err := strconv.ParseFloat(share, 64)
		if err != nil || p <= 0 || p > 100 {
			return c, nil, fmt.Errorf("%q is no share: say a number above 0 and up to 100, such as 10%%", some)
		}
		c.share = p / 100
	case len(rest) > 0 && rest[0] == "of":
		if c.count, err = strconv.Atoi(some); err != nil || c.count < 1 {
			return c, nil, fmt.Errorf("%q of: say a share or a number of nodes, such as 10%% of 1-50 or 3 of all", some)
		}
	default:
		c.from, err = s.list(some)
		return c, rest, err
	}
	if len(rest) > 0 && rest[0] == "of" {
		if len(rest) == 1 {
			return c, nil, fmt.Errorf("%s of: say of which nodes, such as %s of 1-50", some, some)
		}
		of, rest = rest[1], rest[2:]
	}
	if c.from, err = s.list(of); err == nil && c.count > len(c.from) {
		err = fmt.Errorf("%d of %s: there are only %d", c.count, of, len(c.from))
	}
	return c, rest, err
}

// list reads the nodes that are named, and returns them in order.
func (s *Script) list(text string) (out []int, err error) {
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		a, err1 := strconv.Atoi(from)
		b, err2 := a, error(nil)
		if isRange {
			b, err2 = strconv.Atoi(to)
		}
		key, value, isLabel := strings.Cut(part, "=")
		switch {
		case part == "all":
			a, b = 1, s.nodes
		case isLabel:
			n := len(out)
			for i := 1; i <= s.nodes; i++ {
				if v, ok := s.labels[i][key]; ok && v == value {
					out = append(out, i)
				}
			}
			if len(out) == n {
				return nil, fmt.Errorf("no label line above gives a node %s", part)
			}
			continue
		case err1 != nil || err2 != nil:
			return nil, fmt.Errorf("%q are no nodes: say all, numbers and ranges such as 1-50,60, a share such as 10%%, or a label such as zone=a", part)
		case a > b:
			return nil, fmt.Errorf("%s: a range begins with the smaller number: %d-%d", part, b, a)
		case a < 1 || b > s.nodes:
			return nil, fmt.Errorf("%s: the nodes are %s", part, numbers(s.nodes))
		}
		for i := a; i <= b; i++ {
			out = append(out, i)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func numbers(n int) string {
	if n == 1 {
		return "only one, 1 (--nodes says how many)"
	}
	return fmt.Sprintf("1 to %d (--nodes says how many)", n)
}

// fields reads the rest of a line.
func (l *line) fields(f []string) error {
	takes := append([]string{"at", "apart", "jitter"}, l.Word.Takes...)
	given, err := pairs(l.Word, takes, f, func(name, value string) (err error) {
		switch name {
		case "at":
			l.at, err = duration(value)
		case "apart":
			l.apart, err = duration(value)
		case "jitter":
			l.jitter, err = duration(value)
		case "every":
			l.every, err = duration(value)
		case "for":
			l.For, err = duration(value)
		case "by":
			l.By, err = duration(value)
		case "times":
			if l.times, err = strconv.Atoi(value); err != nil || l.times < 1 {
				err = fmt.Errorf("%q is no number of times: say a whole number, 1 or more", value)
			}
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case given["times"] && !given["every"]:
		return fmt.Errorf("times: it needs every, how long after one time the next is: such as every 5m times %d", l.times)
	case given["every"] && l.Word.end != nil && l.Word != Crash && !given["for"]:
		return fmt.Errorf("every: it needs for, as what does not end cannot come again: such as every %s for %s", short(l.every), short(max(l.every/5, time.Millisecond)))
	case given["every"] && l.For >= l.every:
		return fmt.Errorf("for: %s is not shorter than every, %s: it would never be over", short(l.For), short(l.every))
	}
	return nil
}

// pairs reads fields, each a name and a value.
func pairs(w *Word, takes, f []string, set func(name, value string) error) (given map[string]bool, err error) {
	given = map[string]bool{}
	for ; len(f) > 0; f = f[min(2, len(f)):] {
		name := f[0]
		switch {
		case !slices.Contains(takes, name):
			return nil, fmt.Errorf("%s: there is no such field: %s", name, known(takes))
		case given[name]:
			return nil, fmt.Errorf("%s: it is given twice", name)
		case len(f) == 1:
			return nil, fmt.Errorf("%s: its value is missing", name)
		}
		given[name] = true
		if err := set(name, f[1]); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if w.Needs != "" && !given[w.Needs] {
		return nil, fmt.Errorf("%s is missing: such as %s 5s", w.Needs, w.Needs)
	}
	return given, nil
}

func known(takes []string) string {
	if len(takes) == 0 {
		return "nothing follows the word"
	}
	return "say " + strings.Join(takes, ", ")
}

// duration reads a time.
func duration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is no time: say a number with its unit, such as 500ms, 60s, 5m or 1h30m", text)
	}
	return d, nil
}

// ParseOrder reads what is to happen to one node at once: a word, and how long it
// lasts, such as "silence for 60s".
func ParseOrder(text string) (o Order, err error) {
	f := strings.Fields(text)
	if len(f) == 0 {
		return o, fmt.Errorf("it is empty: say a word, such as silence for 60s")
	}
	if o.Word, err = word(f[0]); err != nil {
		return o, fmt.Errorf("%s: %w", f[0], err)
	}
	takes := []string{}
	for _, name := range o.Word.Takes {
		if name == "for" || name == "by" {
			takes = append(takes, name)
		}
	}
	_, err = pairs(o.Word, takes, f[1:], func(name, value string) (err error) {
		if name == "for" {
			o.For, err = duration(value)
		} else {
			o.By, err = duration(value)
		}
		return err
	})
	if err != nil {
		return o, fmt.Errorf("%s: %w", f[0], err)
	}
	return o, nil
}
