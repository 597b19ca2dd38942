// Package etcdtest runs a real etcd for a test, on loopback ports of its own and
// a folder that the test throws away, and lets the test kill, stop and start it.
package etcdtest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// limit is how long an etcd may take to start or to end, on a busy machine.
const limit = time.Minute

// T is what is needed of a test.
type T interface {
	Helper()
	TempDir() string
	Cleanup(func())
	Skip(...any)
	Fatal(...any)
	Fatalf(string, ...any)
	Error(...any)
}

// Find returns the etcd that tests run, or "": the program PROA_TEST_ETCD names, or
// etcd in the folder PROA_TEST_BIN.
func Find() string {
	bin := os.Getenv("PROA_TEST_ETCD")
	if bin == "" && os.Getenv("PROA_TEST_BIN") != "" {
		bin = filepath.Join(os.Getenv("PROA_TEST_BIN"), "etcd")
	}
	if _, err := os.Stat(bin); bin == "" || err != nil {
		return ""
	}
	return bin
}

// Binary is Find, and skips the test if there is none.
func Binary(t T) string {
	t.Helper()
	bin := Find()
	if bin == "" {
		t.Skip("SKIPPED: NOT TESTED ON ETCD: neither PROA_TEST_ETCD nor PROA_TEST_BIN leads to one; run it by `make test`")
	}
	return bin
}

// A Server is an etcd of one member.
type Server struct {
	Endpoint string // host:port for clients
	Dir      string // its data

	t       T
	bin     string
	name    string
	peer    string
	initial string // all members
	args    []string
	mu      sync.Mutex
	cmd     *exec.Cmd
	output  *bytes.Buffer
}

// Start runs an etcd until the test ends. It does not sync its disk: a process
// that is killed loses nothing by that. More arguments are etcd's own.
func Start(t T, args ...string) *Server {
	t.Helper()
	return StartMembers(t, 1, args...)[0]
}

// StartMembers runs an etcd of n members.
func StartMembers(t T, n int, args ...string) []*Server {
	t.Helper()
	bin := Binary(t)
	var all []*Server
	var initial []string
	for i := range n {
		s := &Server{t: t, bin: bin, name: fmt.Sprint("m", i), Dir: filepath.Join(t.TempDir(), fmt.Sprint("data", i)), args: args}
		s.Endpoint, s.peer = freePort(t), freePort(t)
		initial = append(initial, s.name+"=http://"+s.peer)
		all = append(all, s)
		t.Cleanup(s.Kill)
	}
	for _, s := range all {
		s.initial = strings.Join(initial, ",")
		s.launch()
	}
	for _, s := range all {
		s.await()
	}
	return all
}

// Run starts the etcd again, with the data it had, and waits until it answers.
func (s *Server) Run() {
	s.t.Helper()
	s.launch()
	s.await()
}

func (s *Server) launch() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		s.t.Fatal("etcd runs already")
	}
	s.output = &bytes.Buffer{}
	s.cmd = exec.Command(s.bin, append([]string{"--name=" + s.name, "--data-dir=" + s.Dir, "--log-level=warn", "--unsafe-no-fsync",
		"--heartbeat-interval=20", "--election-timeout=200",
		"--listen-client-urls=http://" + s.Endpoint, "--advertise-client-urls=http://" + s.Endpoint,
		"--listen-peer-urls=http://" + s.peer, "--initial-advertise-peer-urls=http://" + s.peer,
		"--initial-cluster=" + s.initial}, s.args...)...)
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
}

// await asks until etcd answers: its start is not ours to see.
func (s *Server) await() {
	s.t.Helper()
	for end := time.Now().Add(limit); ; {
		resp, err := http.Get("http://" + s.Endpoint + "/health")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(end) {
			s.Kill()
			s.t.Fatalf("etcd does not start: %v\n%s", err, s.output)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// Kill ends the etcd at once, as kill -9 does.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Pause stops the process, which goes on to hold its connections; Resume lets it
// go on.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Error(err)
	}
}

// PID is the process.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// freePort finds a port below those that the system gives to outgoing connections: one
// of them might take it before the etcd does, even that of the client which asks whether it is there.
func freePort(t T) string {
	t.Helper()
	const first, n = 15000, 17000
	var err error
	for range 100 {
		address := "127.0.0.1:" + strconv.Itoa(first+rand.IntN(n))
		var l net.Listener
		if l, err = net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal(err)
	return ""
}
