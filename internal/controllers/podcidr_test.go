package controllers

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestFree looks for parts between those that nodes have, of any size, and that are promised.
func TestFree(t *testing.T) {
	whole := netip.MustParsePrefix("10.42.0.0/21") // eight parts
	for _, tt := range []struct {
		have     []string
		promised string
		want     string
	}{
		{nil, "", "10.42.0.0/24"},
		{[]string{"10.42.0.0/24", "10.42.1.7/24"}, "", "10.42.2.0/24"},
		{[]string{"10.42.0.0/24"}, "10.42.1.0/24", "10.42.2.0/24"},
		{[]string{"10.42.0.0/22"}, "", "10.42.4.0/24"},                              // four at once
		{[]string{"10.42.0.128/25", "10.42.1.0/26"}, "", "10.42.2.0/24"},            // less than one
		{[]string{"10.43.0.0/24", "fd00::/64", "nonsense", ""}, "", "10.42.0.0/24"}, // elsewhere
		{[]string{"10.0.0.0/8"}, "", ""},
		{[]string{"10.42.0.0/22", "10.42.4.0/23", "10.42.6.0/24"}, "10.42.7.0/24", ""},
	} {
		p := &parts{of: map[string]netip.Prefix{}, texts: map[string]netip.Prefix{}}
		if tt.promised != "" {
			p.of["other"] = netip.MustParsePrefix(tt.promised)
		}
		var nodes []*corev1.Node
		for _, c := range tt.have {
			nodes = append(nodes, &corev1.Node{Spec: corev1.NodeSpec{PodCIDR: c, PodCIDRs: []string{c}}})
		}
		got, ok := p.free(whole, nodes)
		if ok != (tt.want != "") || ok && got.String() != tt.want {
			t.Errorf("%v and %s: %v %v, want %s", tt.have, tt.promised, got, ok, tt.want)
		}
	}
}
