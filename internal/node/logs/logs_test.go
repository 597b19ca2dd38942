package logs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const sample = `2026-01-01T00:00:01.000000001Z stdout F one
2026-01-01T00:00:02Z stderr F two
2026-01-01T00:00:03Z stdout P thr
2026-01-01T00:00:03Z stdout F ee
2026-01-01T00:00:04Z stdout F four
`

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(sample), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		o          Options
	}{
		{"all", "one\ntwo\nthree\nfour\n", Options{}},
		{"tail", "four\n", Options{Tail: new(int64(1))}},
		{"tail 0", "", Options{Tail: new(int64(0))}},
		{"tail more than there is", "one\ntwo\nthree\nfour\n", Options{Tail: new(int64(100))}},
		{"limit", "one\ntw", Options{Limit: new(int64(6))}},
		{"stderr", "two\n", Options{Stream: "Stderr"}},
		{"since", "three\nfour\n", Options{Since: time.Date(2026, 1, 1, 0, 0, 3, 0, time.UTC)}},
		{"timestamps", "2026-01-01T00:00:03Z three\n2026-01-01T00:00:04Z four\n", Options{Timestamps: true, Since: time.Date(2026, 1, 1, 0, 0, 3, 0, time.UTC)}},
	} {
		var b bytes.Buffer
		if err := Read(t.Context(), path, c.o, &b, nil); err != nil || b.String() != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, b.String(), err, c.want)
		}
	}
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A reader that follows loses nothing over rotations, and ends with the container.
func TestFollowOverRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	var out buffer
	var over atomic.Bool
	done := make(chan error, 1)
	go func() { done <- Read(context.Background(), path, Options{Follow: true}, &out, over.Load) }()
	reopen := func() error {
		f.Close()
		f, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		return err
	}
	want := 0
	for round := range 8 {
		for range 50 {
			fmt.Fprintf(f, "2026-01-01T00:00:00Z stdout F line %d\n", want)
			want++
		}
		// The reader must have read a file before the one after the next comes.
		for end := time.Now().Add(5 * time.Second); strings.Count(out.String(), "\n") < want; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("round %d: %d of %d lines", round, strings.Count(out.String(), "\n"), want)
			}
		}
		if err := Rotate(path, 1, 3, reopen); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintf(f, "2026-01-01T00:00:00Z stdout F last\n")
	f.Close()
	over.Store(true)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != want+1 || lines[want] != "last" || lines[17] != "line 17" {
		t.Errorf("%d lines; want %d", len(lines), want+1)
	}
	all, _ := filepath.Glob(path + "*")
	if len(all) > 3 {
		t.Errorf("%d files are left: %q", len(all), all)
	}
}
