package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// diffContext is how many unchanged lines are shown around changed ones.
const diffContext = 2

// most is how many pairs of lines are compared one by one; beyond it, what lies
// between the common beginning and the common end is shown as one change.
const most = 20_000_000

// An edit is one line of a difference: ' ' both have it, '-' the old, '+' the new.
type edit struct {
	op   byte
	line string
}

// edits is a shortest way from one list of lines to another.
func edits(old, new []string) []edit {
	var out []edit
	n := 0
	for n < len(old) && n < len(new) && old[n] == new[n] {
		out = append(out, edit{' ', old[n]})
		n++
	}
	end := 0
	for end < len(old)-n && end < len(new)-n && old[len(old)-1-end] == new[len(new)-1-end] {
		end++
	}
	out = append(out, middle(old[n:len(old)-end], new[n:len(new)-end])...)
	for _, l := range old[len(old)-end:] {
		out = append(out, edit{' ', l})
	}
	return out
}

// middle is edits by the longest common subsequence.
func middle(a, b []string) (out []edit) {
	if len(a)*len(b) > most {
		for _, l := range a {
			out = append(out, edit{'-', l})
		}
		for _, l := range b {
			out = append(out, edit{'+', l})
		}
		return out
	}
	common := make([][]int32, len(a)+1) // of a[i:] and b[j:]
	for i := range common {
		common[i] = make([]int32, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out = append(out, edit{' ', a[i]})
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || common[i+1][j] >= common[i][j+1]):
			out = append(out, edit{'-', a[i]})
			i++
		default:
			out = append(out, edit{'+', b[j]})
			j++
		}
	}
	return out
}

// writeDiff writes what differs between two YAML texts, each piece under the
// path of the field that it is in. It returns whether anything does.
func writeDiff(w io.Writer, indent, old, new string) bool {
	all := edits(lines(old), lines(new))
	show := make([]bool, len(all))
	changed := false
	for i, e := range all {
		if e.op == ' ' {
			continue
		}
		changed = true
		for k := max(0, i-diffContext); k <= min(len(all)-1, i+diffContext); k++ {
			show[k] = true
		}
	}
	for i, e := range all {
		if !show[i] {
			continue
		}
		if i > 0 && !show[i-1] {
			first := i + slices.IndexFunc(all[i:], func(e edit) bool { return e.op != ' ' })
			if path := fieldPath(all[:first+1]); path != "" {
				fmt.Fprintf(w, "%s@@ %s @@\n", indent, path)
			} else {
				fmt.Fprintf(w, "%s@@\n", indent)
			}
		}
		fmt.Fprintf(w, "%s%c %s\n", indent, e.op, e.line)
	}
	return changed
}

func lines(s string) []string {
	s = strings.TrimSuffix(s, "\n")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

// fieldPath is the path of the field that holds the last of some lines.
func fieldPath(all []edit) string {
	var path []string
	depth, _ := yamlKey(all[len(all)-1].line)
	for _, e := range slices.Backward(all[:len(all)-1]) {
		if d, key := yamlKey(e.line); key != "" && d < depth {
			path = append(path, key)
			depth = d
		}
	}
	slices.Reverse(path)
	return strings.Join(path, ".")
}

// yamlKey is the key that a line begins with, and how far it is indented.
func yamlKey(line string) (depth int, key string) {
	rest := strings.TrimLeft(line, " ")
	for strings.HasPrefix(rest, "- ") {
		rest = strings.TrimLeft(rest[2:], " ")
	}
	key, _, ok := strings.Cut(rest, ":")
	if !ok || strings.ContainsAny(key, " \"'") {
		key = ""
	}
	return len(line) - len(rest), key
}
