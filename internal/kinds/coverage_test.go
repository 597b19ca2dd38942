package kinds_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"proa/internal/kinds"
)

// An exemption says why a leaf needs no case. A path that ends in ".*" is for
// all leaves below it.
type exemption struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

// writing lists the kinds whose tables are not complete yet, as "plural" or
// "group/*". What is complete must not be in the list.
var writing = []string{}

var showMissing = flag.String("missing", "", "with -v: list the missing leaves of the table of this name")

// everywhere says why leaves of a sort need no case in any kind: by their type
// or format in OpenAPI, as "Type.property" (the definition's name without
// "io.k8s.api."), or as "*.property".
var everywhere = map[string]string{
	"boolean":   "both values are valid",
	"date-time": "what is not a time of RFC 3339 is refused when it is decoded",
	"*.fsType":  "any string: the node reports a file system that it cannot mount",
}

// TestCoverage measures the tables of all kinds against the published schema:
// every leaf of a kind has an invalid case, a default case, or a line that says
// why there is nothing to check. "make coverage-api" prints the result.
//
// Leaves are what the OpenAPI schema of the kind reaches from its root: scalars,
// arrays and maps of scalars (one leaf each, keys and indices do not count), and
// objects without a schema; metadata inside a spec is one such object. Left out
// are apiVersion and kind (routing checks them), the object's own metadata
// (checked for all kinds alike by apimachinery), and status (written by
// controllers; where a kind checks it, its cases say so), also of an object
// inside another one.
//
// A leaf is covered
//   - by an invalid case: an error of a case is at or below the leaf; or it is at the object that holds the leaf, and the
//     patch of the case gives that object's leaf and nothing else below it, so
//     that the error can be about nothing else;
//   - by a default case: "want" holds a value for the leaf that the case's object
//     and patches do not hold (put there, or changed), or null for the leaf or
//     what holds it where they hold a value (removed);
//   - by "everywhere" above, for sorts of fields;
//   - by a line in the table's "exempt", which must not be needless;
//   - by "shared" in the table: {path: "plural path"} says that the path holds a
//     type that the table of the other kind covers at its path. One error at or
//     below the path must show that this kind checks it at all.
func TestCoverage(t *testing.T) {
	s := loadSchemas(t)
	all := map[string]*coverage{}
	for _, d := range kinds.All {
		r := d.Def()
		c := &coverage{id: r.Resource, group: r.Group, leaves: map[string]bool{}, types: map[string]string{}, keyed: map[string]bool{},
			invalid: map[string]bool{}, defaulted: map[string]bool{}, exempt: map[string]string{}}
		raw, err := os.ReadFile(tableFile(r))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(raw, &c.table); err != nil {
			t.Fatalf("%s: %v", tableFile(r), err)
		}
		s.walk(c, s.of(t, r), "", nil)
		c.count(t)
		all[strings.TrimSuffix(strings.TrimPrefix(tableFile(r), "testdata/"), ".yaml")] = c
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		lines = append(lines, all[name].judge(t, name, all)...)
	}
	for _, w := range writing {
		there, open := 0, 0
		for _, c := range all {
			if c.named(w) {
				there, open = there+1, open+c.missing
			}
		}
		if there > 0 && open == 0 {
			t.Errorf("%s is complete: take it from the list of those that are still written", w)
		}
	}
	if testing.Verbose() {
		fmt.Printf("%-44s%7s%9s%9s%8s%8s%9s\n%s\n", "leaves of", "all", "invalid", "default", "exempt", "shared", "missing", strings.Join(lines, "\n"))
	}
}

// A coverage is what one kind's table covers.
type coverage struct {
	id, group string
	table     table
	leaves    map[string]bool
	lower     map[string]string // leaves by their paths in lower case
	types     map[string]string // definition names of the objects, by path
	keyed     map[string]bool   // paths of maps of objects
	invalid   map[string]bool
	defaulted map[string]bool
	exempt    map[string]string // why
	errors    []string          // paths, without keys and indices
	missing   int
}

// named says whether an entry of writing is for the kind.
func (c *coverage) named(w string) bool { return w == c.id || w == c.group+"/*" }

// count finds what the cases cover.
func (c *coverage) count(t *testing.T) {
	c.lower = map[string]string{}
	for l := range c.leaves {
		c.lower[strings.ToLower(l)] = l
	}
	for _, k := range c.table.Cases {
		last := k.Create
		for _, p := range []json.RawMessage{k.Update, k.Status} {
			if p != nil {
				last = p
			}
		}
		patch := c.valuesOf(t, last)
		for _, e := range k.Errors {
			at := plain(pathOf(e))
			c.errors = append(c.errors, at)
			if l, ok := c.leafAt(at); ok {
				c.invalid[l] = true
			} else if l, ok := c.onlyLeaf(patch, at); ok && holder(l) == at {
				c.invalid[l] = true
			}
		}
		given := c.valuesOf(t, merge(t, c.table.Object, k.Create))
		for _, p := range []json.RawMessage{k.Update, k.Status} {
			for at, vs := range c.valuesOf(t, p) {
				given[at] = append(given[at], vs...)
			}
		}
		for at, vs := range c.valuesOf(t, k.Want) {
			l, ok := c.leafAt(at)
			if ok && slices.ContainsFunc(vs, func(v string) bool { return v != "null" && !slices.Contains(given[at], v) }) {
				c.defaulted[l] = true
			}
			for g, was := range given {
				if l, ok := c.leafAt(g); ok && below(g, at) && slices.Contains(vs, "null") && !slices.Contains(was, "null") {
					c.defaulted[l] = true
				}
			}
		}
	}
}

// leafAt is the leaf that a path is of: a leaf may hold maps and more. Some
// paths of errors are in other case than the fields.
func (c *coverage) leafAt(at string) (string, bool) {
	for ; at != ""; at = holder(at) {
		if c.leaves[at] {
			return at, true
		}
		if l := c.lower[strings.ToLower(at)]; l != "" {
			return l, true
		}
	}
	return "", false
}

// holder is the path of the object that holds a leaf.
func holder(path string) string { return path[:max(0, strings.LastIndexByte(path, '.'))] }

func below(path, root string) bool { return path == root || strings.HasPrefix(path, root+".") }

// judge answers the kind's line for the report, and fails the test for what is missing.
func (c *coverage) judge(t *testing.T, name string, all map[string]*coverage) []string {
	shared := map[string]bool{}
	for _, path := range slices.Sorted(maps.Keys(c.table.Shared)) {
		to := c.table.Shared[path]
		if why := c.shares(path, to, all); why != "" {
			t.Errorf("%s: shared %s: %s: %s", name, path, to, why)
		}
		for l := range c.leaves {
			if below(l, path) {
				shared[l] = true
			}
		}
	}
	for _, e := range c.table.Exempt {
		if why := c.excuse(e, shared); why != "" {
			t.Errorf("%s: exempt %s: %s", name, e.Path, why)
		}
	}
	var n [6]int // all, invalid, default, exempt, shared, missing
	var missing, details []string
	why := map[string][]string{}
	for _, l := range slices.Sorted(maps.Keys(c.leaves)) {
		n[0]++
		switch {
		case shared[l]:
			n[4]++
		case c.invalid[l]:
			n[1]++
		case c.defaulted[l]:
			n[2]++
		case c.exempt[l] != "":
			n[3]++
			why[c.exempt[l]] = append(why[c.exempt[l]], l)
		default:
			n[5]++
			missing = append(missing, l)
		}
	}
	c.missing = len(missing)
	if len(missing) > 0 && !slices.ContainsFunc(writing, c.named) {
		t.Errorf("%s: %d leaves have no case and no line that says why:\n    %s", name, len(missing), strings.Join(missing, "\n    "))
	}
	for _, reason := range slices.Sorted(maps.Keys(why)) {
		which := strings.Join(why[reason], ", ")
		if slices.Contains(slices.Collect(maps.Values(everywhere)), reason) {
			which = fmt.Sprintf("%d leaves", len(why[reason]))
		}
		details = append(details, fmt.Sprintf("    %s: %s", which, reason))
	}
	if name == *showMissing {
		details = append(details, "  missing:\n    "+strings.Join(missing, "\n    "))
	}
	return append([]string{fmt.Sprintf("%-44s%7d%9d%9d%8d%8d%9d", name, n[0], n[1], n[2], n[3], n[4], n[5])}, details...)
}

// shares says what is wrong with a line of "shared".
func (c *coverage) shares(path, to string, all map[string]*coverage) string {
	kind, at, _ := strings.Cut(to, " ")
	other := all[kind]
	switch {
	case c.types[path] == "":
		return "there is no such object"
	case other == nil:
		return "no such kind"
	case other.types[at] != c.types[path]:
		return fmt.Sprintf("one is a %s, the other a %q", c.types[path], other.types[at])
	case !slices.ContainsFunc(c.errors, func(e string) bool { return below(e, path) }):
		return "no error shows that it is checked here"
	}
	for p := range other.table.Shared {
		if below(at, p) {
			return "that one is shared itself"
		}
	}
	return ""
}

// excuse notes an exemption, and says what is wrong with it.
func (c *coverage) excuse(e exemption, shared map[string]bool) string {
	root, all := strings.CutSuffix(e.Path, ".*")
	if e.Why == "" {
		return "no reason is given"
	}
	var excused []string
	for l := range c.leaves {
		if l != root && !(all && below(l, root)) {
			continue
		}
		if c.invalid[l] || c.defaulted[l] || shared[l] {
			return l + " is covered"
		}
		if c.exempt[l] == "" {
			excused = append(excused, l)
		}
	}
	if len(excused) == 0 {
		return "there is nothing to exempt"
	}
	for _, l := range excused {
		c.exempt[l] = e.Why
	}
	return ""
}
