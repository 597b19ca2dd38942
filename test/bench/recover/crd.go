package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"

	"proa/test/bench/measure"
)

// crd is the server of custom resources with its etcd.
type crd struct{ *measure.CRDPair }

// batch is how many puts a transaction of etcd takes.
const batch = 128

// lay copies the value that the API server has stored of the sample n times
// under other names, straight into etcd.
func (c crd) lay(k kind, n int) error {
	c.CRD.Stop() // it would hear of a million new objects
	config, err := c.ID.TLS()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(c.Etcd.Secure, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return err
	}
	defer conn.Close()
	prefix := "/registry/" + measure.CRDGroup + "/" + k.resource + "/default/"
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
	return measure.Each((n+batch-1)/batch, 8, func(i int) error {
		var txn []byte
		for j := i * batch; j < min(n, (i+1)*batch); j++ {
			name := measure.ObjectName(j)
			v := strings.Replace(strings.Replace(value, `"name":"`+sample+`"`, `"name":"`+name+`"`, 1), o.Metadata.UID, string(measure.ObjectUID(j)), 1)
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
