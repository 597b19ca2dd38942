package proxy

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// family is what differs between IPv4 and IPv6.
type family struct {
	table        nftables.TableFamily
	size         uint32 // of an address, in bytes
	saddr, daddr uint32 // where it is in the header
	nat          uint32
	unreachable  uint8 // ICMP code of "port unreachable"
}

var ipv4 = family{table: nftables.TableFamilyIPv4, size: 4, saddr: 12, daddr: 16, nat: unix.NFPROTO_IPV4, unreachable: 3}

// Register n of 16, 4 bytes each.
func reg(n uint32) uint32 { return unix.NFT_REG32_00 + n }

// words is the size of an address in registers.
func (f family) words() uint32 { return f.size / 4 }

// Where things are in the registers: first the key (address, protocol, port),
// then what its frontend says (group in two, class, mode).
func (f family) val() uint32   { return max(f.words()+2, 4) } // the key's place holds a value, too: see stickyRules
func (f family) class() uint32 { return f.val() + 2 }
func (f family) mode() uint32  { return f.val() + 3 }
func (f family) end() uint32   { return f.val() + 4 } // an endpoint: address, port

type exprs []expr.Any

func (f family) loadSource(n uint32) expr.Any {
	return &expr.Payload{DestRegister: reg(n), Base: expr.PayloadBaseNetworkHeader, Offset: f.saddr, Len: f.size}
}

func (f family) loadDest(n uint32) expr.Any {
	return &expr.Payload{DestRegister: reg(n), Base: expr.PayloadBaseNetworkHeader, Offset: f.daddr, Len: f.size}
}

// loadKey loads protocol and port after the address.
func (f family) loadPort() exprs {
	return exprs{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(f.words())},
		&expr.Payload{DestRegister: reg(f.words() + 1), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// key is the key of a packet: to its own destination, or to any address of the node.
func (f family) key(node bool) exprs {
	if !node {
		return append(exprs{f.loadDest(0)}, f.loadPort()...)
	}
	return append(exprs{&expr.Immediate{Register: reg(0), Data: make([]byte, f.size)}}, f.loadPort()...)
}

// original is the key that a connection began with, before its destination was changed.
func (f family) original(node bool) exprs {
	addr := expr.Any(&expr.Ct{Key: expr.CtKeyDST, Register: reg(0)})
	if node {
		addr = &expr.Immediate{Register: reg(0), Data: make([]byte, f.size)}
	}
	return exprs{addr,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(f.words())},
		&expr.Ct{Key: expr.CtKeyPROTODST, Register: reg(f.words() + 1)},
	}
}

func lookup(set string, from, to uint32) expr.Any {
	return &expr.Lookup{SetName: set, SourceRegister: reg(from), DestRegister: reg(to), IsDestRegSet: true}
}

func contains(set string, from uint32) expr.Any {
	return &expr.Lookup{SetName: set, SourceRegister: reg(from)}
}

// branch looks up a verdict.
func branch(set string, from uint32) expr.Any {
	return &expr.Lookup{SetName: set, SourceRegister: reg(from), DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true}
}

func to(kind expr.VerdictKind, chain string) expr.Any { return &expr.Verdict{Kind: kind, Chain: chain} }

func host32(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }

// within matches an address in a register against a range; not inverts it.
func within(n uint32, p netip.Prefix, not bool) exprs {
	mask := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	return exprs{
		&expr.Bitwise{SourceRegister: reg(n), DestRegister: reg(n), Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))},
		&expr.Cmp{Op: op, Register: reg(n), Data: p.Masked().Addr().AsSlice()},
	}
}

// isLocal matches packets whose destination (or source) is an address of this node.
func isLocal(source bool) exprs {
	return exprs{
		&expr.Fib{Register: reg(15), FlagDADDR: !source, FlagSADDR: source, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg(15), Data: host32(unix.RTN_LOCAL)},
	}
}

func ctHas(key expr.CtKey, bits uint32) exprs {
	return exprs{
		&expr.Ct{Key: key, Register: reg(15)},
		&expr.Bitwise{SourceRegister: reg(15), DestRegister: reg(15), Len: 4, Mask: host32(bits), Xor: host32(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg(15), Data: host32(0)},
	}
}

const ctStatusDNAT = 1 << 5 // IPS_DST_NAT

func outIs(name string, not bool) exprs {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	return exprs{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg(12)},
		&expr.Cmp{Op: op, Register: reg(12), Data: append([]byte(name), make([]byte, 16-len(name))...)}}
}

func inStarts(prefix string) exprs {
	return exprs{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg(12)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg(12), Data: []byte(prefix)}}
}

func join(parts ...exprs) (out exprs) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// The names of the maps and sets.
const (
	setFrontends = "frontends" // key → group . class . mode
	setInternal  = "internal"  // the same, for connections that begin in a pod or on the node
	setEndpoints = "endpoints" // group . slot → address . port
	setHairpin   = "hairpin"   // address . address, of endpoints on this node
	setSticky    = "sticky"    // group . address . port, of groups with affinity

	mapClasses         = "classes"          // class → goto
	mapClassesInternal = "classes-internal" // the same, to chains that read "internal"
	mapModes           = "modes"            // mode → verdict, for packets that nobody serves
	mapMasquerade      = "masquerade-modes" // mode → goto
	mapAffinity        = "affinity"         // group . client → address . port, with a timeout

	chainServices  = "services"
	chainInternal  = "from-inside"
	chainRefuse    = "refuse"
	chainReject    = "reject"
	chainMasq      = "masquerade"
	chainMasqOut   = "masquerade-outside"
	chainMasqCheck = "masquerade-services"
)

// layout is the version of everything in this file and of how elements are written.
const layout = 1

// marker names a chain that says which layout and settings the table was made with.
func (t *table) marker() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %v %v %q", layout, t.c.PodCIDRs, t.c.Services, t.c.PodLinks))
	return fmt.Sprintf("made-%x", sum[:6])
}

// build writes the whole table anew but for the elements: in one transaction.
func (t *table) build() error {
	n, f, tab := t.conn, t.fam, t.tab
	n.AddTable(tab)
	n.DelTable(tab)
	n.AddTable(tab)
	if err := t.addSets(); err != nil {
		return err
	}
	chain := func(name string) *nftables.Chain { return n.AddChain(&nftables.Chain{Name: name, Table: tab}) }
	base := func(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio nftables.ChainPriority) *nftables.Chain {
		return n.AddChain(&nftables.Chain{Name: name, Table: tab, Type: typ, Hooknum: hook, Priority: &prio})
	}
	rule := func(c *nftables.Chain, parts ...exprs) {
		n.AddRule(&nftables.Rule{Table: tab, Chain: c, Exprs: join(parts...)})
	}
	do := func(e ...expr.Any) exprs { return e }

	services, internal := chain(chainServices), chain(chainInternal)
	refuse, reject := chain(chainRefuse), chain(chainReject)
	masq, masqOut, masqCheck := chain(chainMasq), chain(chainMasqOut), chain(chainMasqCheck)
	guard := base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -310)
	pre := base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -105)
	out := base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, -105)
	post := base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 95)
	fIn := base("filter-input", nftables.ChainTypeFilter, nftables.ChainHookInput, -5)
	fFwd := base("filter-forward", nftables.ChainTypeFilter, nftables.ChainHookForward, -5)
	fOut := base("filter-output", nftables.ChainTypeFilter, nftables.ChainHookOutput, -5)

	// Loopback addresses never come from a pod (route_localnet is on for its link).
	if t.c.PodLinks != "" {
		rule(guard, inStarts(t.c.PodLinks), do(f.loadDest(0)), within(0, netip.MustParsePrefix("127.0.0.0/8"), false), do(to(expr.VerdictDrop, "")))
	}

	// New connections: where to.
	for _, p := range t.podCIDRs() {
		rule(pre, do(f.loadSource(0)), within(0, p, false), do(to(expr.VerdictJump, chainInternal)))
	}
	rule(pre, do(to(expr.VerdictJump, chainServices)))
	rule(out, do(to(expr.VerdictJump, chainInternal)))
	rule(out, do(to(expr.VerdictJump, chainServices)))
	rule(internal, f.key(false), do(lookup(setInternal, 0, f.val()), branch(mapClassesInternal, f.class())))
	rule(internal, isLocal(false), f.key(true), do(lookup(setInternal, 0, f.val()), branch(mapClassesInternal, f.class())))
	rule(services, f.key(false), do(lookup(setFrontends, 0, f.val()), branch(mapClasses, f.class())))
	rule(services, isLocal(false), f.key(true), do(lookup(setFrontends, 0, f.val()), branch(mapClasses, f.class())))

	// New connections that nobody serves.
	isNew := ctHas(expr.CtKeySTATE, expr.CtStateBitNEW)
	rule(fIn, isNew, do(to(expr.VerdictJump, chainRefuse)))
	rule(fFwd, isNew, do(to(expr.VerdictJump, chainRefuse)))
	rule(fOut, isNew, do(to(expr.VerdictJump, chainRefuse)))
	rule(refuse, f.key(false), do(lookup(setFrontends, 0, f.val()), branch(mapModes, f.mode())))
	rule(refuse, isLocal(false), f.key(true), do(lookup(setFrontends, 0, f.val()), branch(mapModes, f.mode())))
	for _, p := range t.serviceCIDRs() {
		rule(fFwd, do(f.loadDest(0)), within(0, p, false), do(to(expr.VerdictGoto, chainReject)))
		rule(fOut, outIs("lo", true), do(f.loadDest(0)), within(0, p, false), do(to(expr.VerdictGoto, chainReject)))
	}
	rule(reject, do(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg(0), Data: []byte{unix.IPPROTO_TCP}},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}))
	rule(reject, do(&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: f.unreachable}))

	// New connections: where from.
	rule(post, ctHas(expr.CtKeySTATUS, ctStatusDNAT), do(to(expr.VerdictJump, chainMasqCheck)))
	for _, p := range t.podCIDRs() {
		leaves := exprs{f.loadDest(0)}
		for _, q := range t.podCIDRs() {
			leaves = append(leaves, within(0, q, true)...)
			leaves = append(leaves, f.loadDest(0))
		}
		rule(post, do(f.loadSource(0)), within(0, p, false), leaves, within(0, netip.MustParsePrefix("224.0.0.0/4"), true),
			do(to(expr.VerdictGoto, chainMasq)))
	}
	rule(masqCheck, do(f.loadSource(0), f.loadDest(f.words()), contains(setHairpin, 0), to(expr.VerdictGoto, chainMasq)))
	rule(masqCheck, do(f.loadSource(0)), within(0, netip.MustParsePrefix("127.0.0.0/8"), false), outIs("lo", true), do(to(expr.VerdictGoto, chainMasq)))
	for _, node := range []bool{false, true} {
		rule(masqCheck, f.original(node), do(lookup(setFrontends, 0, f.val()), branch(mapMasquerade, f.mode())))
		rule(masqCheck, isLocal(true), f.original(node), do(lookup(setInternal, 0, f.val()), to(expr.VerdictGoto, chainMasqOut)))
	}
	for _, p := range t.podCIDRs() {
		rule(masqOut, do(f.loadSource(0)), within(0, p, false), do(to(expr.VerdictReturn, "")))
	}
	rule(masqOut, do(to(expr.VerdictGoto, chainMasq)))
	rule(masq, do(&expr.Masq{FullyRandom: true}))

	chain(t.marker())
	if err := n.Flush(); err != nil {
		return fmt.Errorf("make the table %s: %w", tab.Name, err)
	}
	return t.addModes()
}

func (t *table) podCIDRs() []netip.Prefix     { return t.ofFamily(t.c.PodCIDRs) }
func (t *table) serviceCIDRs() []netip.Prefix { return t.ofFamily(t.c.Services) }

func (t *table) ofFamily(all []netip.Prefix) (out []netip.Prefix) {
	for _, p := range all {
		if p.Addr().BitLen() == int(t.fam.size)*8 {
			out = append(out, p)
		}
	}
	return out
}

func (t *table) set(name string, keyLen, valLen uint32) *nftables.Set {
	kt, dt := nftables.TypeInteger, nftables.TypeInteger
	kt.Bytes, dt.Bytes = keyLen, valLen
	return &nftables.Set{Table: t.tab, Name: name, KeyType: kt, DataType: dt, IsMap: valLen > 0}
}

func (t *table) verdicts(name string) *nftables.Set {
	s := t.set(name, 4, 0)
	s.IsMap, s.DataType = true, nftables.TypeVerdict
	return s
}

// maxClients bounds the clients that are remembered for affinity.
const maxClients = 1 << 20

func (t *table) addSets() error {
	a := t.fam.size
	affinity := t.set(mapAffinity, 8+a, a+4)
	affinity.HasTimeout, affinity.Dynamic, affinity.Size = true, true, maxClients
	for _, s := range []*nftables.Set{
		t.set(setFrontends, a+8, 16), t.set(setInternal, a+8, 16), t.set(setEndpoints, 12, a+4),
		t.set(setHairpin, 2*a, 0), t.set(setSticky, 8+a+4, 0),
		t.verdicts(mapClasses), t.verdicts(mapClassesInternal), t.verdicts(mapModes), t.verdicts(mapMasquerade), affinity,
	} {
		if err := t.conn.AddSet(s, nil); err != nil {
			return err
		}
	}
	return nil
}

// addModes fills the maps whose content is constant.
func (t *table) addModes() error {
	elem := func(m Mode, kind expr.VerdictKind, chain string) nftables.SetElement {
		return nftables.SetElement{Key: host32(uint32(m)), VerdictData: &expr.Verdict{Kind: kind, Chain: chain}}
	}
	if err := t.conn.SetAddElements(t.verdicts(mapModes), []nftables.SetElement{
		elem(Reject, expr.VerdictGoto, chainReject), elem(Drop, expr.VerdictDrop, ""),
	}); err != nil {
		return err
	}
	if err := t.conn.SetAddElements(t.verdicts(mapMasquerade), []nftables.SetElement{
		elem(MasqAlways, expr.VerdictGoto, chainMasq), elem(MasqOutside, expr.VerdictGoto, chainMasqOut),
	}); err != nil {
		return err
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("fill the table %s: %w", t.tab.Name, err)
	}
	return nil
}

// A view is one way that a connection finds its group: by which map.
type view struct{ classes, frontends, prefix string }

var views = [2]view{
	{mapClasses, setFrontends, "n"},
	{mapClassesInternal, setInternal, "i"},
}

// addClass queues the chain of a class and the element that leads to it.
func (t *table) addClass(v view, class uint32) error {
	name := fmt.Sprintf("%s-%d", v.prefix, class&maxSlots)
	if affinity := class >> 15; affinity > 0 {
		name += fmt.Sprintf("-for-%d", affinity)
	}
	c := t.conn.AddChain(&nftables.Chain{Name: name, Table: t.tab})
	t.conn.FlushChain(c)
	for _, e := range t.classRules(v, class) {
		t.conn.AddRule(&nftables.Rule{Table: t.tab, Chain: c, Exprs: e})
	}
	return t.conn.SetAddElements(t.verdicts(v.classes), []nftables.SetElement{
		{Key: host32(class), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: name}},
	})
}

// classRules draw an endpoint. The frontend is looked up again because
// registers do not outlive a rule. The last rules take slot 0: for the packet
// that looked up the class just before the group shrank, and the slot just after.
func (t *table) classRules(v view, class uint32) (rules []exprs) {
	f, n := t.fam, class&maxSlots
	draw := func(node, first bool) exprs {
		e := append(f.key(node), lookup(v.frontends, 0, f.val()))
		if first || n == 1 {
			e = append(e, &expr.Immediate{Register: reg(f.class()), Data: host32(0)})
		} else {
			e = append(e, &expr.Numgen{Register: reg(f.class()), Modulus: n, Type: unix.NFT_NG_RANDOM})
		}
		return e
	}
	both := []bool{false, true}
	if timeout := class >> 15; timeout > 0 {
		for _, node := range both {
			rules = append(rules, t.stickyRules(v, node, time.Duration(timeout)*time.Second, draw(node, false))...)
		}
	} else {
		for _, node := range both {
			rules = append(rules, append(draw(node, false), lookup(setEndpoints, f.val(), f.end()), f.dnat(f.end())))
		}
	}
	for _, node := range both {
		rules = append(rules, append(draw(node, true), lookup(setEndpoints, f.val(), f.end()), f.dnat(f.end())))
	}
	return rules
}

func (f family) dnat(end uint32) expr.Any {
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: f.nat, RegAddrMin: reg(end), RegProtoMin: reg(end + f.words())}
}

// stickyRules send a client where it was sent before, if that still serves, and
// otherwise draw and remember.
func (t *table) stickyRules(v view, node bool, timeout time.Duration, draw exprs) []exprs {
	f := t.fam
	end := f.class() // right behind the group, so that group . endpoint is one key
	group := append(f.key(node), lookup(v.frontends, 0, f.val()))
	// Into the place of the key: group . client.
	client := exprs{lookup(v.frontends, 0, 0), f.loadSource(2)}
	remember := func(op uint32) expr.Any {
		return &expr.Dynset{SetName: mapAffinity, SrcRegKey: reg(0), SrcRegData: reg(end), Operation: op, Timeout: timeout}
	}
	again := join(group, client, exprs{lookup(mapAffinity, 0, end), contains(setSticky, f.val()), remember(unix.NFT_DYNSET_OP_UPDATE), f.dnat(end)})
	forget := join(group, client, exprs{lookup(mapAffinity, 0, end),
		&expr.Dynset{SetName: mapAffinity, SrcRegKey: reg(0), SrcRegData: reg(end), Operation: dynsetDelete, Timeout: timeout}})
	first := join(draw, exprs{lookup(setEndpoints, f.val(), end)}, client, exprs{remember(unix.NFT_DYNSET_OP_ADD), f.dnat(end)})
	return []exprs{again, forget, first}
}

const dynsetDelete = 2 // NFT_DYNSET_OP_DELETE

// The bytes of keys and values.

func (f family) keyBytes(k Key) string {
	b := make([]byte, f.size+8)
	copy(b, k.Addr.AsSlice())
	b[f.size] = k.Protocol
	binary.BigEndian.PutUint16(b[f.size+4:], k.Port)
	return string(b)
}

func frontendBytes(fr *Frontend) string {
	var b [16]byte
	copy(b[:], fr.Group[:])
	binary.NativeEndian.PutUint32(b[8:], fr.Class)
	binary.NativeEndian.PutUint32(b[12:], uint32(fr.Mode))
	return string(b[:])
}

func slotBytes(id ID, slot int) string {
	var b [12]byte
	copy(b[:], id[:])
	binary.NativeEndian.PutUint32(b[8:], uint32(slot))
	return string(b[:])
}

func (f family) endBytes(e Endpoint) string {
	b := make([]byte, f.size+4)
	copy(b, e.Addr.AsSlice())
	binary.BigEndian.PutUint16(b[f.size:], e.Port)
	return string(b)
}
