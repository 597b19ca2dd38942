package validate_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"proa/internal/kinds/validate"
)

// TestScanners compares the scanners with the library that they stand for, on
// texts of the characters that matter, of lengths around the limits.
func TestScanners(t *testing.T) {
	pairs := []struct {
		name string
		scan func(string) bool
		ref  func(string) []string
	}{
		{"label", validate.IsLabel, validation.IsDNS1123Label},
		{"subdomain", validate.IsSubdomain, validation.IsDNS1123Subdomain},
		{"label key", validate.IsLabelKey, validation.IsQualifiedName},
		{"label value", validate.IsLabelValue, validation.IsValidLabelValue},
		{"config key", validate.IsConfigKey, validation.IsConfigMapKey},
		{"port name", validate.IsPortName, validation.IsValidPortName},
		{"header name", validate.IsHeaderName, validation.IsHTTPHeaderName},
	}
	check := func(s string) {
		for _, p := range pairs {
			if msgs := p.ref(s); p.scan(s) != (len(msgs) == 0) {
				t.Errorf("%s %q: have %t, the library says %v", p.name, s, p.scan(s), msgs)
			}
		}
	}
	for _, s := range []string{"", "a", "-", ".", "..", "...", "a.", ".a", "a..b", "a-.b", "a.-b", "a/b", "/a", "a/", "a/b/c", "A", "aA", "a_b", "a b", "a\n", "ä",
		"1", "1-1", "1-a", "a--b", "x.y/z", "x.Y/z", "x.y/Z_1", "..a", "a=b"} {
		check(s)
	}
	for _, n := range []int{14, 15, 16, 62, 63, 64, 252, 253, 254} {
		check(strings.Repeat("a", n))
		check(strings.Repeat("a", n) + "/b")
		check("b/" + strings.Repeat("a", n))
		check(strings.Repeat("a.", n/2))
		check(strings.Repeat("a.", n/2) + "b")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	const alphabet = "aabz019AZ-_./ \n=é"
	for range 20_000 {
		b := make([]byte, r.IntN(12))
		for i := range b {
			b[i] = alphabet[r.IntN(len(alphabet))]
		}
		check(string(b))
	}
}
