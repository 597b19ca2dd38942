// Package bundle is the programs that travel inside proa: containerd, its shim,
// runc, pause, kubectl and the network plugin, as one compressed archive.
//
// They are there in a proa built with -tags bundle (`make build`). Without the
// tag everything here works and Present is false.
//
// A bundle is unpacked once per content into DIR/bundle/HASH/, by a child
// process, whose 128 MB of decompression window end with it:
//
//	bin/       the programs
//	images/    pause.tar, the sandbox image, to be loaded into the registry
//	licences/  of everything that the programs and proa are made of
package bundle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Command is the hidden first argument with which proa runs itself to unpack:
// `proa unpack-bundle DIR` must call UnpackHere(DIR).
const Command = "unpack-bundle"

// SandboxImage is the name of the image in images/pause.tar. Its host does not
// exist: it is served by proa's own registry alone.
const SandboxImage = "proa.local/pause:1"

// ErrAbsent is returned by Unpack and UnpackHere in a proa that was built
// without its bundle.
var ErrAbsent = errors.New("this proa was built without its bundle of programs (make build makes one that has it)")

// Present says whether this program was built with the bundle inside.
func Present() bool { return len(hash()) > 0 }

// Version is the hash of the bundle's content, "" without one.
func Version() string { return hash() }

// Unpack makes sure that the bundle lies unpacked below dir and returns the
// folder of its programs. The work is done by a child process running this
// same executable; when this content was unpacked before, nothing is run.
//
// The result is whole or absent whatever happens meanwhile. Two calls at once
// are fine. Errors: ErrAbsent; what the child complained of.
func Unpack(ctx context.Context, dir string) (binDir string, err error) {
	if !Present() {
		return "", ErrAbsent
	}
	if home := home(dir); whole(home) {
		return filepath.Join(home, "bin"), nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("unpack the bundle: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, Command, dir)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("unpack the bundle into %s: %w: %s", dir, err, strings.TrimSpace(complaint.String()))
	}
	if !whole(home(dir)) {
		return "", fmt.Errorf("unpack the bundle into %s: the child process ended well but left nothing", dir)
	}
	return filepath.Join(home(dir), "bin"), nil
}

// UnpackHere unpacks the bundle below dir in this process.
func UnpackHere(dir string) error {
	if !Present() {
		return ErrAbsent
	}
	home := home(dir)
	if whole(home) {
		return nil
	}
	archive, err := open()
	if err != nil {
		return err
	}
	defer archive.Close()
	return unpack(archive, hash(), home)
}

// Images gives the image archives that came with the programs in binDir.
func Images(binDir string) ([]string, error) {
	return filepath.Glob(filepath.Join(filepath.Dir(binDir), "images", "*.tar"))
}

// Find looks for a program: in binDir, and in PATH where binDir is "" (a proa
// without a bundle, on a host that has the program). It returns fs.ErrNotExist
// when there is none.
func Find(binDir, name string) (string, error) {
	if binDir != "" {
		path := filepath.Join(binDir, name)
		_, err := os.Stat(path)
		return path, err
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s: %w in PATH, and this proa was built without its bundle", name, fs.ErrNotExist)
	}
	return path, nil
}

func home(dir string) string { return filepath.Join(dir, "bundle", hash()[:16]) }

// whole says whether an unpacked bundle is there. It gets its name only after
// everything in it is on disk.
func whole(home string) bool {
	info, err := os.Stat(filepath.Join(home, "bin"))
	return err == nil && info.IsDir()
}
