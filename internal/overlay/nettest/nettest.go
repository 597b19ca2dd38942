// Package nettest gives kernel tests of the network their own network
// namespaces, with no way out. A test package calls [Main] from its TestMain,
// and [Need] at the head of every test that touches the kernel.
package nettest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const inside = "PROA_NETTEST_INSIDE"

// Main runs the tests of a package in a network namespace made for them, if
// this is root; otherwise the tests that need one skip. It does not return.
func Main(m *testing.M) {
	if os.Getenv(inside) != "" || os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the death signal follows the thread
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	}
	fmt.Fprintln(os.Stderr, "nettest: no network namespace to be had, kernel tests are skipped:", err)
	os.Exit(m.Run())
}

// Need skips the test, loudly, unless it runs in a namespace made by [Main].
func Need(t testing.TB) {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skip("needs root: this test makes network namespaces")
	}
}

// A NS is a network namespace that lives as long as the test.
type NS struct {
	file *os.File
}

// New makes a network namespace.
func New(t testing.TB) *NS {
	t.Helper()
	type made struct {
		f   *os.File
		err error
	}
	ch := make(chan made)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ch <- made{err: err}
			return
		}
		f, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		ch <- made{f, err}
	}()
	m := <-ch
	if m.err != nil {
		t.Fatalf("make a network namespace: %v", m.err)
	}
	t.Cleanup(func() { m.f.Close() })
	return &NS{m.f}
}

// Path names the namespace for other programs while the test runs.
func (n *NS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// Fd is the namespace as an open file, valid while the test runs.
func (n *NS) Fd() int { return int(n.file.Fd()) }

// Do calls f on a thread that is in the namespace. Sockets that f opens stay in it.
func (n *NS) Do(f func() error) error {
	ch := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			ch <- err
			return
		}
		ch <- f()
	}()
	return <-ch
}

// Dial connects from inside the namespace.
func (n *NS) Dial(network, addr string, timeout time.Duration) (c net.Conn, err error) {
	e := n.Do(func() error {
		c, err = net.DialTimeout(network, addr, timeout)
		return nil
	})
	return c, errors.Join(err, e)
}

// Echo answers everything that arrives at a TCP or UDP address inside the
// namespace with name and the address that it came from, "name 10.0.0.1".
func (n *NS) Echo(t testing.TB, network, addr, name string) {
	t.Helper()
	err := n.Do(func() error {
		if network == "udp" {
			return echoUDP(t, addr, name)
		}
		l, err := net.Listen(network, addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					buf := make([]byte, 512)
					for {
						if _, err := c.Read(buf); err != nil {
							return
						}
						fmt.Fprintf(c, "%s %s", name, hostOf(c.RemoteAddr()))
					}
				}()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatalf("echo on %s %s: %v", network, addr, err)
	}
}

func echoUDP(t testing.TB, addr, name string) error {
	p, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	t.Cleanup(func() { p.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			_, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo(fmt.Appendf(nil, "%s %s", name, hostOf(from)), from)
		}
	}()
	return nil
}

func hostOf(a net.Addr) string {
	h, _, _ := net.SplitHostPort(a.String())
	return h
}

// Ask connects from inside the namespace, says something and returns the answer.
func (n *NS) Ask(network, addr string, timeout time.Duration) (string, error) {
	c, err := n.Dial(network, addr, timeout)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return Say(c, timeout)
}

// Say sends a word on c and returns the answer.
func Say(c net.Conn, timeout time.Duration) (string, error) {
	_ = c.SetDeadline(time.Now().Add(timeout))
	if _, err := c.Write([]byte("hello")); err != nil {
		return "", err
	}
	buf := make([]byte, 512)
	k, err := c.Read(buf)
	return string(buf[:k]), err
}

// Here returns the namespace that the test process itself is in.
func Here(t testing.TB) *NS {
	t.Helper()
	// Not /proc/self: the first thread may have been taken into another namespace for good.
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &NS{f}
}
