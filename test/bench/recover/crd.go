package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"

	"proa/test/bench/measure"
)

// crd is the server of custom resources with its etcd.
type crd struct {
	core     int
	bin, dir string
	id       *measure.Identity
	etcd     *measure.Etcd
	server   *measure.CRD
}

const (
	group      = "bench.proa.local"
	apiVersion = group + "/v1"
)

func newCRD(core int, bin, dir string) (*crd, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	id, err := measure.NewIdentity(dir)
	return &crd{core: core, bin: bin, dir: dir, id: id}, err
}

func (c *crd) name() string { return "crd" }

// launch starts both at once; the API server waits for etcd by itself.
func (c *crd) launch() (err error) {
	if c.etcd, err = measure.LaunchEtcd(c.core, c.bin, c.dir, c.id); err != nil {
		return err
	}
	if c.server, err = measure.LaunchCRD(c.core, c.bin, c.dir, c.id, c.etcd); err != nil {
		c.etcd.Kill()
	}
	return err
}

// ready makes the kinds, too.
func (c *crd) ready() error {
	client := c.server.Client()
	defer client.CloseIdleConnections()
	for _, k := range []kind{pods, configMaps} {
		err := c.server.Await("the CRD server", 10*time.Millisecond, func(ctx context.Context) error {
			_, err := c.server.Get(ctx, client, path(k)+"?limit=1")
			if err == nil {
				return nil
			}
			_, e := c.server.Do(ctx, client, http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition(k))
			return errors.Join(err, e)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func path(k kind) string { return "/apis/" + apiVersion + "/namespaces/default/" + k.resource }

func definition(k kind) string {
	name := map[string]string{"pods": "Pod", "configmaps": "ConfigMap"}[k.resource]
	return fmt.Sprintf(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"%[1]s.%[2]s"},
"spec":{"group":%[2]q,"scope":"Namespaced","names":{"plural":%[1]q,"singular":%[4]q,"kind":%[3]q,"listKind":"%[3]sList"},
"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`,
		k.resource, group, name, strings.ToLower(name))
}

func (c *crd) kill() {
	c.server.Kill()
	c.etcd.Kill()
}

func (c *crd) stop() {
	c.server.Stop()
	c.etcd.Stop()
}

func (c *crd) pids() []int { return []int{c.etcd.PID(), c.server.PID()} }

func (c *crd) write(ctx context.Context, k kind, n int) error {
	return post(ctx, c.server.Target, path(k), k.object(apiVersion, fmt.Sprint("bench-", n)))
}

func (c *crd) fill(k kind, n int) error {
	if n <= byAPI {
		return create(c.server.Target, path(k), n, func(name string) string { return k.object(apiVersion, name) })
	}
	if err := post(context.Background(), c.server.Target, path(k), k.object(apiVersion, sample)); err != nil {
		return err
	}
	c.server.Stop() // it would hear of a million new objects
	return c.lay(k, n)
}

// batch is how many puts a transaction of etcd takes.
const batch = 128

// lay copies the value that the API server has stored of the sample n times
// under other names, straight into etcd.
func (c *crd) lay(k kind, n int) error {
	config, err := c.id.TLS()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(c.etcd.Secure, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return err
	}
	defer conn.Close()
	prefix := "/registry/" + group + "/" + k.resource + "/default/"
	call := func(method string, request []byte) (answer []byte, err error) {
		err = conn.Invoke(context.Background(), "/etcdserverpb.KV/"+method, &request, &answer, grpc.ForceCodecV2(bytesCodec{}))
		return answer, err
	}
	got, err := call("Range", field(nil, 1, prefix+sample))
	if err != nil {
		return err
	}
	from, to := strings.Index(string(got), "{"), strings.LastIndex(string(got), "}")
	if from < 0 || to < from {
		return fmt.Errorf("etcd does not hold the sample under %s%s", prefix, sample)
	}
	value := string(got[from : to+1])
	var o struct {
		Metadata struct{ UID string }
	}
	if err := json.Unmarshal([]byte(value), &o); err != nil {
		return fmt.Errorf("the sample in etcd is not JSON: %w", err)
	}
	return each((n+batch-1)/batch, 8, func(i int) error {
		var txn []byte
		for j := i * batch; j < min(n, (i+1)*batch); j++ {
			name := objectName(j)
			v := strings.Replace(strings.Replace(value, `"name":"`+sample+`"`, `"name":"`+name+`"`, 1), o.Metadata.UID, string(uid(j)), 1)
			put := field(field(nil, 1, prefix+name), 2, v)
			txn = field(txn, 2, string(field(nil, 2, string(put)))) // TxnRequest.success, RequestOp.request_put
		}
		_, err := call("Txn", txn)
		return err
	})
}

// field appends a protobuf field of bytes (etcd's rpc.proto needs no more).
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

var _ contestant = (*crd)(nil)
