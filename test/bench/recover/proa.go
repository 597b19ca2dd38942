package main

import (
	"fmt"

	"proa/internal/kinds/core"
	"proa/test/bench/measure"
)

// proa is the pretend cluster.
type proa struct{ *measure.PretendCluster }

func (p proa) lay(k kind, n int) error {
	def := core.ConfigMap.Def()
	if k.resource != def.Resource {
		return fmt.Errorf("%s can only be made through the API: ask for at most %d", k.resource, byAPI)
	}
	p.Process.Stop()
	_, err := measure.Lay(p.Store(), def, sample, n)
	return err
}
