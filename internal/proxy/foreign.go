package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
)

// Docker, ufw, firewalld and others drop what they do not know, and an accept
// in another table does not change that: every table at a hook must accept. So
// rules that accept the traffic of pods are put at the head of their chains,
// as their own documentation asks users to do, with a comment by which they are
// found again. In tables that iptables manages they are made of what iptables
// can read, or it would refuse to work on the table at all.

// tag is the comment of the rules of one table's proxy in other tables.
func tag(table string) string { return table + ": pods" }

// openForeign makes way for pods in chains that drop by default. It returns
// what was found, as text that changes when that changes.
func openForeign(c *Config, log *slog.Logger) (string, error) {
	conn, err := nftables.New()
	if err != nil {
		return "", err
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyUnspecified)
	if err != nil {
		return "", fmt.Errorf("list the chains of other tables: %w", err)
	}
	var said []string
	var errs []error
	for _, ch := range chains {
		if !foreignFilter(ch, c.Table) {
			continue
		}
		rules, err := conn.GetRules(ch.Table, ch)
		if err != nil {
			if errors.Is(err, syscall.ENOENT) {
				continue // gone meanwhile; there will be a notice
			}
			return "", fmt.Errorf("list the rules of %s %s: %w", ch.Table.Name, ch.Name, err)
		}
		if !closed(ch, rules) {
			continue
		}
		said = append(said, ch.Table.Name+" "+ch.Name)
		if slices.ContainsFunc(rules, func(r *nftables.Rule) bool { return tagged(r, c.Table) }) {
			continue
		}
		if err := insert(conn, ch, c); err != nil {
			errs = append(errs, refused(ch, c, err))
			continue
		}
		log.Info("Made way for pods in another firewall's chain, which drops by default", "table", ch.Table.Name, "chain", ch.Name)
	}
	if legacyFilter() {
		said = append(said, legacy)
	}
	return strings.Join(said, ", "), errors.Join(errs...)
}

const legacy = "old iptables"

// legacyFilter tells whether the old iptables, which is not nftables, has a filter table.
func legacyFilter() bool {
	b, err := os.ReadFile("/proc/net/ip_tables_names")
	return err == nil && slices.Contains(strings.Fields(string(b)), "filter")
}

func refused(ch *nftables.Chain, c *Config, err error) error {
	return fmt.Errorf("the chain %s of the table %s drops by default and takes no rule (%w): "+
		"pods can neither reach each other nor the outside until it accepts forwarding from and to %v", ch.Name, ch.Table.Name, err, c.PodCIDRs)
}

// foreignFilter tells chains of others that may drop packets of pods: routed
// ones, and those to the node itself.
func foreignFilter(ch *nftables.Chain, own string) bool {
	if ch.Hooknum == nil || ch.Type != nftables.ChainTypeFilter || ch.Table.Name == own && ch.Table.Family == ipv4.table {
		return false
	}
	if ch.Table.Family != nftables.TableFamilyIPv4 && ch.Table.Family != nftables.TableFamilyINet {
		return false
	}
	return *ch.Hooknum == *nftables.ChainHookForward || *ch.Hooknum == *nftables.ChainHookInput
}

// closed reports whether a packet that no rule accepts is dropped: by the
// policy, or by a last rule without a condition.
func closed(ch *nftables.Chain, rules []*nftables.Rule) bool {
	if ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
		return true
	}
	if len(rules) == 0 {
		return false
	}
	for _, e := range rules[len(rules)-1].Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log, *expr.Limit:
		case *expr.Reject:
			return true
		case *expr.Verdict:
			return e.Kind == expr.VerdictDrop
		default:
			return false
		}
	}
	return false
}

func tagged(r *nftables.Rule, table string) bool {
	s, ok := userdata.GetString(r.UserData, userdata.TypeComment)
	return ok && s == tag(table)
}

// insert puts our rules at the head of a chain, all or none.
func insert(conn *nftables.Conn, ch *nftables.Chain, c *Config) error {
	var rules []exprs
	if *ch.Hooknum == *nftables.ChainHookForward {
		rules = forwardRules(ch, c)
	} else {
		rules = inputRules(ch, c, isIptables(ch))
	}
	err := insertAll(conn, ch, rules, tag(c.Table))
	if err != nil && isIptables(ch) && (errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EOPNOTSUPP)) {
		// The kernel has no matches of iptables, so nobody reads the table with it.
		return insertAll(conn, ch, inputRules(ch, c, false), tag(c.Table))
	}
	return err
}

func insertAll(conn *nftables.Conn, ch *nftables.Chain, rules []exprs, comment string) error {
	ud := userdata.AppendString(nil, userdata.TypeComment, comment)
	for _, e := range slices.Backward(rules) {
		conn.InsertRule(&nftables.Rule{Table: ch.Table, Chain: ch, Exprs: e, UserData: ud})
	}
	return conn.Flush()
}

// isIptables tells the tables that iptables-nft makes and reads.
func isIptables(ch *nftables.Chain) bool {
	return ch.Table.Family == nftables.TableFamilyIPv4 && ch.Table.Name == "filter" && ch.Name == strings.ToUpper(ch.Name)
}

// match begins a rule for an address at an offset in the IPv4 header; in a
// table for both families it looks at IPv4 packets only.
func match(ch *nftables.Chain, offset uint32, p netip.Prefix) exprs {
	var e exprs
	if ch.Table.Family == nftables.TableFamilyINet {
		e = append(e, &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Register: 1, Data: []byte{byte(nftables.TableFamilyIPv4)}})
	}
	e = append(e, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4})
	mask := within(0, p, false)[0].(*expr.Bitwise).Mask
	return append(e,
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Register: 1, Data: p.Masked().Addr().AsSlice()})
}

func accept() exprs { return exprs{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}} }

// forwardRules accept what comes from pods and what goes to them.
func forwardRules(ch *nftables.Chain, c *Config) (out []exprs) {
	for _, p := range c.PodCIDRs {
		if p.Addr().Is4() {
			out = append(out, join(match(ch, ipv4.saddr, p), accept()), join(match(ch, ipv4.daddr, p), accept()))
		}
	}
	return out
}

// inputRules accept what pods send to the node through a Service, and to
// service addresses that the node answers itself, and nothing else.
func inputRules(ch *nftables.Chain, c *Config, iptables bool) (out []exprs) {
	const stateDNAT = 1 << 7 // XT_CONNTRACK_STATE_DNAT
	dnat := ctHas(expr.CtKeySTATUS, ctStatusDNAT)
	if iptables {
		dnat = exprs{&expr.Match{Name: "conntrack", Rev: 3, Info: &xt.ConntrackMtinfo3{
			ConntrackMtinfo2: xt.ConntrackMtinfo2{
				ConntrackMtinfoBase: xt.ConntrackMtinfoBase{MatchFlags: uint16(xt.ConntrackState)},
				StateMask:           stateDNAT,
			},
		}}}
	}
	for _, p := range c.PodCIDRs {
		if !p.Addr().Is4() {
			continue
		}
		out = append(out, join(match(ch, ipv4.saddr, p), dnat, accept()))
		for _, s := range c.Services {
			if s.Addr().Is4() {
				out = append(out, join(match(ch, ipv4.saddr, p), match(ch, ipv4.daddr, s), accept()))
			}
		}
	}
	return out
}

// closeForeign removes the rules that openForeign made.
func closeForeign(conn *nftables.Conn, table string) error {
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyUnspecified)
	if err != nil {
		return fmt.Errorf("list the chains of other tables: %w", err)
	}
	found := false
	for _, ch := range chains {
		if !foreignFilter(ch, table) {
			continue
		}
		rules, err := conn.GetRules(ch.Table, ch)
		if err != nil {
			return fmt.Errorf("list the rules of %s %s: %w", ch.Table.Name, ch.Name, err)
		}
		for _, r := range rules {
			if tagged(r, table) {
				found = true
				if err := conn.DelRule(r); err != nil {
					return err
				}
			}
		}
	}
	if !found {
		return nil
	}
	return conn.Flush()
}
