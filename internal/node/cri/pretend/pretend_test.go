package pretend_test

import (
	"net/netip"
	"testing"

	"proa/internal/node/cri/critest"
	"proa/internal/node/cri/pretend"
)

func TestContract(t *testing.T) {
	rt := pretend.New(pretend.Options{CIDR: netip.MustParsePrefix("10.9.0.0/24")})
	critest.Run(t, rt, critest.Options{Image: "a:1", Missing: "does-not-exist:1", Forever: []string{"x"}, Say: []string{"say", "hello"}})
	if a := rt.Addresses(); len(a) != 0 {
		t.Errorf("addresses still in use: %v", a)
	}
}
