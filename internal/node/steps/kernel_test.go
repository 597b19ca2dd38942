package steps

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fake is a kernel made up for a test.
type fake struct {
	user                     bool
	without                  map[int]bool
	nft, overlay, cg, bridge error
}

func (f fake) Root() bool           { return !f.user }
func (f fake) HasCap(c int) bool    { return !f.without[c] }
func (f fake) NFTables() error      { return f.nft }
func (f fake) Overlay(string) error { return f.overlay }
func (f fake) Cgroups() error       { return f.cg }
func (f fake) Bridge() error        { return f.bridge }

func TestCheck(t *testing.T) {
	no := errors.New("no such thing")
	for name, c := range map[string]struct {
		k     fake
		fatal bool
		want  []string
	}{
		"all there":   {fake{}, false, nil},
		"not root":    {fake{user: true}, true, []string{"needs root", "--pretend"}},
		"no nftables": {fake{nft: no}, true, []string{"nftables", "modprobe nf_tables"}},
		"no overlay":  {fake{overlay: no}, false, []string{"overlayfs", "copied instead"}},
		"no cgroups":  {fake{cg: no}, true, []string{"cgroups cannot be used"}},
		"no bridge":   {fake{bridge: no}, true, []string{"bridges or veth", "CONFIG_VETH"}},
		"no net":      {fake{without: map[int]bool{unix.CAP_NET_ADMIN: true}}, true, []string{"CAP_NET_ADMIN", "privileged"}},
		"no resource": {fake{without: map[int]bool{unix.CAP_SYS_RESOURCE: true}}, false, []string{"CAP_SYS_RESOURCE"}},
	} {
		t.Run(name, func(t *testing.T) {
			fs := Check(c.k, t.TempDir())
			if got := Fatal(fs) != nil; got != c.fatal {
				t.Errorf("fatal: %v; want %v: %v", got, c.fatal, fs)
			}
			text := ""
			for _, f := range fs {
				text += f.Error() + "\n"
			}
			for _, w := range c.want {
				if !strings.Contains(text, w) {
					t.Errorf("%q does not say %q", text, w)
				}
			}
			if len(c.want) == 0 && text != "" {
				t.Errorf("found %q", text)
			}
		})
	}
}
