package overlay

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

func noFill(*Lease) {}

func TestLeasesSurviveAndAreNeverDoubled(t *testing.T) {
	dir := t.TempDir()
	rng := netip.MustParsePrefix("10.42.3.0/29") // .1 is the gateway, .7 the broadcast address: 5 to give
	given := map[netip.Addr]string{}
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		l, err := openLeases(dir, rng) // a new process every time
		if err != nil {
			t.Fatal(err)
		}
		lease, err := l.take(id, "eth0", noFill)
		if err != nil {
			t.Fatal(err)
		}
		if other := given[lease.Address]; other != "" {
			t.Fatalf("%s was given to %s and %s", lease.Address, other, id)
		}
		given[lease.Address] = id
		again, err := l.take(id, "eth0", noFill)
		if err != nil || again.Address != lease.Address {
			t.Fatalf("asked again: %v, %v", again, err)
		}
		l.close() // as the kernel does at kill -9
	}
	l, err := openLeases(dir, rng)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if _, err := l.take("f", "eth0", noFill); !errors.Is(err, errRangeFull) {
		t.Fatalf("a full range gave: %v", err)
	}
	if err := l.release(l.get("b", "eth0")); err != nil {
		t.Fatal(err)
	}
	lease, err := l.take("f", "eth0", noFill)
	if err != nil || given[lease.Address] != "b" {
		t.Fatalf("after a release: %v, %v", lease, err)
	}
}

func TestLeasesRest(t *testing.T) {
	l, err := openLeases(t.TempDir(), netip.MustParsePrefix("10.42.3.0/28"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	seen := map[netip.Addr]int{}
	for i := range 26 { // 13 usable addresses, twice round
		lease, err := l.take("a", "eth0", noFill)
		if err != nil {
			t.Fatal(err)
		}
		if last, ok := seen[lease.Address]; ok && i-last < 13 {
			t.Fatalf("%s was given again after %d others", lease.Address, i-last)
		}
		seen[lease.Address] = i
		if err := l.release(lease); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTornLeaseStaysTaken(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "10.42.3.2"), []byte(`{"sand`), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := openLeases(dir, netip.MustParsePrefix("10.42.3.0/24"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	lease, err := l.take("a", "eth0", noFill)
	if err != nil || lease.Address == netip.MustParseAddr("10.42.3.2") {
		t.Fatalf("%v, %v", lease, err)
	}
}

func TestSecondHolderIsRefused(t *testing.T) {
	dir := t.TempDir()
	rng := netip.MustParsePrefix("10.42.3.0/24")
	l, err := openLeases(dir, rng)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if _, err := openLeases(dir, rng); err == nil {
		t.Fatal("two holders of one lease folder")
	}
}
