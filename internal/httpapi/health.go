package httpapi

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// health answers /livez and its kind: "ok", or with ?verbose or on failure a
// line for each check. ?exclude=NAME leaves one out. /livez/NAME asks one alone.
func health(what string, asks func(Check) bool) pathFunc {
	return func(x *exchange) {
		checks := []Check{{Name: "ping", Probe: func(context.Context) error { return nil }}}
		for _, c := range x.s.Checks {
			if asks(c) {
				checks = append(checks, c)
			}
		}
		if what == "readyz" {
			checks = append(checks, Check{Name: "shutdown", Probe: x.stopping})
		}
		if one := strings.Trim(strings.TrimPrefix(x.req.URL.Path, "/"+what), "/"); one != "" {
			x.healthOf(checks, one)
			return
		}
		q := x.req.URL.Query()
		out, good := x.ask(checks, q["exclude"])
		h := x.Header()
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("X-Content-Type-Options", "nosniff")
		_, verbose := q["verbose"]
		switch {
		case !good:
			x.WriteHeader(http.StatusInternalServerError)
			fmt.Fprintf(x, "%s%s check failed\n", out, what)
		case verbose:
			fmt.Fprintf(x, "%s%s check passed\n", out, what)
		default:
			x.Write([]byte("ok"))
		}
	}
}

// healthOf answers for one check.
func (x *exchange) healthOf(checks []Check, name string) {
	i := slices.IndexFunc(checks, func(c Check) bool { return c.Name == name })
	if i < 0 {
		http.Error(x, "404 page not found", http.StatusNotFound)
		return
	}
	if err := checks[i].Probe(x.ctx); err != nil {
		x.s.Log.Warn("a health check failed", "check", name, "err", err)
		http.Error(x, "internal server error: reason withheld", http.StatusInternalServerError)
		return
	}
	x.Header().Set("Content-Type", "text/plain; charset=utf-8")
	x.Write([]byte("ok"))
}

// ask runs the checks and says how each went. What went wrong is for the log
// only: the client may be anybody.
func (x *exchange) ask(checks []Check, exclude []string) (out string, good bool) {
	unknown := map[string]bool{}
	for _, name := range exclude {
		unknown[name] = true
	}
	good = true
	for _, c := range checks {
		if slices.Contains(exclude, c.Name) {
			delete(unknown, c.Name)
			out += "[+]" + c.Name + " excluded: ok\n"
			continue
		}
		if err := c.Probe(x.ctx); err != nil {
			good = false
			x.s.Log.Warn("a health check failed", "check", c.Name, "err", err)
			out += "[-]" + c.Name + " failed: reason withheld\n"
			continue
		}
		out += "[+]" + c.Name + " ok\n"
	}
	if len(unknown) > 0 {
		var names []string
		for _, name := range slices.Sorted(maps.Keys(unknown)) {
			names = append(names, fmt.Sprintf("%q", name))
		}
		out += "warn: some health checks cannot be excluded: no matches for " + strings.Join(names, ",") + "\n"
	}
	return out, good
}

// stopping is an error while the server goes down.
func (x *exchange) stopping(context.Context) error {
	if down, ok := x.ctx.Value(shutdown{}).(context.Context); ok {
		return down.Err()
	}
	return nil
}
