package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"proa/test/bench/load"
	"proa/test/bench/measure"
)

// A crowd is the watchers of one contestant, and who writes.
type crowd struct {
	pods   *measure.Pods
	writer *load.Conn
	conns  []*load.Conn
	wg     sync.WaitGroup
	name   string
	size   int

	due    []atomic.Int64 // when the nth write was due, in nanoseconds of the Unix epoch
	took   [][]int64      // by watcher and write; what has been counted in got is no longer changed
	got    atomic.Int64
	made   int
	failed atomic.Pointer[error]
	closed atomic.Bool
}

// gather opens watches of one pod's namespace, and returns the memory that each
// costs the server that serves the API, in KiB.
func (c *crowd) gather(n, perConn, writes int) (float64, error) {
	c.size, c.name, c.due = n, measure.Name("watched-"), make([]atomic.Int64, writes)
	if err := c.open(); err != nil {
		return 0, err
	}
	b, err := c.writer.Body(&load.Request{Method: "GET", Path: c.pods.Path + "/" + c.name})
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), `"resourceVersion":"`)
	rev, _, _ := strings.Cut(rest, `"`)
	before, err := c.settled()
	if err != nil {
		return 0, err
	}
	var opened sync.WaitGroup
	for left := n; left > 0; left -= perConn {
		conn, err := load.Dial(c.pods.Target)
		if err != nil {
			return 0, err
		}
		c.conns = append(c.conns, conn)
		opened.Add(1)
		some := min(left, perConn)
		first := len(c.took)
		for range some {
			c.took = append(c.took, make([]int64, 0, writes))
		}
		mine := c.took[first:]
		c.wg.Go(func() {
			err := c.watch(conn, mine, c.pods.Path+"?watch=1&timeoutSeconds=3000&resourceVersion="+rev, opened.Done)
			if err != nil && !c.closed.Load() {
				err = fmt.Errorf("a watch ended: %w", err)
				c.failed.CompareAndSwap(nil, &err)
			}
		})
	}
	opened.Wait()
	if err := c.failed.Load(); err != nil {
		return 0, *err
	}
	after, err := c.settled()
	return float64(after-before) / 1024 / float64(n), err
}

// open connects the writer and makes the pod.
func (c *crowd) open() (err error) {
	if c.writer, err = load.Dial(c.pods.Target); err != nil {
		return err
	}
	body := []byte(strings.Replace(c.pods.JSON, measure.NameMark, c.name, 1))
	_, err = c.writer.Do(&load.Request{Method: "POST", Path: c.pods.Path, Type: "application/json", Body: body}, nil)
	return err
}

// settled is the memory of the server that serves the API when it no longer
// falls: the least of some seconds.
func (c *crowd) settled() (int64, error) {
	var least int64
	for i := range 8 {
		time.Sleep(500 * time.Millisecond)
		n, err := measure.PSS(c.pods.Processes[0].PID())
		if err != nil {
			return 0, err
		}
		if i == 0 || n < least {
			least = n
		}
	}
	return least, nil
}

// watch opens the watches of a connection, says when all have begun, and notes
// what they get until the connection is closed.
func (c *crowd) watch(conn *load.Conn, took [][]int64, path string, begun func()) error {
	said := false
	defer func() {
		if !said {
			begun()
		}
	}()
	index := map[uint32]int{}
	for n := range took {
		id, err := conn.Start(&load.Request{Method: "GET", Path: path, Accept: "application/json"})
		if err != nil {
			return err
		}
		index[id] = n
	}
	begins := len(took)
	for {
		p, err := conn.Read()
		if err != nil {
			return err
		}
		now := time.Now().UnixNano()
		switch {
		case p.Status != "" && p.Status != "200":
			return fmt.Errorf("answered with %s", p.Status)
		case p.End:
			return errors.New("the server ended it")
		case p.Status != "":
			if begins--; begins == 0 {
				begun()
				said = true
			}
			continue
		}
		n := index[p.Stream]
		for range bytes.Count(p.Data, []byte("\n")) {
			if len(took[n]) == cap(took[n]) {
				return errors.New("more events than writes")
			}
			took[n] = append(took[n], now-c.due[len(took[n])].Load())
			c.got.Add(1)
		}
	}
}

// write makes writes at their times and returns how long each took to reach
// each watcher.
func (c *crowd) write(n int, every time.Duration) ([]time.Duration, error) {
	first := c.made
	start := time.Now().Add(100 * time.Millisecond)
	for i := range n {
		c.due[first+i].Store(start.Add(time.Duration(i) * every).UnixNano())
	}
	for i := range n {
		time.Sleep(time.Until(time.Unix(0, c.due[first+i].Load())))
		body := fmt.Sprintf(`{"metadata":{"annotations":{"example.com/checksum":"%064d"}}}`, first+i)
		if _, err := c.writer.Do(&load.Request{Method: "PATCH", Path: c.pods.Path + "/" + c.name, Type: "application/merge-patch+json", Body: []byte(body)}, nil); err != nil {
			return nil, err
		}
	}
	c.made += n
	deadline := time.Now().Add(time.Minute)
	for c.got.Load() < int64(c.made*c.size) {
		if err := c.failed.Load(); err != nil {
			return nil, *err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%d of %d events have arrived a minute after the last write", c.got.Load(), c.made*c.size)
		}
		time.Sleep(5 * time.Millisecond)
	}
	var all []time.Duration
	for _, t := range c.took {
		for _, d := range t[first:c.made] {
			all = append(all, time.Duration(d))
		}
	}
	return all, nil
}

func (c *crowd) close() {
	c.closed.Store(true)
	for _, conn := range c.conns {
		conn.Close()
	}
	if c.writer != nil {
		c.writer.Close()
	}
	c.wg.Wait()
}
