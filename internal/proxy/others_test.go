package proxy

import (
	"context"
	"encoding/binary"
	"log/slog"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/kinds/discovery"
	"proa/internal/overlay/nettest"
	"proa/internal/store/memory"
)

func TestRestart(t *testing.T) {
	r := newRig(t)
	a, b := r.pod("a"), r.pod("b")
	r.pod("client")
	client := r.pods["client"]
	s := service("web", "10.43.0.80", port("", 80, 0))
	gone := service("gone", "10.43.0.81", port("", 80, 0))
	r.start(s, a)
	r.set(gone, a)
	c, err := client.Dial("tcp", "10.43.0.80:80", second)
	r.must(err)
	defer c.Close()
	r.stop() // the kernel sees no difference to a kill

	ctx, cancel := context.WithCancel(context.Background())
	var asked int
	var failed error
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if _, err := client.Ask("tcp", "10.43.0.80:80", second); err != nil {
				failed = err
				return
			}
			asked++
		}
	}()
	r.startProxy()
	time.Sleep(50 * time.Millisecond) // it knows nothing yet and must take nothing away
	r.start(s, a, b)
	cancel()
	<-done
	if failed != nil || asked < 5 {
		t.Errorf("during the restart, after %d connections: %v", asked, failed)
	}
	if _, err := nettest.Say(c, second); err != nil {
		t.Errorf("the connection from before: %v", err)
	}
	r.refused(client, "tcp", "10.43.0.81:80") // removed meanwhile
}

func TestRulesComeBack(t *testing.T) {
	r := newRig(t)
	a := r.pod("a")
	r.start(service("web", "10.43.0.80", port("", 80, 0)), a)
	r.want(r.node, "tcp", "10.43.0.80:80", "a 10.42.0.1")
	n, err := nftables.New()
	r.must(err)
	n.FlushRuleset() // as "systemctl restart nftables" does
	r.must(n.Flush())
	for end := time.Now().Add(3 * second); ; {
		got, err := r.node.Ask("tcp", "10.43.0.80:80", 200*time.Millisecond)
		if err == nil && got == "a 10.42.0.1" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after somebody flushed all rules: %q, %v", got, err)
		}
	}
}

// dropTable makes a firewall as another program would: a chain that drops.
func dropTable(t *testing.T, family nftables.TableFamily, name, chain string, hook *nftables.ChainHook, byRule bool) {
	n, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tab := n.AddTable(&nftables.Table{Name: name, Family: family})
	policy := nftables.ChainPolicyDrop
	if byRule {
		policy = nftables.ChainPolicyAccept
	}
	c := n.AddChain(&nftables.Chain{Name: chain, Table: tab, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &policy})
	n.AddRule(&nftables.Rule{Table: tab, Chain: c, Exprs: append(ctHas(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), &expr.Verdict{Kind: expr.VerdictAccept})})
	n.AddRule(&nftables.Rule{Table: tab, Chain: c, Exprs: append(append(exprs{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}}, &expr.Cmp{Register: 1, Data: []byte("lo\x00")}), &expr.Verdict{Kind: expr.VerdictAccept})})
	if byRule {
		n.AddRule(&nftables.Rule{Table: tab, Chain: c, Exprs: exprs{&expr.Counter{}, &expr.Reject{Type: 0, Code: 13}}})
	}
	if err := n.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.DelTable(tab)
		_ = n.Flush()
	})
}

func TestOthersDropForwarding(t *testing.T) {
	for _, tc := range []struct {
		name    string
		family  nftables.TableFamily
		table   string
		chain   string
		byRule  bool
		already bool // there before the proxy starts
	}{
		{"docker", nftables.TableFamilyIPv4, "filter", "FORWARD", false, true},
		{"ufw enabled later", nftables.TableFamilyIPv4, "filter", "FORWARD", false, false},
		{"firewalld", nftables.TableFamilyINet, "firewalld", "filter_FORWARD", true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.already {
				dropTable(t, tc.family, tc.table, tc.chain, nftables.ChainHookForward, tc.byRule)
			}
			r := newRig(t)
			a, b := r.pod("a"), r.pod("b")
			r.start(service("web", "10.43.0.80", port("", 80, 30080)), a)
			r.outside.Echo(t, "tcp", ":80", "outside")
			if !tc.already {
				dropTable(t, tc.family, tc.table, tc.chain, nftables.ChainHookForward, tc.byRule)
			}
			for end := time.Now().Add(3 * second); ; {
				if _, err := r.pods["a"].Ask("tcp", b+":80", 200*time.Millisecond); err == nil {
					break
				} else if time.Now().After(end) {
					t.Fatalf("pod to pod: %v", err)
				}
			}
			r.want(r.pods["b"], "tcp", "10.43.0.80:80", "a "+b)
			r.want(r.pods["b"], "tcp", "192.0.2.9:80", "outside "+nodeIP)
			r.want(r.outside, "tcp", nodeIP+":30080", "a 10.42.0.1")
			r.stop()
			r.must(Clean(r.c.Table))
			if got, err := r.pods["a"].Ask("tcp", b+":80", soon); err == nil {
				t.Errorf("after Clean the other firewall does not drop: %q", got)
			}
		})
	}
}

func TestOthersDropInput(t *testing.T) {
	dropped := func(t *testing.T, table, chain string) {
		r := newRig(t)
		a := r.pod("a")
		r.node.Echo(t, "tcp", ":9000", "node")
		r.node.Echo(t, "udp", "10.43.0.10:53", "dns")
		host := service("api", "10.43.0.1", port("", 443, 0))
		sl := slice(host, nodeIP)
		sl.Ports[0].Port = ptr(int32(9000))
		r.p.SetServices([]*corev1.Service{host})
		r.p.SetSlices([]*discoveryv1.EndpointSlice{sl})
		r.sync()
		dropTable(t, nftables.TableFamilyIPv4, table, chain, nftables.ChainHookInput, false)
		for end := time.Now().Add(3 * second); ; {
			got, err := r.pods["a"].Ask("tcp", "10.43.0.1:443", 200*time.Millisecond)
			if err == nil && got == "node "+a {
				break
			} else if time.Now().After(end) {
				t.Fatalf("pod to a service on the node: %q, %v", got, err)
			}
		}
		r.want(r.pods["a"], "udp", "10.43.0.10:53", "dns "+a)
		if got, err := r.pods["a"].Ask("tcp", nodeIP+":9000", soon); err == nil {
			t.Errorf("the firewall lets pods reach ports of the node: %q", got)
		}
	}
	t.Run("iptables", func(t *testing.T) { dropped(t, "filter", "INPUT") })
	t.Run("nftables", func(t *testing.T) { dropped(t, "mine", "input") })
}

// ownedTable makes a table that only s can change, with a chain that drops
// what is forwarded.
func ownedTable(s *socket, table, chain string) error {
	number := func(typ uint16, v uint32) { s.text0(typ, string(binary.BigEndian.AppendUint32(nil, v))) }
	message := func(typ uint16, body func()) uint32 {
		at := len(s.buf)
		seq := s.header(unix.NFNL_SUBSYS_NFTABLES<<8|typ, unix.NLM_F_REQUEST|unix.NLM_F_CREATE|unix.NLM_F_ACK, uint8(nftables.TableFamilyINet), 0)
		body()
		s.end(at)
		return seq
	}
	s.header(unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST, 0, unix.NFNL_SUBSYS_NFTABLES)
	s.end(0)
	message(unix.NFT_MSG_NEWTABLE, func() {
		s.text(unix.NFTA_TABLE_NAME, table)
		number(unix.NFTA_TABLE_FLAGS, 2) // NFT_TABLE_F_OWNER
	})
	last := message(unix.NFT_MSG_NEWCHAIN, func() {
		s.text(unix.NFTA_CHAIN_TABLE, table)
		s.text(unix.NFTA_CHAIN_NAME, chain)
		hook := s.nest(unix.NFTA_CHAIN_HOOK)
		number(unix.NFTA_HOOK_HOOKNUM, 2) // forward
		number(unix.NFTA_HOOK_PRIORITY, 0)
		s.close16(hook)
		number(unix.NFTA_CHAIN_POLICY, 0) // drop
		s.text(unix.NFTA_CHAIN_TYPE, "filter")
	})
	at := len(s.buf)
	s.header(unix.NFNL_MSG_BATCH_END, unix.NLM_F_REQUEST, 0, unix.NFNL_SUBSYS_NFTABLES)
	s.end(at)
	return s.exchange(last)
}

// TestOthersOwnTheirTable has a firewall that lets nobody change its table, as
// firewalld 2 does: then the proxy says so.
func TestOthersOwnTheirTable(t *testing.T) {
	nettest.Need(t)
	own, err := openSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer own.close()
	if err := ownedTable(own, "firewalld", "filter_FORWARD"); err != nil {
		t.Skipf("needs tables with owners (Linux 5.12): %v", err)
	}
	r := newRig(t)
	r.start(service("web", "10.43.0.80", port("", 80, 0)))
	<-r.p.Ready()
	for end := time.Now().Add(3 * second); !strings.Contains(r.p.Blocked(), "filter_FORWARD"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the proxy says %q", r.p.Blocked())
		}
	}
	own.close() // the table goes with its owner, and the kernel tells nobody until the next change
	dropTable(t, nftables.TableFamilyIPv4, "mine", "input", nftables.ChainHookInput, false)
	for end := time.Now().Add(3 * second); r.p.Blocked() != ""; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("afterwards the proxy still says %q", r.p.Blocked())
		}
	}
}

func TestCleanLeavesNothing(t *testing.T) {
	nettest.Need(t)
	n, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := Clean("tproa"); err != nil {
		t.Fatalf("with nothing there: %v", err)
	}
	tables, err := n.ListTables()
	if err != nil || len(tables) != 0 {
		t.Errorf("tables: %v, %v", tables, err)
	}
}

// TestIptablesReadsItsTables makes a firewall with the real iptables and reads
// it again with our rules in it: iptables gives up on a table that holds
// anything it does not know.
func TestIptablesReadsItsTables(t *testing.T) {
	nettest.Need(t)
	if out, err := exec.Command("iptables", "--version").CombinedOutput(); err != nil || !strings.Contains(string(out), "nf_tables") {
		t.Skipf("needs iptables (nf_tables): %v %s", err, out)
	}
	iptables := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("iptables", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("iptables %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	iptables("-P", "FORWARD", "DROP")
	iptables("-P", "INPUT", "DROP")
	iptables("-A", "INPUT", "-i", "lo", "-j", "ACCEPT")
	t.Cleanup(func() {
		n, _ := nftables.New()
		n.DelTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
		_ = n.Flush()
	})
	r := newRig(t)
	r.pod("a")
	r.pod("b")
	r.start(service("web", "10.43.0.80", port("", 80, 0)), r.addrs["b"])
	r.want(r.pods["a"], "tcp", "10.43.0.80:80", "b "+r.addrs["a"])
	rules := iptables("-S")
	for _, want := range []string{"-A FORWARD -s 10.42.0.0/16 ", "-A FORWARD -d 10.42.0.0/16 ", "-A INPUT -s 10.42.0.0/16 -m conntrack --ctstate DNAT "} {
		if !strings.Contains(rules, want) {
			t.Errorf("iptables does not show %q:\n%s", want, rules)
		}
	}
	iptables("-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT")
	r.stop()
	r.must(Clean(r.c.Table))
	if rules := iptables("-S"); strings.Contains(rules, "10.42.0.0") {
		t.Errorf("after Clean:\n%s", rules)
	}
}

func TestFollowsTheAPI(t *testing.T) {
	nettest.Need(t)
	r := newRig(t)
	r.stop()
	h, err := apiserver.New(t.Context(), apiserver.Config{Engine: memory.New(nil), Kinds: kinds.All, Log: slog.New(slog.DiscardHandler)})
	r.must(err)
	t.Cleanup(h.Close)
	p, err := New(r.c)
	r.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, h, p) }()
	defer func() {
		cancel()
		r.must(<-done)
	}()
	<-p.Ready()
	ip := r.pod("a")
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	_, err = core.Namespace.Create(ctx, h, ns)
	r.must(err)
	s := service("web", "10.43.0.80", port("http", 80, 0))
	_, err = core.Service.Create(ctx, h, s)
	r.must(err)
	start := time.Now()
	_, err = discovery.EndpointSlice.Create(ctx, h, slice(s, ip))
	r.must(err)
	for {
		if got, err := r.node.Ask("tcp", "10.43.0.80:80", second); err == nil && got == "a 10.42.0.1" {
			break
		} else if time.Since(start) > 5*second {
			t.Fatalf("%q, %v", got, err)
		}
	}
	t.Logf("reached %v after the write", time.Since(start))
	r.must(core.Service.Delete(ctx, h, "default", "web", api.Options{}))
	for start := time.Now(); ; {
		if _, err := r.node.Ask("tcp", "10.43.0.80:80", second); err != nil {
			break
		} else if time.Since(start) > 5*second {
			t.Fatal("a deleted service still answers")
		}
	}
}

func TestProbe(t *testing.T) {
	nettest.Need(t)
	if err := Probe(); err != nil {
		t.Error(err)
	}
	TestCleanLeavesNothing(t)
}
