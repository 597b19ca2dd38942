package house

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestBinary builds the core for both architectures the way the Makefile does
// and checks its size, that no template package is linked, and that it is static.
func TestBinary(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: builds the binary; run without -short")
	}
	if _, err := os.Stat(filepath.Join(root, "cmd/proa")); err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			if arch == "arm64" && os.Getenv("PROA_HOUSE_ARM64") == "" {
				t.Skip("SKIPPED: set PROA_HOUSE_ARM64=1 to build for arm64 too, as make check does")
			}
			bin := filepath.Join(t.TempDir(), "proa")
			cmd := exec.Command("go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", bin, "./cmd/proa")
			cmd.Dir = root
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			b, err := os.ReadFile(bin)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: %.1f MB", arch, float64(len(b))/1e6)
			if len(b) > MaxBinary {
				t.Errorf("the core binary has %d bytes, more than %d", len(b), MaxBinary)
			}
			for _, p := range []string{"text/template.(*Template)", "html/template.(*Template)"} {
				if bytes.Contains(b, []byte(p)) {
					t.Errorf("%s is linked: see go list -deps ./cmd/proa", p)
				}
			}
		})
	}
}
