package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"

	"proa/test/bench/measure"
)

// A contestant takes creates: it makes one client with a connection of its own,
// a function that creates the object of a name.
type contestant interface {
	client(n int) (create func(ctx context.Context, name string) error, close func(), err error)
}

// poster posts objects to a server that speaks HTTPS.
type poster struct {
	measure.Target
	path string
	body string // of which %NAME% is replaced
}

func (p poster) client(int) (func(context.Context, string) error, func(), error) {
	c := p.Client()
	create := func(ctx context.Context, name string) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL+p.path, strings.NewReader(strings.Replace(p.body, nameMark, name, 1)))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			b, err := io.ReadAll(resp.Body)
			return errors.Join(fmt.Errorf("create %s: %s: %.300s", name, resp.Status, b), err)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	return create, c.CloseIdleConnections, nil
}

// putter puts keys into etcd, with the API's own messages, written by hand: a
// key and a value are all that a PutRequest needs (etcd's rpc.proto).
type putter struct {
	address string
	tls     *tls.Config
	body    string
}

func (p putter) client(int) (func(context.Context, string) error, func(), error) {
	conn, err := grpc.NewClient(p.address, grpc.WithTransportCredentials(credentials.NewTLS(p.tls)))
	if err != nil {
		return nil, nil, err
	}
	put := func(ctx context.Context, name string) error {
		var answer []byte
		request := field(field(nil, 1, "/registry/pods/default/"+name), 2, strings.Replace(p.body, nameMark, name, 1))
		return conn.Invoke(ctx, "/etcdserverpb.KV/Put", &request, &answer, grpc.ForceCodecV2(bytesCodec{}))
	}
	return put, func() { conn.Close() }, nil
}

// field appends a protobuf field of bytes.
func field(b []byte, number int, value string) []byte {
	b = append(b, byte(number<<3|2))
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

type bytesCodec struct{}

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func (bytesCodec) Name() string { return "proto" }

// A result is one run of load.
type result struct {
	perSecond float64
	latency   []time.Duration
}

// closed has each client create one object after the other, for a time.
func closed(c contestant, clients int, prefix string, length time.Duration) (result, error) {
	return drive(c, clients, prefix, length, nil)
}

// open has objects created at a rate, however long each takes; the latency
// counts from when a create was due.
func open(c contestant, clients int, prefix string, length time.Duration, rate float64) (result, error) {
	due := make(chan time.Time, int(rate*length.Seconds())+1)
	start := time.Now().Add(200 * time.Millisecond)
	for n := range cap(due) - 1 {
		due <- start.Add(time.Duration(float64(n) / rate * float64(time.Second)))
	}
	close(due)
	return drive(c, clients, prefix, length, due)
}

func drive(c contestant, clients int, prefix string, length time.Duration, due <-chan time.Time) (result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), length+30*time.Second)
	defer cancel()
	type client struct {
		create func(context.Context, string) error
		took   []time.Duration
		err    error
	}
	all := make([]client, clients)
	for n := range all {
		create, done, err := c.client(n)
		if err != nil {
			return result{}, err
		}
		defer done()
		all[n].create = create
	}
	var ready, ended sync.WaitGroup
	ready.Add(clients)
	begin := make(chan struct{})
	var start time.Time
	for n := range all {
		ended.Go(func() {
			x := &all[n]
			x.err = x.create(ctx, fmt.Sprintf("%s-%d-first", prefix, n)) // connects
			ready.Done()
			<-begin
			for i := 0; x.err == nil; i++ {
				from := time.Now()
				if due != nil {
					var ok bool
					if from, ok = <-due; !ok {
						return
					}
					time.Sleep(time.Until(from))
				} else if from.Sub(start) > length {
					return
				}
				x.err = x.create(ctx, fmt.Sprintf("%s-%d-%d", prefix, n, i))
				x.took = append(x.took, time.Since(from))
			}
		})
	}
	ready.Wait()
	start = time.Now()
	close(begin)
	ended.Wait()
	elapsed := time.Since(start)
	var r result
	var errs error
	for _, x := range all {
		r.latency = append(r.latency, x.took...)
		if errs == nil {
			errs = x.err
		}
	}
	r.perSecond = float64(len(r.latency)) / elapsed.Seconds()
	return r, errs
}
