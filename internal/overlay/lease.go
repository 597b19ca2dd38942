package overlay

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// A Lease is an address given to an interface of a sandbox. It lives in a file
// named after the address, and ends when that file is removed.
type Lease struct {
	Address  netip.Addr `json:"address"`
	Sandbox  string     `json:"sandbox"`
	IfName   string     `json:"ifName"`
	Netns    string     `json:"netns,omitempty"`
	HostLink string     `json:"hostLink,omitempty"`
	Pod      string     `json:"pod,omitempty"` // namespace/name, if the runtime said
	Ports    []HostPort `json:"ports,omitempty"`

	born time.Time // zero if it was there when this process began
}

// A HostPort is a port of the node that leads to a pod.
type HostPort struct {
	HostIP        string `json:"hostIP,omitempty"` // empty: every address of the node
	HostPort      int32  `json:"hostPort"`
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol"` // "tcp", "udp" or "sctp"
}

type leaseKey struct{ sandbox, ifName string }

// leases hands out the addresses of one range. The folder is the truth: a lease
// is on disk before its address is returned, so the same address is never given
// twice, whenever the process ends. Addresses are given in turn, so that one
// that was just released rests for as long as possible.
type leases struct {
	dir   string
	lock  *os.File
	rng   netip.Prefix
	first netip.Addr // first address that may be given

	mu   sync.Mutex
	next netip.Addr
	byIP map[netip.Addr]*Lease
	byID map[leaseKey]*Lease
}

const cursorFile = "last"

// openLeases reads the leases in dir and locks the folder for this process.
func openLeases(dir string, rng netip.Prefix) (*leases, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("addresses in %s: another process holds them: %w", dir, err)
	}
	rng = rng.Masked()
	l := &leases{dir: dir, lock: lock, rng: rng, byIP: map[netip.Addr]*Lease{}, byID: map[leaseKey]*Lease{}}
	l.first = gatewayOf(rng).Next()
	l.next = l.first
	if err := l.load(); err != nil {
		lock.Close()
		return nil, err
	}
	return l, nil
}

// gatewayOf is the node's own address in its pod range: the first usable one.
func gatewayOf(rng netip.Prefix) netip.Addr { return rng.Masked().Addr().Next() }

func (l *leases) load() error {
	files, err := os.ReadDir(l.dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		ip, err := netip.ParseAddr(f.Name())
		if err != nil {
			continue // lock, cursor, an unfinished write
		}
		body, err := os.ReadFile(filepath.Join(l.dir, f.Name()))
		if err != nil {
			return err
		}
		lease := &Lease{}
		if err := json.Unmarshal(body, lease); err != nil {
			// Torn by a power cut. The address stays taken until the live sandboxes are known.
			lease = &Lease{Sandbox: "unreadable-" + f.Name()}
		}
		lease.Address = ip
		l.byIP[ip] = lease
		l.byID[leaseKey{lease.Sandbox, lease.IfName}] = lease
	}
	if body, err := os.ReadFile(filepath.Join(l.dir, cursorFile)); err == nil {
		if ip, err := netip.ParseAddr(string(body)); err == nil && l.rng.Contains(ip) {
			l.next = ip.Next()
		}
	}
	return nil
}

func (l *leases) close() { l.lock.Close() }

var errRangeFull = errors.New("no address is free")

// take returns the lease of the sandbox's interface, a new one if it has none;
// fill completes a new one before it is written.
func (l *leases) take(sandbox, ifName string, fill func(*Lease)) (*Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old := l.byID[leaseKey{sandbox, ifName}]; old != nil {
		lease := *old
		fill(&lease)
		return &lease, l.put(&lease)
	}
	ip, err := l.free()
	if err != nil {
		return nil, err
	}
	lease := &Lease{Address: ip, Sandbox: sandbox, IfName: ifName, born: time.Now()}
	fill(lease)
	if err := l.put(lease); err != nil {
		return nil, err
	}
	l.next = ip.Next()
	_ = l.write(cursorFile, []byte(ip.String())) // a hint: without it addresses rest for a shorter time
	return lease, nil
}

func (l *leases) free() (netip.Addr, error) {
	ip := l.next
	for wrapped := false; ; ip = ip.Next() {
		if !l.usable(ip) {
			if wrapped {
				return netip.Addr{}, fmt.Errorf("%w in %s: %d given", errRangeFull, l.rng, len(l.byIP))
			}
			wrapped, ip = true, l.first
			if !l.usable(ip) {
				return netip.Addr{}, fmt.Errorf("%w in %s: the range is too small", errRangeFull, l.rng)
			}
		}
		if l.byIP[ip] == nil {
			return ip, nil
		}
	}
}

// usable leaves out the last address of an IPv4 range, which is its broadcast address.
func (l *leases) usable(ip netip.Addr) bool {
	if !ip.IsValid() || !l.rng.Contains(ip) {
		return false
	}
	return !ip.Is4() || l.rng.Contains(ip.Next())
}

func (l *leases) put(lease *Lease) error {
	body, err := json.Marshal(lease)
	if err != nil {
		return err
	}
	if err := l.write(lease.Address.String(), body); err != nil {
		return fmt.Errorf("keep the lease of %s: %w", lease.Address, err)
	}
	l.byIP[lease.Address] = lease
	l.byID[leaseKey{lease.Sandbox, lease.IfName}] = lease
	return nil
}

func (l *leases) write(name string, body []byte) error {
	tmp := filepath.Join(l.dir, "."+name)
	if err := os.WriteFile(tmp, body, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(l.dir, name))
}

// get returns the lease of the sandbox's interface, nil if it has none.
func (l *leases) get(sandbox, ifName string) *Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byID[leaseKey{sandbox, ifName}]
}

// all returns every lease.
func (l *leases) all() []*Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]*Lease, 0, len(l.byIP))
	for _, lease := range l.byIP {
		out = append(out, lease)
	}
	return out
}

// release ends a lease. It is no error if it ended already.
func (l *leases) release(lease *Lease) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.byIP[lease.Address]
	if now == nil || now.Sandbox != lease.Sandbox || now.IfName != lease.IfName {
		return nil
	}
	if err := os.Remove(filepath.Join(l.dir, lease.Address.String())); err != nil && !os.IsNotExist(err) {
		return err
	}
	delete(l.byIP, lease.Address)
	delete(l.byID, leaseKey{lease.Sandbox, lease.IfName})
	return nil
}
