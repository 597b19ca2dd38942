package load

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// Etcd speaks etcd's own messages, written by hand: a few fields of
// etcdserverpb's RangeRequest, RangeResponse and PutRequest are all that is
// needed (etcd's rpc.proto).
type Etcd struct{ conn *grpc.ClientConn }

// DialEtcd connects to host:port.
func DialEtcd(address string, config *tls.Config) (Etcd, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(config)), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	return Etcd{conn}, err
}

// Close ends the connection.
func (e Etcd) Close() { e.conn.Close() }

// Put stores a value.
func (e Etcd) Put(ctx context.Context, key string, value []byte) error {
	var answer []byte
	request := Field(Field(nil, 1, []byte(key)), 2, value)
	return e.conn.Invoke(ctx, "/etcdserverpb.KV/Put", &request, &answer, grpc.ForceCodecV2(Codec{}))
}

// Find returns the first key that begins and ends as told, and its value.
func (e Etcd) Find(ctx context.Context, prefix, suffix string) (key string, value []byte, err error) {
	last := []byte(prefix)
	last[len(last)-1]++
	var answer []byte
	request := Field(Field(nil, 1, []byte(prefix)), 2, last)
	if err := e.conn.Invoke(ctx, "/etcdserverpb.KV/Range", &request, &answer, grpc.ForceCodecV2(Codec{})); err != nil {
		return "", nil, err
	}
	err = fields(answer, func(number protowire.Number, kv []byte) error {
		if number != 2 || key != "" {
			return nil
		}
		var k, v []byte
		err := fields(kv, func(number protowire.Number, b []byte) error {
			switch number {
			case 1:
				k = b
			case 5:
				v = b
			}
			return nil
		})
		if strings.HasSuffix(string(k), suffix) {
			key, value = string(k), v
		}
		return err
	})
	if err == nil && key == "" {
		err = fmt.Errorf("etcd has no key %s…%s", prefix, suffix)
	}
	return key, value, err
}

// fields calls f with every field of a message that is bytes.
func fields(b []byte, f func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		number, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, typ, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := f(number, v); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// Field appends a protobuf field of bytes: etcd's messages (rpc.proto) need no
// more here.
func Field(b []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), value)
}

// A Codec passes messages that are bytes already.
type Codec struct{}

func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func (Codec) Name() string { return "proto" }

// Putter is raw puts as a contestant: Body makes the value of a name.
type Putter struct {
	Address string
	TLS     *tls.Config
	Body    func(name string) []byte
}

// Client connects.
func (p Putter) Client(int) (func(context.Context, string) error, func(), error) {
	e, err := DialEtcd(p.Address, p.TLS)
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context, name string) error {
		return e.Put(ctx, "/puts/pods/default/"+name, p.Body(name))
	}, e.Close, nil
}

// parallel calls f with 0 to n-1 from some goroutines, each of which has what
// open made. The first error is returned.
func parallel[C any](n, workers int, open func() (C, func(), error), f func(C, int) error) error {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			c, done, err := open()
			if err == nil {
				defer done()
			}
			for err == nil && failed.Load() == nil {
				i := next.Add(1) - 1
				if i >= int64(n) {
					return
				}
				err = f(c, int(i))
			}
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// copyInEtcd stores copies of the object with a name under others. Marks are as
// long as what replaces them, so that stored forms with lengths in them stay whole.
func copyInEtcd(ctx context.Context, address string, config *tls.Config, first string, from, to int, marks func(i int) *strings.Replacer) error {
	e, err := DialEtcd(address, config)
	if err != nil {
		return err
	}
	defer e.Close()
	key, value, err := e.Find(ctx, "/registry/", "/"+first)
	if err != nil {
		return err
	}
	if bytes.Count(value, []byte(first)) != 1 {
		return errors.New("the stored form of an object has its name more than once, or not at all")
	}
	if to < from || to > math.MaxInt32 {
		return fmt.Errorf("objects %d to %d", from, to)
	}
	return parallel(to-from, 128, func() (Etcd, func(), error) { return e, func() {}, nil }, func(e Etcd, i int) error {
		r := marks(from + i)
		return e.Put(ctx, r.Replace(key), []byte(r.Replace(string(value))))
	})
}
