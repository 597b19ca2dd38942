package registry

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// mayPush decides who may change what is here: root, and the user that this
// process runs as. Reading is for everybody. Pods run what a name stands for,
// so a name that any user of the machine could move would hand them the node.
//
// The user is the one that the kernel says owns the other end of the
// connection, which exists on loopback alone.
func mayPush(req *http.Request) error {
	local, ok := req.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return errors.New("the connection has no local address")
	}
	here, err := netip.ParseAddrPort(local.String())
	if err != nil {
		return err
	}
	there, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return err
	}
	uid, err := owner(there, here)
	if err != nil {
		return err
	}
	if uid != 0 && uid != os.Geteuid() {
		return fmt.Errorf("user %d may read here, only root may push", uid)
	}
	return nil
}

// owner finds the user of the socket that is connected from one address to
// another, in the kernel's table of connections.
func owner(from, to netip.AddrPort) (uid int, err error) {
	from, to = unmap(from), unmap(to)
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		body, err := os.ReadFile(table)
		if absent(err) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return 0, err
		}
		if uid, ok := findOwner(body, from, to); ok {
			return uid, nil
		}
	}
	return 0, fmt.Errorf("the connection from %s is not of this machine", from)
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// findOwner reads the format of proc_pid_net(5): after a heading, lines of
// number, local address, remote address, state, queues, timer, retransmits, uid.
func findOwner(table []byte, from, to netip.AddrPort) (uid int, ok bool) {
	for lines := bufio.NewScanner(bytes.NewReader(table)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 8 {
			continue
		}
		local, err := procAddr(f[1])
		if err != nil || local != from {
			continue
		}
		remote, err := procAddr(f[2])
		if err != nil || remote != to {
			continue
		}
		uid, err := strconv.Atoi(f[7])
		return uid, err == nil
	}
	return 0, false
}

// procAddr reads 0100007F:1F90: words in the machine's byte order (little
// endian on every machine that this is built for), then the port.
func procAddr(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for i := 0; i+4 <= len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	addr, ok := netip.AddrFromSlice(raw)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("address %q", s)
	}
	n, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), err
}
