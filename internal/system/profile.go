package system

import (
	"net/http"
	"path"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"time"
)

// withProfiles adds Go's profiles of this process below /debug/pprof/, by the
// names and parameters of net/http/pprof (which would link templates): a
// profile and a trace for ?seconds=N, the others as they are, as text with
// ?debug=1. They are for administrators: no role but cluster-admin allows it.
func withProfiles(paths map[string]http.Handler) map[string]http.Handler {
	paths["/debug/pprof/"] = http.HandlerFunc(serveProfile)
	return paths
}

func serveProfile(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
	switch name {
	case "profile":
		if err := pprof.StartCPUProfile(w); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		awaitProfile(r, 30)
		pprof.StopCPUProfile()
		return
	case "trace":
		if err := trace.Start(w); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		awaitProfile(r, 1)
		trace.Stop()
		return
	}
	p := pprof.Lookup(name)
	if p == nil {
		http.Error(w, "no profile has this name: profile, trace, heap, allocs, goroutine, threadcreate, block and mutex are there", http.StatusNotFound)
		return
	}
	debug, err := strconv.Atoi(r.URL.Query().Get("debug"))
	if err != nil {
		debug = 0
	}
	if err := p.WriteTo(w, debug); err != nil {
		return // the client has gone
	}
}

// awaitProfile waits as long as the request says, at most ten minutes.
func awaitProfile(r *http.Request, usual int) {
	seconds, err := strconv.Atoi(r.URL.Query().Get("seconds"))
	if err != nil || seconds < 1 || seconds > 600 {
		seconds = usual
	}
	over := time.NewTimer(time.Duration(seconds) * time.Second)
	defer over.Stop()
	select {
	case <-over.C:
	case <-r.Context().Done():
	}
}
