// Package story plays what a person goes through with the built proa: real
// containers from real manifests, crashes at bad moments, machines that are set
// up in the way of a cluster, and bad input. Every story has a cluster and a
// network of its own, and leaves nothing behind.
package story

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"proa/internal/api"
	"proa/internal/httpapi"
	"proa/internal/overlay/nettest"
	"proa/internal/pki"
	"proa/internal/system"
)

func TestMain(m *testing.M) { nettest.Main(m) }

// A host is a test machine: a network namespace with loopback and, unless it is
// cut off, one cable (eth0, 192.0.2.2) to a peer (192.0.2.1), no default route.
type host struct {
	ns, peer *nettest.NS
	proa     string // the program
	kubectl  string
	images   string // folder of image archives
	before   []string
}

// newHost skips a test that cannot run here, and says why.
func newHost(t *testing.T, cable bool) *host {
	t.Helper()
	h := &host{proa: os.Getenv("PROA_TEST_PROA"), images: os.Getenv("PROA_IMAGES_DIR")}
	if testing.Short() {
		t.Skip("slow: runs a whole cluster")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root: runs containers")
	}
	if h.proa == "" || h.images == "" || os.Getenv("PROA_TEST_BIN") == "" {
		t.Skip("needs PROA_TEST_PROA, PROA_TEST_BIN and PROA_IMAGES_DIR: run it by `make test`")
	}
	nettest.Need(t)
	h.kubectl = filepath.Join(os.Getenv("PROA_TEST_BIN"), "kubectl")
	h.ns, h.peer = nettest.New(t), nettest.New(t)
	h.up(t, h.ns, "lo", "")
	if cable {
		h.plug(t)
	}
	return h
}

func (h *host) plug(t *testing.T) {
	t.Helper()
	nl := at(t, h.ns)
	defer nl.Close()
	err := nl.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(h.peer.Fd())})
	if err != nil {
		t.Fatalf("plug in a cable: %v", err)
	}
	h.up(t, h.ns, "eth0", "192.0.2.2/24")
	h.up(t, h.peer, "lo", "")
	h.up(t, h.peer, "eth0", "192.0.2.1/24")
}

func at(t *testing.T, ns *nettest.NS) *netlink.Handle {
	t.Helper()
	nl, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return nl
}

func (h *host) up(t *testing.T, ns *nettest.NS, link, addr string) {
	t.Helper()
	nl := at(t, ns)
	defer nl.Close()
	l, err := nl.LinkByName(link)
	if err == nil && addr != "" {
		var a *netlink.Addr
		if a, err = netlink.ParseAddr(addr); err == nil {
			err = nl.AddrAdd(l, a)
		}
	}
	if err == nil {
		err = nl.LinkSetUp(l)
	}
	if err != nil {
		t.Fatalf("set up %s: %v", link, err)
	}
}

// start starts a program on the host.
func (h *host) start(cmd *exec.Cmd) error {
	if len(h.before) > 0 {
		cmd.Args = append(slices.Clone(h.before), append([]string{cmd.Path}, cmd.Args[1:]...)...)
		path, err := exec.LookPath(h.before[0])
		if err != nil {
			return err
		}
		cmd.Path = path
	}
	return h.ns.Do(cmd.Start)
}

// http is a client on a machine; every request has a connection of its own.
func client(ns *nettest.NS) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
			return ns.Dial(network, addr, 5*time.Second)
		},
	}}
}

// roots counts clusters: sockets need short paths, and so every cluster a
// folder of a short name.
var roots struct {
	sync.Mutex
	n int
}

// A cluster is one data folder on a host.
type cluster struct {
	*host
	t     *testing.T
	root  string
	flags []string // of every "proa up"
	p     system.Places
	conn  *connection
}

// A connection is to the API of the proa that runs now.
type connection struct {
	sync.Mutex
	api api.Handler
}

// in is the cluster, in the hands of a subtest.
func (c *cluster) in(t *testing.T) *cluster {
	sub := *c
	sub.t = t
	return &sub
}

// newCluster names a cluster, which is cleaned up with the test.
func newCluster(t *testing.T, h *host, flags ...string) *cluster {
	t.Helper()
	roots.Lock()
	roots.n++
	root := fmt.Sprintf("/tmp/ps%d-%d", os.Getpid(), roots.n)
	roots.Unlock()
	p, err := system.PlacesFor(root)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{host: h, t: t, root: root, flags: flags, p: p, conn: new(connection)}
	t.Cleanup(c.clean)
	return c
}

// up starts the cluster in the background, and says how long that took.
func (c *cluster) up() time.Duration {
	c.t.Helper()
	began := time.Now()
	out, err := c.proaErr(append([]string{"up", "-d"}, c.flags...)...)
	if err != nil {
		c.t.Fatalf("proa up: %v\n%s", err, out)
	}
	c.conn.Lock()
	c.conn.api = nil
	c.conn.Unlock()
	return time.Since(began)
}

// run runs a program on the host with the cluster's environment; stdout and
// stderr come together. It is ended after a minute and a half.
func (c *cluster) run(stdin, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "PROA_ROOT="+c.root, "KUBECONFIG="+c.p.Kubeconfig(), "HOME="+c.root+"/home")
	cmd.Stdout, cmd.Stderr, cmd.Stdin = &out, &out, strings.NewReader(stdin)
	cmd.WaitDelay = time.Second
	if err := c.start(cmd); err != nil {
		return "", err
	}
	err := cmd.Wait()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // a program in the background holds the pipe
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("it did not end in time: %w", err)
	}
	return out.String(), err
}

func (c *cluster) proaErr(args ...string) (string, error) { return c.run("", c.proa, args...) }

// proaOK runs proa, which must succeed.
func (c *cluster) proaOK(args ...string) string {
	c.t.Helper()
	out, err := c.proaErr(args...)
	if err != nil {
		c.t.Fatalf("proa %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// k runs kubectl, which must succeed.
func (c *cluster) k(args ...string) string {
	c.t.Helper()
	out, err := c.run("", c.host.kubectl, args...)
	if err != nil {
		c.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

// apply applies manifests, which must succeed.
func (c *cluster) apply(manifest string) string {
	c.t.Helper()
	out, err := c.run(manifest, c.host.kubectl, "apply", "-f", "-")
	if err != nil {
		c.t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
	return out
}

// refused applies a manifest that must be refused, with words that hold want.
func (c *cluster) refused(manifest, want string, args ...string) {
	c.t.Helper()
	if args == nil {
		args = []string{"apply", "-f", "-"}
	}
	out, err := c.run(manifest, c.host.kubectl, args...)
	if err == nil {
		c.t.Errorf("kubectl %s went well, want a refusal with %q:\n%s", strings.Join(args, " "), want, out)
	} else if !strings.Contains(out, want) {
		c.t.Errorf("kubectl %s said\n%s\nwant %q", strings.Join(args, " "), out, want)
	}
}

// until runs kubectl until its output holds want.
func (c *cluster) until(limit time.Duration, want string, args ...string) string {
	c.t.Helper()
	var out string
	var err error
	for end := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		if out, err = c.run("", c.host.kubectl, args...); err == nil && strings.Contains(out, want) {
			return out
		}
		if time.Now().After(end) {
			c.t.Fatalf("kubectl %s: %v\n%s\nwant %q within %s\n%s", strings.Join(args, " "), err, out, want, limit, c.scene())
		}
	}
}

// load puts archives of the images folder into the cluster.
func (c *cluster) load(names ...string) {
	c.t.Helper()
	for _, n := range names {
		c.proaOK("image", "load", filepath.Join(c.images, n+".tar"))
	}
}

// handler asks the API as the cluster's administrator.
func (c *cluster) handler() api.Handler {
	c.t.Helper()
	c.conn.Lock()
	defer c.conn.Unlock()
	if c.conn.api == nil {
		k, err := pki.ReadKubeconfig(c.p.Kubeconfig())
		if err != nil {
			c.t.Fatal(err)
		}
		cert, err := tls.X509KeyPair(k.Client.Cert, k.Client.Key)
		if err != nil {
			c.t.Fatal(err)
		}
		c.conn.api = httpapi.Dial(k.Server, c.tlsClient(k.CA, cert))
	}
	return c.conn.api
}

// tlsClient is an HTTP client on the host that trusts ca and shows certs.
func (c *cluster) tlsClient(ca []byte, certs ...tls.Certificate) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig:   &tls.Config{RootCAs: pool, Certificates: certs},
		DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
			return c.ns.Dial(network, addr, 5*time.Second)
		},
	}}
}

// pid is proa's; 0 if it does not run.
func (c *cluster) pid() int {
	c.t.Helper()
	pid, err := system.PID(c.p)
	if err != nil {
		c.t.Fatal(err)
	}
	return pid
}

// kill ends a process at once and waits until it is gone.
func kill(t *testing.T, pid int) {
	t.Helper()
	if pid < 2 {
		t.Fatalf("no process to kill: %d", pid)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatalf("process %d: %v", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000); n != 1 {
		t.Fatalf("process %d does not die: %v", pid, err)
	}
}

func pidIn(t *testing.T, file string) int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return pid
}

// scene is what a failure is understood from.
func (c *cluster) scene() string {
	if !exists(c.p.Kubeconfig()) {
		return "the cluster is gone"
	}
	var b strings.Builder
	for _, args := range [][]string{
		{"get", "all,endpointslices", "-A", "-o", "wide"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
	} {
		out, err := c.run("", c.host.kubectl, append(args, "--request-timeout=5s")...)
		fmt.Fprintf(&b, "--- kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	log, err := os.ReadFile(c.p.Log())
	lines := strings.Split(string(log), "\n")
	fmt.Fprintf(&b, "--- log: %v\n%s\n", err, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	return b.String()
}

// clean removes the cluster, and checks that nothing of it is left.
func (c *cluster) clean() {
	if c.t.Failed() {
		c.t.Log(c.scene())
	}
	if _, err := os.Stat(c.root); errors.Is(err, os.ErrNotExist) {
		return
	}
	if out, err := c.proaErr("clean", "--yes"); err != nil {
		c.t.Errorf("proa clean: %v\n%s", err, out)
	}
	for _, left := range c.left() {
		c.t.Errorf("proa clean left %s", left)
	}
}

// left is everything of the cluster that is still on the machine.
func (c *cluster) left() (out []string) {
	if _, err := os.Stat(c.root); err == nil {
		out = append(out, "the folder "+c.root)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts") // it is always there
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, c.root+"/") {
			out = append(out, "the mount "+line)
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + c.p.Cgroup()) // the pattern is good
	if g := "/sys/fs/cgroup/" + c.p.Cgroup(); exists(g) {
		groups = append(groups, g)
	}
	for _, g := range groups {
		out = append(out, "the cgroup "+g)
	}
	for pid, args := range processes() {
		if strings.Contains(args, c.root+"/") {
			out = append(out, fmt.Sprintf("process %d: %s", pid, args))
		}
	}
	nl := at(c.t, c.ns)
	defer nl.Close()
	links, err := nl.LinkList()
	if err != nil {
		c.t.Error(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, c.p.Device()) {
			out = append(out, "the interface "+l.Attrs().Name)
		}
	}
	nft, err := nftables.New(nftables.WithNetNSFd(c.ns.Fd()))
	if err != nil {
		c.t.Error(err)
		return out
	}
	tables, err := nft.ListTables()
	if err != nil {
		c.t.Error(err)
	}
	for _, x := range tables {
		if strings.HasPrefix(x.Name, c.p.Table()) {
			out = append(out, "the table "+x.Name)
		}
	}
	return out
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// processes maps the machine's process ids to their command lines.
func processes() map[int]string {
	out := map[int]string{}
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is good
	for _, d := range dirs {
		if args, err := os.ReadFile(d + "/cmdline"); err == nil && len(args) > 0 {
			pid, _ := strconv.Atoi(filepath.Base(d)) // it is one
			out[pid] = strings.ReplaceAll(string(args), "\x00", " ")
		}
	}
	return out
}

// get asks a URL from ns and returns status and body.
func get(ctx context.Context, cl *http.Client, url string) (int, string, error) {
	return do(ctx, cl, http.MethodGet, url, "")
}

func do(ctx context.Context, cl *http.Client, method, url, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	resp, err := cl.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// answers asks until the status is 2xx and the body holds want.
func answers(t *testing.T, cl *http.Client, method, url, body, want string) string {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		code, got, err := do(t.Context(), cl, method, url, body)
		if err == nil && code/100 == 2 && strings.Contains(got, want) {
			return got
		}
		if time.Now().After(end) {
			t.Fatalf("%s %s: %d %.400q %v, want %q", method, url, code, got, err, want)
		}
	}
}

// gone waits until proa has ended.
func (c *cluster) gone() {
	c.t.Helper()
	for end := time.Now().Add(20 * time.Second); c.pid() != 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatal("proa does not end")
		}
	}
}
