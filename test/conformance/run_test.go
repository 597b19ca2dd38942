package conformance

import (
	"flag"
	"fmt"
	"hash/fnv"
	"os"
	"strings"
	"sync"
	"testing"
)

// TestMain lets many rows wait at a time: most of what they do is waiting.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("32")
	}
	code := m.Run()
	if tally.text != "" {
		fmt.Println(tally.text)
	}
	os.Exit(code)
}

// tally is what TestRows has to say at the end.
var tally struct {
	sync.Mutex
	text       string
	hand, made int // rows that pass: written by hand, and made from kinds
	pending    []string
}

// Long texts, for rows that send much: $lots, $half and $mega, which is a
// million letters, and $huge, a ConfigMap that is larger than any request may be.
var (
	lots = strings.Repeat("0123456789abcdef", 1<<9)
	half = strings.Repeat("x", 5e5)
	mega = strings.Repeat("x", 1e6)
	huge = `{"metadata":{"name":"a"},"data":{"k":"` + strings.Repeat("x", 3<<20) + `"}}`
)

// worlds are the servers that rows share.
type worlds struct {
	plain, driven *world
	apart, joined *world // with controllers; with another server behind it
	hook          *webhook
}

// TestRows plays the whole table.
func TestRows(t *testing.T) {
	ws := &worlds{plain: newWorld(t, needs{}), driven: newWorld(t, needs{controllers: true}), apart: newWorld(t, needs{controllers: true}),
		joined: newWorld(t, needs{aggregation: true}), hook: newWebhook(t)}
	all := readAreas(t)
	objs := readObjects(t)
	all = append(all, matrix(t, objs))
	t.Run("rows", func(t *testing.T) {
		for _, a := range all {
			t.Run(a.name, func(t *testing.T) {
				t.Parallel()
				for _, r := range a.rows {
					t.Run(short(r.title), func(t *testing.T) {
						t.Parallel()
						ws.play(t, a, r, objs)
					})
				}
			})
		}
	})
	var b strings.Builder
	for _, p := range tally.pending {
		fmt.Fprintln(&b, "PENDING", p)
	}
	fmt.Fprintf(&b, "conformance: %d rows by hand and %d over all kinds pass; %d pending", tally.hand, tally.made, len(tally.pending))
	tally.text = b.String()
}

// counted is how many rows are to pass: written by hand, and made from kinds.
func counted(all []*area) (hand, made int) {
	for _, a := range all {
		for _, r := range a.rows {
			switch {
			case r.pending != "":
			case r.hand:
				hand++
			default:
				made++
			}
		}
	}
	return hand, made
}

// short is a title that -run can name.
func short(title string) string { return strings.ReplaceAll(title, "/", "|") }

// play plays one row both ways, as far as it exists there.
func (ws *worlds) play(t *testing.T, a *area, r *row, objs objects) {
	var failures []error
	ways := 0
	for _, way := range []string{"process", "http"} {
		if r.only != "" && r.only != way || way == "process" && r.wireOnly() {
			continue
		}
		ways++
		if err := ws.once(t, way, a, r, objs); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", way, err))
		}
	}
	switch {
	case ways == 0:
		t.Errorf("the row is played nowhere")
	case r.pending != "" && len(failures) == 0:
		t.Errorf("it holds: it is not pending any more (%s)", r.pending)
	case r.pending != "":
		tally.Lock()
		tally.pending = append(tally.pending, fmt.Sprintf("%s: %s: %s", a.name, r.title, r.pending))
		tally.Unlock()
		t.Skipf("PENDING: %s", r.pending)
	default:
		for _, err := range failures {
			t.Error(err)
		}
		if len(failures) == 0 {
			passed(r)
		}
	}
}

func passed(r *row) {
	tally.Lock()
	defer tally.Unlock()
	if r.hand {
		tally.hand++
	} else {
		tally.made++
	}
}

func (ws *worlds) once(t *testing.T, way string, a *area, r *row, objs objects) error {
	w := ws.plain
	switch {
	case r.needs.own:
		w = newWorld(t, r.needs)
	case r.needs.apart:
		w = ws.apart
	case r.needs.controllers:
		w = ws.driven
	case r.needs.aggregation:
		w = ws.joined
	}
	p := newPlay(w, ws.hook, a, r, way, objs)
	if err := w.prepare(t.Context(), p.vars["ns"], r.needs.controllers); err != nil {
		return err
	}
	if way == "process" {
		p.via = direct{w}
	}
	return p.run(t.Context(), r)
}

// newPlay makes a row ready to be played over HTTPS, with names of its own.
func newPlay(w *world, hook *webhook, a *area, r *row, way string, objs objects) *play {
	h := fnv.New32a()
	fmt.Fprint(h, a.name, r.title, way)
	sum := h.Sum32()
	ns := fmt.Sprintf("t%08x", sum)
	return &play{w: w, via: wire{w}, objects: objs, vars: vars{
		"ns": ns, "id": ns, "ip": fmt.Sprintf("10.%d.%d.%d", byte(sum>>16), byte(sum>>8), byte(sum)), "lots": lots, "half": half, "mega": mega, "huge": huge,
		"g": ns + ".example.com", "crds": definitions, "webhook": hook.url, "webhookCA": hook.ca}}
}
