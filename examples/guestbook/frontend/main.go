// Command frontend is the web front end of the guestbook example: it shows
// entries that it keeps in Redis, and takes new ones.
//
//	GET  /          the page       POST /         a form's entry, then the page
//	GET  /entries   JSON           POST /entries  {"name","text"}: 201 once the leader has it
//	GET  /healthz   200; 503 when no Redis answers or the server is draining
//	GET  /livez     200 while the process serves
//
// Writes go to the leader, reads to a replica, or to the leader when no
// replica answers. On SIGTERM it goes on serving for DRAIN, because others
// still send it requests until every proxy knows that it leaves; so a rolling
// update loses none.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

// version is shown on the page; images of another version set another.
var version = "v1"

func main() {
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, log); err != nil {
		log.Error("front end ended", "err", err)
		os.Exit(1)
	}
}

// setting reads an environment variable.
func setting(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

func run(ctx context.Context, log *slog.Logger) error {
	drain, err := time.ParseDuration(setting("DRAIN", "5s"))
	if err != nil {
		return fmt.Errorf("DRAIN: %w", err)
	}
	hostname, err := os.Hostname()
	if err != nil {
		return err
	}
	password := os.Getenv("REDIS_PASSWORD")
	f := &frontend{
		log:     log,
		title:   setting("TITLE", "Guestbook"),
		pod:     setting("POD_NAME", hostname),
		leader:  newPool(setting("REDIS_LEADER", "redis-leader:6379"), password),
		replica: newPool(setting("REDIS_REPLICA", "redis-replica:6379"), password),
	}
	srv := &http.Server{Addr: setting("LISTEN", ":8080"), Handler: f.handler(), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.ListenAndServe() }()
	log.Info("serving", "addr", srv.Addr, "version", version)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	log.Info("draining", "for", drain)
	f.draining.Store(true)
	srv.SetKeepAlivesEnabled(false) // connections in use end after their next answer
	time.Sleep(drain)
	end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return srv.Shutdown(end)
}

// An entry is what a guest wrote.
type entry struct {
	Name string    `json:"name"`
	Text string    `json:"text"`
	Time time.Time `json:"time"`
}

const (
	maxName, maxText = 100, 2000 // bytes
	shown            = 100       // newest entries on the page and in GET /entries
)

var errInvalid = errors.New("an entry needs a text")

func (e entry) check() error {
	switch {
	case e.Text == "":
		return errInvalid
	case len(e.Text) > maxText || len(e.Name) > maxName:
		return fmt.Errorf("name up to %d, text up to %d bytes", maxName, maxText)
	}
	return nil
}

type frontend struct {
	log             *slog.Logger
	title, pod      string
	leader, replica *pool
	draining        atomic.Bool
}
