package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

const help = `GET  /            {"name","hostname","remote","host","headers"} of this request
GET  /healthz /readyz /startz   200 or 500
POST /healthz?ok=false          turns an answer, from now on
GET  /slow?ms=500   answers after that long
GET  /status?code=N answers with that status
GET  /env           the environment, one NAME=VALUE a line
GET  /file?path=P   a file        PUT the same: writes it
POST /echo          the request's body
POST /exit?code=N   ends the process
`

// serve is an HTTP server that starts listening after -delay and goes on for
// -drain after SIGTERM.
func serve(ctx context.Context, args []string) (int, error) {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	addr := fs.String("addr", ":8080", "address to listen on")
	name := fs.String("name", "proa-test", "what to call itself")
	delay := fs.Duration("delay", 0, "wait before listening")
	drain := fs.Duration("drain", 0, "serve on after SIGTERM")
	if err := fs.Parse(args); err != nil {
		return 2, err
	}
	if err := wait(ctx, *delay); err != nil {
		return 0, nil
	}
	srv := &http.Server{Addr: *addr, Handler: handler(*name), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.ListenAndServe() }()
	fmt.Println("serving on", *addr)
	select {
	case err := <-failed:
		return 1, err
	case <-ctx.Done():
	}
	fmt.Println("draining for", *drain)
	time.Sleep(*drain)
	end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := srv.Shutdown(end); err != nil {
		return 1, err
	}
	return 0, nil
}

// wait is a sleep that a signal ends.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func handler(name string) http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"/healthz", "/readyz", "/startz"} {
		bad := new(atomic.Bool)
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			if bad.Load() {
				http.Error(w, "not ok", http.StatusInternalServerError)
				return
			}
			fmt.Fprintln(w, "ok")
		})
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) { bad.Store(r.FormValue("ok") == "false") })
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { describe(w, r, name) })
	mux.HandleFunc("GET /help", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, help) })
	mux.HandleFunc("GET /slow", func(_ http.ResponseWriter, r *http.Request) {
		ms, _ := strconv.Atoi(r.FormValue("ms")) // no number is no wait
		time.Sleep(time.Duration(ms) * time.Millisecond)
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.FormValue("code"))
		if err != nil || code < 200 || code > 599 {
			code = http.StatusBadRequest
		}
		w.WriteHeader(code)
	})
	mux.HandleFunc("GET /env", func(w http.ResponseWriter, _ *http.Request) {
		for _, v := range os.Environ() {
			fmt.Fprintln(w, v)
		}
	})
	mux.HandleFunc("GET /file", func(w http.ResponseWriter, r *http.Request) {
		body, err := os.ReadFile(r.FormValue("path"))
		answer(w, body, err)
	})
	mux.HandleFunc("PUT /file", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = writeFile(r.FormValue("path"), string(body), os.O_TRUNC)
		}
		answer(w, nil, err)
	})
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		answer(w, body, err)
	})
	mux.HandleFunc("POST /exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code")) // no number is 0
		os.Exit(code)
	})
	return mux
}

func answer(w http.ResponseWriter, body []byte, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(body) // a client that went away needs no answer
}

func describe(w http.ResponseWriter, r *http.Request, name string) {
	hostname, err := os.Hostname()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(struct {
		Name     string      `json:"name"`
		Hostname string      `json:"hostname"`
		Remote   string      `json:"remote"`
		Host     string      `json:"host"`
		Headers  http.Header `json:"headers"`
	}{name, hostname, r.RemoteAddr, r.Host, r.Header}) // as above
}
