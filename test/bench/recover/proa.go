package main

import (
	"context"
	"errors"
	"fmt"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds/core"
	"proa/internal/store"
	"proa/internal/store/lsm"
	"proa/test/bench/measure"
)

// proa is the pretend cluster.
type proa struct{ *measure.PretendCluster }

// lay copies the record of the sample n times under other names, as the API
// would have made them, straight into the store.
func (p proa) lay(k kind, n int) (err error) {
	def := core.ConfigMap.Def()
	if k.resource != def.Resource {
		return fmt.Errorf("%s can only be made through the API: ask for at most %d", k.resource, byAPI)
	}
	p.Process.Stop()
	e, err := lsm.Open(p.Store(), lsm.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	prefix := apiserver.Prefix(def.GroupResource()) + "default/"
	rec, _, err := e.Get(context.Background(), prefix+sample)
	if err != nil || rec == nil {
		return fmt.Errorf("the sample is not in the store: %w", err)
	}
	return each(n, 1024, func(i int) error {
		o, err := def.Codec.Decode(rec.Value)
		if err != nil {
			return err
		}
		o = api.Clone(o)
		name := objectName(i)
		o.SetName(name)
		o.SetUID(uid(i))
		body, err := def.Codec.Encode(o)
		if err != nil {
			return err
		}
		_, err = e.Write(context.Background(), store.Op{Key: prefix + name, Value: body, Expect: store.Absent, User: rec.User, Codec: rec.Codec})
		return err
	})
}
