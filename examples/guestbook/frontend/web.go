package main

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"strings"
	"time"
)

func (f *frontend) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", f.page)
	mux.HandleFunc("POST /{$}", f.form)
	mux.HandleFunc("GET /entries", f.list)
	mux.HandleFunc("POST /entries", f.create)
	mux.HandleFunc("GET /healthz", f.healthz)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return http.MaxBytesHandler(mux, 64<<10)
}

func (f *frontend) healthz(w http.ResponseWriter, r *http.Request) {
	if f.draining.Load() {
		http.Error(w, "draining", http.StatusServiceUnavailable)
		return
	}
	if _, err := f.leader.do(r.Context(), true, "PING"); err != nil {
		if _, err := f.replica.do(r.Context(), true, "PING"); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	fmt.Fprintln(w, "ok")
}

// add stores an entry: it returns when the leader has it on disk (the leader
// syncs every write) and, so that the page shows it at once, when a replica
// has it too or does not get it soon.
func (f *frontend) add(ctx context.Context, e entry) error {
	if err := e.check(); err != nil {
		return err
	}
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	err = f.leader.run(ctx, false, func(ctx context.Context, c *conn) error {
		if _, err := c.do(ctx, "RPUSH", "entries", string(body)); err != nil {
			return err
		}
		// WAIT is about the writes of its own connection.
		if _, err := c.do(ctx, "WAIT", "2", "100"); err != nil {
			f.log.Warn("the replicas may be behind", "err", err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store the entry: %w", err)
	}
	return nil
}

// entries gives the newest, oldest of them first.
func (f *frontend) entries(ctx context.Context) ([]entry, error) {
	args := []string{"LRANGE", "entries", fmt.Sprint(-shown), "-1"}
	out, err := f.replica.do(ctx, true, args...)
	if err != nil {
		f.log.Warn("no replica answers, reading from the leader", "err", err)
		out, err = f.leader.do(ctx, true, args...)
	}
	if err != nil {
		return nil, fmt.Errorf("read the entries: %w", err)
	}
	entries := []entry{}
	for _, item := range out.list {
		var e entry
		if err := json.Unmarshal([]byte(item.text), &e); err != nil {
			return nil, fmt.Errorf("an entry in the store: %w", err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func (f *frontend) list(w http.ResponseWriter, r *http.Request) {
	entries, err := f.entries(r.Context())
	if err != nil {
		f.fail(w, err)
		return
	}
	reply(w, http.StatusOK, struct {
		Pod     string  `json:"pod"`
		Version string  `json:"version"`
		Entries []entry `json:"entries"`
	}{f.pod, version, entries})
}

func (f *frontend) create(w http.ResponseWriter, r *http.Request) {
	var e entry
	if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
		http.Error(w, "want {\"name\": …, \"text\": …}: "+err.Error(), http.StatusBadRequest)
		return
	}
	e.Time = time.Now().UTC()
	if err := e.check(); err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	if err := f.add(r.Context(), e); err != nil {
		f.fail(w, err)
		return
	}
	reply(w, http.StatusCreated, e)
}

func (f *frontend) form(w http.ResponseWriter, r *http.Request) {
	e := entry{Name: strings.TrimSpace(r.FormValue("name")), Text: strings.TrimSpace(r.FormValue("text")), Time: time.Now().UTC()}
	if err := e.check(); err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	if err := f.add(r.Context(), e); err != nil {
		f.fail(w, err)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (f *frontend) fail(w http.ResponseWriter, err error) {
	f.log.Error("request failed", "err", err)
	http.Error(w, err.Error(), http.StatusServiceUnavailable)
}

func reply[T any](w http.ResponseWriter, status int, body T) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that went away needs no answer
}

const head = `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>%[1]s</title><style>
body{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:2em auto;padding:0 1em;color:#1d2b3a;background:#fbfaf7}
h1{margin:0 0 .8em}form{display:flex;gap:.5em;margin-bottom:1.5em;flex-wrap:wrap}
input,button{font:inherit;padding:.4em .7em;border:1px solid #b9c2cc;border-radius:6px;background:#fff}
input[name=text]{flex:1}button{background:#1f6feb;border-color:#1f6feb;color:#fff}
article{border-top:1px solid #e2dfd6;padding:.6em 0;overflow-wrap:anywhere}small,footer{color:#6b7783}footer{margin-top:2em}
</style><h1>%[1]s</h1><form method="post"><input name="name" placeholder="Your name" maxlength="100" aria-label="Your name">
<input name="text" placeholder="Say something" maxlength="2000" required aria-label="Your entry"><button>Sign</button></form>
`

func (f *frontend) page(w http.ResponseWriter, r *http.Request) {
	entries, err := f.entries(r.Context())
	if err != nil {
		f.fail(w, err)
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, head, html.EscapeString(f.title))
	if len(entries) == 0 {
		b.WriteString("<p>Nobody has signed yet.</p>\n")
	}
	for i := len(entries) - 1; i >= 0; i-- {
		e := entries[i]
		name := e.Name
		if name == "" {
			name = "Somebody"
		}
		fmt.Fprintf(&b, "<article><b>%s</b> <small>%s</small><br>%s</article>\n",
			html.EscapeString(name), e.Time.Format("2 January 2006, 15:04 UTC"), html.EscapeString(e.Text))
	}
	fmt.Fprintf(&b, "<footer>served by %s, %s</footer>\n", html.EscapeString(f.pod), html.EscapeString(version))
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = io.WriteString(w, b.String()) // as in reply
}
