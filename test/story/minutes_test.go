package story

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
)

// one pod with a server, behind a Service, and one to ask from.
const pair = `
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: "proa-test:1", command: [/bin/proa-test, serve, -name, "%s"]}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  type: NodePort
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: "proa-test:1", command: [/bin/proa-test, sleep, 1000s]}
`

// startPair runs both pods.
func (c *cluster) startPair(name string) {
	c.t.Helper()
	c.load("proa-test-1")
	c.apply(fmt.Sprintf(pair, name))
	c.k("wait", "--for=condition=Ready", "pod", "--all", "--timeout=40s")
}

// talk checks that the pods reach each other by address, Service and name.
func (c *cluster) talk(name string) {
	c.t.Helper()
	ip := c.k("get", "pod", "server", "-o", "jsonpath={.status.podIP}")
	service := c.k("get", "service", "server", "-o", "jsonpath={.spec.clusterIP}")
	for _, host := range []string{ip + ":8080", service, "server", "server.default.svc.cluster.local"} {
		c.until(10e9, `"name":"`+name+`"`, "exec", "client", "--", "/bin/proa-test", "fetch", "-timeout", "3s", "http://"+host+"/")
	}
}

// outside is a web server on the peer that says who asks.
func outside(t *testing.T, h *host) {
	t.Helper()
	err := h.peer.Do(func() error {
		l, err := net.Listen("tcp", "192.0.2.1:80")
		if err != nil {
			return err
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			from, _, _ := net.SplitHostPort(r.RemoteAddr)
			fmt.Fprintln(w, "hello", from)
		})}
		go func() { _ = s.Serve(l) }() // until it is closed
		t.Cleanup(func() { s.Close() })
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A firewall that drops what it does not know, as Docker, ufw and firewalld set
// up: pods reach each other and the outside, and are reached.
func TestForeignFirewall(t *testing.T) {
	h := newHost(t, true)
	nft, err := nftables.New(nftables.WithNetNSFd(h.ns.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	drop := nftables.ChainPolicyDrop
	docker := nft.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"})
	nft.AddChain(&nftables.Chain{Name: "FORWARD", Table: docker, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	firewalld := nft.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "firewalld"})
	nft.AddChain(&nftables.Chain{Name: "filter_FORWARD", Table: firewalld, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityRef(10), Policy: &drop})
	if err := nft.Flush(); err != nil {
		t.Fatal(err)
	}
	outside(t, h)

	c := newCluster(t, h)
	c.up()
	c.startPair("one")
	c.talk("one")
	// The outside sees the node's address.
	c.until(10e9, "hello 192.0.2.2", "exec", "client", "--", "/bin/proa-test", "fetch", "-timeout", "3s", "http://192.0.2.1/")
	port := c.k("get", "service", "server", "-o", "jsonpath={.spec.ports[0].nodePort}")
	answers(t, client(h.peer), "GET", "http://192.0.2.2:"+port+"/", "", `"name":"one"`)
	log, err := os.ReadFile(c.p.Log())
	if err != nil || !strings.Contains(string(log), "Made way for pods in another firewall's chain") {
		t.Errorf("the log does not tell of the firewalls: %v", err)
	}

	// They stay as they were, once the cluster is gone.
	c.proaOK("clean", "--yes")
	for _, ch := range []*nftables.Chain{{Name: "FORWARD", Table: docker}, {Name: "filter_FORWARD", Table: firewalld}} {
		rules, err := nft.GetRules(ch.Table, ch)
		if err != nil || len(rules) != 0 {
			t.Errorf("chain %s: %d rules are left, %v", ch.Name, len(rules), err)
		}
	}
}

// The machine's resolver is a stub on loopback, which itself asks the cluster's
// name server: no circle, names of the cluster are answered, others fail soon.
func TestStubResolver(t *testing.T) {
	h := newHost(t, true)
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.53\noptions edns0 trust-ad\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// A mount namespace that a shell holds, in which everything runs.
	holder := exec.Command("unshare", "-m", "sh", "-c", "mount --bind "+conf+" /etc/resolv.conf && echo ready && read line")
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	outp, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Skipf("needs unshare: %v", err)
	}
	t.Cleanup(func() { in.Close(); _ = holder.Wait() })
	line := make([]byte, 10)
	if n, err := outp.Read(line); err != nil || string(line[:n]) != "ready\n" {
		t.Fatalf("the mount namespace: %q %v", line[:n], err)
	}
	h.before = []string{"nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", holder.Process.Pid), "--"}

	c := newCluster(t, h)
	c.up()
	c.startPair("one")
	c.talk("one")
	out, err := c.run("", c.host.kubectl, "exec", "client", "--", "/bin/proa-test", "lookup", "example.com")
	if err == nil || !strings.Contains(out, "server misbehaving") && !strings.Contains(out, "no such host") {
		t.Errorf("a name of the outside: %v %s\nwant a failure at once", err, out)
	}
	// A pod with the node's resolver does not get one that it cannot reach.
	c.k("run", "plain", "--image=proa-test:1", "--restart=Never", `--overrides={"spec":{"dnsPolicy":"Default","terminationGracePeriodSeconds":1}}`, "--", "read", "/etc/resolv.conf")
	c.until(20e9, "Succeeded", "get", "pod", "plain", "-o", "jsonpath={.status.phase}")
	if got := c.k("logs", "plain"); strings.Contains(got, "127.0.0.53") {
		t.Errorf("resolv.conf of a pod with dnsPolicy Default:\n%s", got)
	}
	c.proaOK("clean", "--yes") // while the namespace is there
}

// No route, no cable, only loopback: the cluster is Ready, and pods talk.
func TestNoNetwork(t *testing.T) {
	h := newHost(t, false)
	c := newCluster(t, h)
	c.up()
	c.startPair("alone")
	c.talk("alone")
	if out := c.k("logs", "server"); !strings.Contains(out, "serving") {
		t.Errorf("kubectl logs: %q", out)
	}
	c.k("get", "--raw", "/readyz")
}

// /version reads as charts and tools expect it.
func TestVersion(t *testing.T) {
	h := newHost(t, true)
	c := newCluster(t, h)
	c.up()
	var v struct{ Major, Minor, GitVersion string }
	if err := json.Unmarshal([]byte(c.k("get", "--raw", "/version")), &v); err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^v1\.37\.\d+\+proa`).MatchString(v.GitVersion) || v.Major != "1" || v.Minor != "37" {
		t.Errorf("/version: %+v", v)
	}
	if out := c.k("version"); !strings.Contains(out, "Server Version: "+v.GitVersion) {
		t.Errorf("kubectl version: %s", out)
	}
	if out := c.proaOK("version"); !strings.Contains(out, v.GitVersion) {
		t.Errorf("proa version: %s", out)
	}
	if out := c.k("get", "nodes"); !strings.Contains(out, "v1.37.") {
		t.Errorf("kubectl get nodes: %s", out)
	}
	if s, err := os.Stat(c.p.Kubeconfig()); err != nil || s.Mode().Perm() != 0o600 {
		t.Errorf("the kubeconfig: %v %v, want mode 0600", s, err)
	}
	// A clean stop on SIGTERM.
	if err := syscall.Kill(c.pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.gone()
	log, err := os.ReadFile(c.p.Log())
	if err != nil || !strings.Contains(string(log), "Stopping; containers run on") || strings.Contains(string(log), "panic") {
		t.Errorf("the log of a stop: %v\n%s", err, log)
	}
}

// Two clusters on one machine do not notice each other, and cleaning one leaves
// the other alone.
func TestTwoClusters(t *testing.T) {
	h := newHost(t, true)
	a := newCluster(t, h)
	b := newCluster(t, h, "--ports", "7443", "--node-ports", "31000-31999")
	a.up()

	// Without ports of its own the second says what is in the way.
	out, err := b.run("", b.proa, "up")
	if want := "port 6443, for the API, is taken by proa"; err == nil || !strings.Contains(out, want) {
		t.Errorf("proa up with a taken port: %v %s\nwant %q", err, out, want)
	}

	b.up()
	a.startPair("a")
	b.startPair("b")
	a.talk("a")
	b.talk("b")
	before := a.containers("app=server")
	established := a.pid()
	b.proaOK("clean", "--yes")
	if left := b.left(); len(left) > 0 {
		t.Errorf("proa clean left %s", left)
	}
	a.talk("a")
	a.same("app=server", before)
	if a.pid() != established {
		t.Error("the other proa was ended")
	}
	a.k("run", "new", "--image=proa-test:1", "--restart=Never", "--", "exit", "0")
	a.until(20e9, "Succeeded", "get", "pod", "new", "-o", "jsonpath={.status.phase}")
}
