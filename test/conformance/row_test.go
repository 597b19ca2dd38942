package conformance

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"
)

// An area is one file of rows.
type area struct {
	name string // of the file
	doc  string // the first sentence of its comment
	rows []*row
}

// A row is one behaviour and the steps that show it.
type row struct {
	title   string
	covers  []string
	only    string // "http", "process" or empty
	alone   string // why it cannot be played on the reference
	needs   needs
	pending string
	steps   []step
	hand    bool // written by hand, not made from a kind
}

// needs is what sort of server a row wants.
type needs struct {
	controllers bool
	apart       bool // with controllers, from all rows that do not say so
	aggregation bool
	own         bool
	services    string
	ports       [2]int32
	history     string
	largest     int64 // body of a request
}

// A step is one request and what it must be answered with, or a wait for events.
type step struct {
	line    int
	as      string // who asks from here on
	method  string
	path    string
	watch   string // the name of the watch
	kind    string // that a DEFINE defines
	times   int
	until   bool
	headers [][2]string
	body    string
	raw     bool
	literal bool // the body is JSON, to be sent as it is
	want    want
}

// want is what an answer must be.
type want struct {
	code     int
	reason   string
	message  string
	headers  [][2]string
	warnings []string
	silent   bool     // no warnings
	causes   []string // of an error: field and message of each
	body     string
}

// wireOnly says whether the row speaks of what only exists on the wire.
func (r *row) wireOnly() bool {
	return r.only == "http" || slices.ContainsFunc(r.steps, func(s step) bool {
		return len(s.headers) > 0 || len(s.want.headers) > 0 || s.method == "TABLE" || s.method == "PARTIAL" || s.method == "HEAD" ||
			s.method == "OPTIONS" || s.path != "" && !isResource(s.path) || s.as == "nobody" || strings.HasPrefix(s.as, "token ")
	})
}

// isResource says whether a path names a resource: not a document about them.
func isResource(path string) bool {
	path, _, _ = strings.Cut(path, "?")
	rest, full := strings.CutPrefix(path, "/")
	if !full {
		return true
	}
	parts := strings.Split(rest, "/")
	return parts[0] == "api" && len(parts) > 2 || parts[0] == "apis" && len(parts) > 3
}

func readAreas(t testing.TB) []*area {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no rows: %v", err)
	}
	var out []*area
	titles := map[string]string{}
	for _, f := range files {
		a, err := readArea(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range a.rows {
			if was := titles[r.title]; was != "" {
				t.Errorf("%s: the behaviour %q is in %s already", f, r.title, was)
			}
			titles[r.title] = f
		}
		out = append(out, a)
	}
	return out
}

func readArea(file string) (*area, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	archive := txtar.Parse(text)
	a := &area{name: strings.TrimSuffix(filepath.Base(file), ".txtar")}
	var every row // what the comment sets for every row
	text = nil
	for line := range strings.Lines(string(archive.Comment)) {
		if !setting(&every, strings.TrimSpace(line)) {
			text = append(text, strings.ReplaceAll(line, "\n", " ")...)
		}
	}
	a.doc, _, _ = strings.Cut(strings.TrimSpace(string(text)), ". ")
	a.doc = strings.TrimSuffix(a.doc, ".")
	if a.doc == "" {
		return nil, fmt.Errorf("%s: no comment says what the area is", file)
	}
	for _, f := range archive.Files {
		r, err := parseRow(f.Name, string(f.Data), every)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", file, f.Name, err)
		}
		a.rows = append(a.rows, r)
	}
	return a, nil
}

var (
	requestLine = regexp.MustCompile(`^(UNTIL )?(?:(\d+)x )?(GET|POST|PUT|DELETE|HEAD|OPTIONS|MERGE|STRATEGIC|JSONPATCH|APPLY|PATCH|TABLE|PARTIAL) (\S+)$`)
	watchLine   = regexp.MustCompile(`^WATCH (\w+) (\S+)$`)
	waitLine    = regexp.MustCompile(`^(EVENTS|CLOSED) (\w+)$`)
	defineLine  = regexp.MustCompile(`^DEFINE ([A-Z]\w*)$`)
	codeLine    = regexp.MustCompile(`^(\d{3})(?: (\w+))?(?:: (.*))?$`)
)

func parseRow(title, text string, every row) (*row, error) {
	r := &every
	r.title, r.hand = title, true
	var now *step
	answered := false
	fail := func(n int, format string, args ...any) (*row, error) {
		return nil, fmt.Errorf("line %d of the row: %s", n, fmt.Sprintf(format, args...))
	}
	add := func(s step) { r.steps, answered = append(r.steps, s), false; now = &r.steps[len(r.steps)-1] }
	for i, line := range strings.Split(text, "\n") {
		n := i + 1
		line = strings.TrimRight(line, " ")
		body, isBody := strings.CutPrefix(line, "  ")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case isBody && now != nil:
			now.block(answered, body)
		case strings.HasPrefix(line, "| ") || line == "|":
			if now == nil || answered {
				return fail(n, "a raw body without a request")
			}
			now.raw = true
			now.body += strings.TrimPrefix(strings.TrimPrefix(line, "|"), " ") + "\n"
		case strings.HasPrefix(line, "> ") && now != nil:
			k, v, _ := strings.Cut(line[2:], ": ")
			now.headers = append(now.headers, [2]string{k, v})
		case strings.HasPrefix(line, "< ") && now != nil:
			k, v, _ := strings.Cut(line[2:], ": ")
			now.want.headers = append(now.want.headers, [2]string{k, v})
		case strings.HasPrefix(line, "as: "):
			add(step{line: n, as: line[4:]})
			now = nil
		case line == "no warnings" && answered:
			now.want.silent = true
		case strings.HasPrefix(line, "warning: ") && answered:
			now.want.warnings = append(now.want.warnings, line[9:])
		case strings.HasPrefix(line, "cause: ") && answered:
			now.want.causes = append(now.want.causes, line[7:])
		case now == nil && len(r.steps) == 0 && setting(r, line):
		case requestLine.MatchString(line):
			m := requestLine.FindStringSubmatch(line)
			times, _ := strconv.Atoi(m[2])
			add(step{line: n, until: m[1] != "", times: max(times, 1), method: m[3], path: m[4]})
		case watchLine.MatchString(line):
			m := watchLine.FindStringSubmatch(line)
			add(step{line: n, method: "WATCH", watch: m[1], path: m[2]})
		case defineLine.MatchString(line):
			add(step{line: n, method: "DEFINE", kind: defineLine.FindStringSubmatch(line)[1], want: want{code: http.StatusCreated}})
		case waitLine.MatchString(line):
			m := waitLine.FindStringSubmatch(line)
			add(step{line: n, method: m[1], watch: m[2]})
			answered = true
		case codeLine.MatchString(line) && now != nil && !answered:
			m := codeLine.FindStringSubmatch(line)
			now.want.code, _ = strconv.Atoi(m[1])
			now.want.reason, now.want.message = m[2], m[3]
			if q := m[3]; len(q) > 1 && q[0] == '\'' && q[len(q)-1] == '\'' { // as YAML would need it
				now.want.message = q[1 : len(q)-1]
			}
			answered = true
		default:
			return fail(n, "not understood: %q", line)
		}
	}
	for _, s := range r.steps {
		if s.as == "" && s.method != "WATCH" && s.method != "CLOSED" && s.method != "EVENTS" && s.want.code == 0 {
			return fail(s.line, "%s %s has no expected code", s.method, s.path)
		}
	}
	if len(r.steps) == 0 {
		return fail(1, "a row without steps")
	}
	return r, nil
}

func (s *step) block(answered bool, line string) {
	if answered {
		s.want.body += line + "\n"
	} else {
		s.body += line + "\n"
	}
}

// setting reads a line at the head of a row.
func setting(r *row, line string) bool {
	key, value, ok := strings.Cut(line, ": ")
	if !ok {
		return false
	}
	switch key {
	case "covers":
		r.covers = append(r.covers, value)
	case "reference":
		why, no := strings.CutPrefix(value, "no ")
		r.alone = why
		return no && why != ""
	case "pending":
		r.pending = value
	case "only":
		r.only = value
		return value == "http" || value == "process"
	case "needs":
		return r.needs.parse(value)
	default:
		return false
	}
	return true
}

func (n *needs) parse(value string) bool {
	if value == "controllers" || value == "controllers apart" {
		n.controllers, n.apart = true, value != "controllers"
		return true
	}
	if value == "aggregation" {
		n.aggregation = true
		return true
	}
	rest, ok := strings.CutPrefix(value, "own server")
	n.own = ok
	for _, w := range strings.Fields(rest) {
		k, v, _ := strings.Cut(w, "=")
		switch k {
		case "services":
			n.services = v
		case "ports":
			if _, err := fmt.Sscanf(v, "%d-%d", &n.ports[0], &n.ports[1]); err != nil {
				return false
			}
		case "history":
			n.history = v
		case "controllers":
			n.controllers = true
		case "largest":
			q, err := resource.ParseQuantity(v)
			if err != nil {
				return false
			}
			n.largest = q.Value()
		default:
			return false
		}
	}
	return ok
}

// parseYAML is any YAML as JSON values.
func parseYAML(text string) (v any, err error) {
	err = yaml.Unmarshal([]byte(text), &v)
	return v, err
}
