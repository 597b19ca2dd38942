package lsm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"proa/internal/store"
	"proa/internal/store/faulttest"
	"proa/internal/store/storetest"
)

// TestEveryFlipInARecord flips each bit of a stored record and of its key.
func TestEveryFlipInARecord(t *testing.T) {
	v := version{prev: 7, expires: 99, Record: store.Record{Key: "a/b", Value: []byte("some value"), Revision: 9, Created: 3, User: "ann", Codec: 4}}
	key := appendVersionKey(nil, v.Key, v.Revision)
	rec := appendRecord(nil, key, &v)
	var d decoder
	if got, err := d.record(key, rec); err != nil || string(got.Value) != "some value" || got.prev != 7 || got.expires != 99 {
		t.Fatalf("untouched: %+v, %v", got, err)
	}
	for _, b := range [][]byte{key, rec} {
		for i := range len(b) * 8 {
			b[i/8] ^= 1 << (i % 8)
			_, err := d.record(key, rec)
			if c := (*store.CorruptError)(nil); !errors.As(err, &c) {
				t.Errorf("bit %d of %d bytes: %v", i, len(b), err)
			} else if c.Key == "" {
				t.Errorf("bit %d: the error names no key", i)
			}
			b[i/8] ^= 1 << (i % 8)
		}
	}
	for n := range rec {
		if _, err := d.record(key, rec[:n]); err == nil {
			t.Errorf("cut to %d bytes: no error", n)
		}
	}
}

// TestFlipOnDisk flips bits all over the files of a database. What comes back
// is an error or what was written; never something else.
func TestFlipOnDisk(t *testing.T) {
	r := storetest.Rand(t)
	mem := vfs.NewMem()
	e, err := Open("d", Options{FS: mem, Reserve: -1, Tune: faulttest.Tiny})
	if err != nil {
		t.Fatal(err)
	}
	var log acks
	if err := log.client(e, 1, r, 120); err != nil {
		t.Fatal(err)
	}
	if err := e.ses.db.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := mem.List("d/db")
	if err != nil {
		t.Fatal(err)
	}
	flips, found := 0, 0
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		for range 12 {
			copied := vfs.NewMem()
			if ok, err := vfs.Clone(mem, copied, "d", "d", vfs.CloneSync); !ok || err != nil {
				t.Fatal(err)
			}
			buf, err := copied.UnsafeGetFileDataBuffer("d/db/" + name)
			if err != nil {
				t.Fatal(err)
			}
			bit := r.IntN(len(buf) * 8)
			buf[bit/8] ^= 1 << (bit % 8)
			flips++
			e, err := Open("d", Options{FS: copied, Reserve: -1, Tune: faulttest.Tiny})
			if err != nil {
				found++
				continue
			}
			err = verify(e, log.list, log.list)
			if c := (*store.CorruptError)(nil); errors.As(err, &c) {
				found++
			} else if err != nil {
				t.Errorf("bit %d of %s: %v", bit, name, err)
			}
			e.Close()
		}
	}
	t.Logf("%d flips, %d of them in what was read", flips, found)
	if found == 0 {
		t.Error("no flip was noticed")
	}
}

// TestHeld opens a folder that another process has open.
func TestHeld(t *testing.T) {
	const variable = "PROA_TEST_HOLD"
	if dir := os.Getenv(variable); dir != "" {
		if _, err := Open(dir, Options{}); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("held")
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		return
	}
	dir := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^TestHeld$")
	child.Env = append(os.Environ(), variable+"="+dir)
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "held\n" {
		t.Fatalf("the other process says %q", line)
	}
	_, err = Open(dir, Options{})
	var held *store.HeldError
	if !errors.As(err, &held) || held.PID != child.Process.Pid || held.Dir != dir {
		t.Errorf("held by %d: %v", child.Process.Pid, err)
	}
	in.Close()
	_ = child.Process.Kill()
	_ = child.Wait()
	e, err := Open(dir, Options{})
	if err != nil {
		t.Fatalf("after the other process has died: %v", err)
	}
	if _, err := Open(dir, Options{}); !errors.As(err, &held) || held.PID != os.Getpid() {
		t.Errorf("held by this process: %v", err)
	}
	if _, err := e.Write(context.Background(), store.Op{Key: "k"}); err != nil {
		t.Error(err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}
