package registry

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
)

func TestFindOwner(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:1388 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
   2: 0100007F:9C40 0100007F:1388 01 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 20 4 30 10 -1
   3: 00000000000000000000000001000000:9C41 00000000000000000000000001000000:1388 01 00000000:00000000 00:00000000 00000000  1001        0 4 1
   4: 0000000000000000FFFF00000100007F:9C42 0000000000000000FFFF00000100007F:1388 01 00000000:00000000 00:00000000 00000000  1002        0 4 1
`
	for _, c := range []struct {
		from, to string
		want     int
	}{
		{"127.0.0.1:40000", "127.0.0.1:5000", 1000},
		{"[::1]:40001", "[::1]:5000", 1001},
		{"127.0.0.1:40002", "127.0.0.1:5000", 1002},
		{"127.0.0.1:40003", "127.0.0.1:5000", -1},
		{"127.0.0.1:40000", "127.0.0.1:5001", -1},
	} {
		uid, ok := findOwner([]byte(table), netip.MustParseAddrPort(c.from), netip.MustParseAddrPort(c.to))
		if !ok {
			uid = -1
		}
		if uid != c.want {
			t.Errorf("%s to %s: %d, want %d", c.from, c.to, uid, c.want)
		}
	}
}

func TestOwnerOfARealConnection(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Logf("no %s here: %v", addr, err)
			continue
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		uid, err := owner(netip.MustParseAddrPort(c.LocalAddr().String()), netip.MustParseAddrPort(l.Addr().String()))
		if err != nil || uid != os.Getuid() {
			t.Errorf("%s: %d, %v; want %d", addr, uid, err, os.Getuid())
		}
	}
}

// Another user than root and the registry's may pull, and nothing else.
func TestOtherUsersMayNotPush(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: becomes another user")
	}
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("needs curl to ask as another user")
	}
	s := httptest.NewServer(open(t, t.TempDir()))
	defer s.Close()
	for method, want := range map[string]int{"GET": http.StatusOK, "POST": http.StatusForbidden} {
		path := map[string]string{"GET": "/v2/", "POST": "/v2/a/blobs/uploads/"}[method]
		cmd := exec.Command("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", method, s.URL+path)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.Output()
		if err != nil || string(out) != strconv.Itoa(want) {
			t.Errorf("%s by another user: %s, %v; want %d", method, out, err, want)
		}
	}
}
