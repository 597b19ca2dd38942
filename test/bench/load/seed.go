package load

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/uuid"

	"proa/test/bench/measure"
)

// Seeded is the name of the nth object of a seeded store.
func Seeded(n int) string { return measure.Name(fmt.Sprintf("seed-%07d-", n)) }

// Path is where the nth object of a seeded store is read.
func Path(p *measure.Pods, n int) string { return p.Path + "/" + Seeded(n) }

// Seed fills a contestant's store with pods up to a number, in shards of a
// hundred. What is on etcd gets one object through its server and copies of that
// in etcd: through the server, 150,000 would take ten minutes.
func Seed(p *measure.Pods, from, to int) error {
	shards := max(1, to/100)
	marks := func(uid string) func(int) *strings.Replacer {
		return func(i int) *strings.Replacer {
			r := []string{Seeded(0), Seeded(i), measure.NameMark, Seeded(i), measure.ShardMark, measure.Shard(i % shards)}
			if uid != "" {
				r = append(r, uid, string(uuid.NewUUID()))
			}
			return strings.NewReplacer(r...)
		}
	}
	if p.Etcd == nil || to-from < 100 {
		return create(p, from, to, marks(""))
	}
	uid := ""
	if from == 0 {
		if err := create(p, 0, 1, marks("")); err != nil {
			return err
		}
		from = 1
	}
	c, err := Dial(p.Target)
	if err != nil {
		return err
	}
	defer c.Close()
	b, err := c.Body(&Request{Method: "GET", Path: Path(p, 0)})
	if err != nil {
		return err
	}
	if _, rest, ok := strings.Cut(string(b), `"uid":"`); ok {
		uid = rest[:36]
	}
	if err := copyInEtcd(context.Background(), p.Etcd.Secure, p.TLS, Seeded(0), from, to, marks(uid)); err != nil {
		return fmt.Errorf("seed %s: %w", p.Name, err)
	}
	return seen(p, to-1)
}

func create(p *measure.Pods, from, to int, marks func(int) *strings.Replacer) error {
	body, typ := p.JSON, "application/json"
	if p.Protobuf != "" {
		body, typ = p.Protobuf, protobuf
	}
	open := func() (*Conn, func(), error) {
		c, err := Dial(p.Target)
		if err != nil {
			return nil, nil, err
		}
		return c, c.Close, nil
	}
	return parallel(to-from, min(64, to-from), open, func(c *Conn, i int) error {
		_, err := c.Do(&Request{Method: "POST", Path: p.Path, Type: typ, Accept: typ, Body: []byte(marks(from + i).Replace(body))}, nil)
		return err
	})
}

// seen waits until a server's cache shows what is in its store. It dials anew each time: a
// connection that nothing was said on while the store was filled may be closed.
func seen(p *measure.Pods, last int) error {
	var err error
	for range 600 {
		var c *Conn
		if c, err = Dial(p.Target); err == nil {
			_, err = c.Do(&Request{Method: "GET", Path: Path(p, last) + "?resourceVersion=0"}, nil)
			c.Close()
		}
		if err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%s does not show the last of the objects in its store: %w", p.Name, err)
}

const protobuf = "application/vnd.kubernetes.protobuf"

// Accepts are the encodings that are compared, by name.
var Accepts = map[string]string{"json": "application/json", "protobuf": protobuf}
