package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"proa/test/bench/load"
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
	prefix := "/registry/apiextensions.kubernetes.io/" + measure.CRDGroup + "/" + k.resource + "/default/"
	call := func(method string, request []byte) (answer []byte, err error) {
		err = conn.Invoke(context.Background(), "/etcdserverpb.KV/"+method, &request, &answer, grpc.ForceCodecV2(load.Codec{}))
		return answer, err
	}
	got, err := call("Range", load.Field(nil, 1, []byte(prefix+sample)))
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
			put := load.Field(load.Field(nil, 1, []byte(prefix+name)), 2, []byte(v))
			txn = load.Field(txn, 2, load.Field(nil, 2, put)) // TxnRequest.success, RequestOp.request_put
		}
		_, err := call("Txn", txn)
		return err
	})
}
