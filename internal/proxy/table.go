package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/google/nftables"
)

// table is the proxy's table in the kernel and what is known to be in it.
type table struct {
	c    Config
	fam  family
	tab  *nftables.Table
	conn *nftables.Conn
	sock *socket

	have    [maps]map[string]string
	fresh   bool // read and not written since: whatever nobody claims must go
	classes [len(views)]map[uint32]bool
}

func openTable(c Config) (*table, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	sock, err := openSocket()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return &table{c: c, fam: ipv4, tab: &nftables.Table{Name: c.Table, Family: ipv4.table}, conn: conn, sock: sock}, nil
}

func (t *table) close() { t.sock.close() }

// intact reports whether the table is there, made as this process would make it.
func (t *table) intact() bool {
	c, err := t.conn.ListChain(t.tab, t.marker())
	return err == nil && c != nil
}

// load makes the table if it is not there, or is of another layout, and reads
// what its maps hold.
func (t *table) load() error {
	if !t.intact() {
		if err := t.build(); err != nil {
			return err
		}
	}
	for m, name := range mapNames {
		elems, err := t.conn.GetSetElements(t.set(name, 0, 0))
		if err != nil {
			return fmt.Errorf("read the map %s: %w", name, err)
		}
		t.have[m] = make(map[string]string, len(elems))
		for _, e := range elems {
			t.have[m][string(e.Key)] = string(e.Val)
		}
	}
	t.fresh = true
	for i, v := range views {
		elems, err := t.conn.GetSetElements(t.verdicts(v.classes))
		if err != nil {
			return fmt.Errorf("read the map %s: %w", v.classes, err)
		}
		t.classes[i] = map[uint32]bool{}
		for _, e := range elems {
			t.classes[i][binary.NativeEndian.Uint32(e.Key)] = true
		}
	}
	return nil
}

// slots returns the endpoints of a group as the kernel has them.
func (t *table) slots(id ID) (out []Endpoint) {
	for i := 0; ; i++ {
		v, ok := t.have[inEndpoints][slotBytes(id, i)]
		if !ok {
			return out
		}
		a, _ := netip.AddrFromSlice([]byte(v[:t.fam.size]))
		out = append(out, Endpoint{a, binary.BigEndian.Uint16([]byte(v[t.fam.size:]))})
	}
}

// An op changes one element.
type op struct {
	m          int
	del        bool
	key, value string
}

// write makes the kernel's maps equal to what is claimed. If it fails, what the
// kernel has is unknown: load again.
func (t *table) write(c *claims) error {
	if t.fresh {
		for m := range t.have {
			for key := range t.have[m] {
				c.changed[m][key] = true
			}
		}
	}
	ops, err := t.plan(c)
	if err != nil {
		return err
	}
	for len(ops) > 0 {
		n := min(len(ops), maxOps)
		if err := t.sock.change(t.fam, t.tab.Name, ops[:n]); err != nil {
			return fmt.Errorf("change %d entries: %w", n, err)
		}
		for _, o := range ops[:n] {
			if o.del {
				delete(t.have[o.m], o.key)
			} else {
				t.have[o.m][o.key] = o.value
			}
		}
		ops = ops[n:]
	}
	t.fresh = false
	for m := range c.changed {
		clear(c.changed[m])
	}
	return nil
}

// maxOps is how many elements one transaction changes at most.
const maxOps = 50_000

// plan lists what to change: endpoints are added before the frontends that
// lead to them, and removed after. The chains of new classes are made here.
func (t *table) plan(c *claims) ([]op, error) {
	var ops, last []op
	missing := map[uint32]bool{}
	for m := range maps {
		var add []op
		for key := range c.changed[m] {
			want, wanted := c.by[m][key]
			have, there := t.have[m][key]
			switch {
			case wanted && there && have == want.value, !wanted && !there:
				continue
			case !wanted:
				last = append(last, op{m: m, del: true, key: key})
				continue
			case there:
				ops = append(ops, op{m: m, del: true, key: key})
			}
			add = append(add, op{m: m, key: key, value: want.value})
			if m >= inFrontends {
				class := binary.NativeEndian.Uint32([]byte(want.value[8:12]))
				if class != 0 && !t.classes[m-inFrontends][class] {
					t.classes[m-inFrontends][class] = true
					missing[class] = true
					if err := t.addClass(views[m-inFrontends], class); err != nil {
						return nil, err
					}
				}
			}
		}
		ops = append(ops, add...)
	}
	if len(missing) > 0 {
		if err := t.conn.Flush(); err != nil {
			return nil, fmt.Errorf("make the chains of %d classes: %w", len(missing), err)
		}
	}
	return append(ops, last...), nil
}

// Clean removes the table and everything in it, and the rules made in other
// people's tables. No proxy may be running with it.
func Clean(name string) error {
	if name == "" {
		name = "proa"
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("clean the service rules: %w", err)
	}
	err = closeForeign(conn, name)
	t := &nftables.Table{Name: name, Family: ipv4.table}
	conn.AddTable(t)
	conn.DelTable(t)
	if e := conn.Flush(); e != nil && !errors.Is(e, syscall.ENOENT) {
		err = errors.Join(err, e)
	}
	if err != nil {
		return fmt.Errorf("clean the service rules: %w", err)
	}
	return nil
}

// Probe tells whether this kernel has everything that the proxy needs, by
// making a table like its own, without any entry, and removing it.
func Probe() error {
	const name = "proa-probe"
	t, err := openTable(Config{Table: name, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, PodLinks: name + "-"})
	if err != nil {
		return fmt.Errorf("nftables cannot be used: %w", err)
	}
	defer t.close()
	defer func() {
		t.conn.AddTable(t.tab)
		t.conn.DelTable(t.tab)
		_ = t.conn.Flush()
	}()
	if err := t.build(); err != nil {
		return fmt.Errorf("nftables of this kernel lacks something that services need (Linux 5.10 or later, "+
			"with nf_tables, nft_nat, nft_masq, nft_fib, nft_numgen, nft_reject, nft_ct): %w", err)
	}
	for _, class := range []uint32{classOf(2, 0), classOf(2, 10)} {
		if err := t.addClass(views[0], class); err != nil {
			return err
		}
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("nftables of this kernel cannot draw an endpoint or remember a client (numgen, dynamic maps): %w", err)
	}
	return nil
}
