package registry

import (
	"fmt"
	"os"
	"path/filepath"

	"proa/internal/host"
)

// WriteHosts makes certsDir (containerd's registry config_path) such that
// containerd asks the registry at addr, HOST:PORT, first for every image, and
// the image's own registry when it is not there or does not answer. Folders of
// single registries that lie in certsDir win over this one.
func WriteHosts(certsDir, addr string) error {
	dir := filepath.Join(certsDir, "_default")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write the registry mirror: %w", err)
	}
	text := fmt.Sprintf("# Written by proa at every start.\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", "http://"+addr)
	path := filepath.Join(dir, "hosts.toml")
	if err := host.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write the registry mirror: %w", err)
	}
	return nil
}
