package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	corev1 "k8s.io/api/core/v1"

	"proa/test/bench/measure"
)

// The bare contestants are this program itself, run again on the servers' core.

// openPebble opens a database as proa's store does.
func openPebble(dir string) (*pebble.DB, error) {
	return pebble.Open(dir, &pebble.Options{
		FormatMajorVersion: pebble.FormatValueSeparation, MemTableSize: 8 << 20, MemTableStopWritesThreshold: 4, Logger: quiet{},
	})
}

type quiet struct{}

func (quiet) Infof(string, ...any)           {}
func (quiet) Errorf(f string, a ...any)      { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (q quiet) Fatalf(f string, args ...any) { q.Errorf(f, args...); os.Exit(1) }

// barePuts is nothing but synced Pebble puts from some goroutines; it prints how
// many it made a second.
func barePuts(args []string) error {
	fs := flag.NewFlagSet("puts", flag.ExitOnError)
	dir, clients := fs.String("dir", "", ""), fs.Int("clients", 1, "")
	length := fs.Duration("length", time.Second, "")
	fs.Parse(args)
	db, err := openPebble(*dir)
	if err != nil {
		return err
	}
	value := []byte(measure.Pod("v1"))
	var wg sync.WaitGroup
	var done atomic.Int64
	var failed atomic.Pointer[error]
	start := time.Now()
	for n := range *clients {
		wg.Go(func() {
			for i := 0; time.Since(start) < *length; i++ {
				if err := db.Set(fmt.Appendf(nil, "/registry/pods/default/p-%d-%d", n, i), value, pebble.Sync); err != nil {
					failed.Store(&err)
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	fmt.Printf("%.1f\n", float64(done.Load())/time.Since(start).Seconds())
	return db.Close()
}

// bareServer takes a pod as JSON over TLS and HTTP/2, stores it as protobuf in
// Pebble with a sync, and answers with JSON. It knows nothing of defaults,
// validation, ownership, access or watches: what is faster is not a server.
func bareServer(args []string) error {
	fs := flag.NewFlagSet("server", flag.ExitOnError)
	dir, address := fs.String("dir", "", ""), fs.String("address", "", "")
	cert, key := fs.String("cert", "", ""), fs.String("key", "", "")
	fs.Parse(args)
	db, err := openPebble(*dir)
	if err != nil {
		return err
	}
	store := func(r *http.Request) ([]byte, error) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		var pod corev1.Pod
		if err := json.Unmarshal(body, &pod); err != nil {
			return nil, err
		}
		stored, err := pod.Marshal()
		if err != nil {
			return nil, err
		}
		if err := db.Set([]byte("/registry/pods/default/"+pod.Name), stored, pebble.Sync); err != nil {
			return nil, err
		}
		return json.Marshal(&pod)
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			return
		}
		answer, err := store(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		w.Write(answer)
	})
	s := &http.Server{Addr: *address, Handler: handler, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13}}
	return s.ListenAndServeTLS(*cert, *key)
}

// bareMode runs what this program was run again for.
func bareMode(args []string) (done bool, err error) {
	if len(args) == 0 {
		return false, nil
	}
	switch args[0] {
	case "bare-puts":
		return true, barePuts(args[1:])
	case "bare-server":
		return true, bareServer(args[1:])
	}
	return false, nil
}

// startBare starts the bare server.
func startBare(core int, dir string, id *measure.Identity) (*measure.Process, measure.Target, error) {
	var t measure.Target
	self, err := os.Executable()
	if err != nil {
		return nil, t, err
	}
	port, err := measure.FreePort()
	if err != nil {
		return nil, t, err
	}
	address := fmt.Sprint("127.0.0.1:", port)
	if t.TLS, err = id.TLS(); err != nil {
		return nil, t, err
	}
	t.URL = "https://" + address
	p, err := measure.Start(core, dir+"/bare.log", self, "bare-server", "-dir", dir+"/bare", "-address", address,
		"-cert", id.Dir+"/server.crt", "-key", id.Dir+"/server.key")
	if err != nil {
		return nil, t, err
	}
	client := t.Client()
	err = p.Await("the bare server", 5*time.Millisecond, func(ctx context.Context) error {
		_, err := t.Get(ctx, client, "/")
		return err
	})
	if err != nil {
		p.Stop()
		return nil, t, errors.Join(err)
	}
	return p, t, nil
}
