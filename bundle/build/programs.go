package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A program is one executable of the bundle.
type program struct {
	Name    string
	Package string              // import path; of this module when it begins with ./
	Module  string              // whose pinned version is the program's; "" for ours
	Core    bool                // built in the main module, skipped while its folder does not exist
	C       string              // or one C source file, built without a C library
	Cgo     bool                // needs gcc and libseccomp's static library
	Tags    string              // build tags
	Link    func(string) string // more linker flags, given the version without its v
}

const containerd = "github.com/containerd/containerd/v2"

// containerdTags leave out snapshotters for other file systems, tracing
// exporters and WebAssembly plugins: 6 MB that no node of ours uses.
const containerdTags = "no_btrfs,no_zfs,no_devmapper,no_tracing,nri_no_wasm,urfave_cli_no_docs,grpcnotrace,osusergo,netgo,static_build"

// programs is what travels inside proa.
var programs = []program{
	{Name: "pause", C: "pause/pause.c"},
	{Name: "runc", Package: "github.com/opencontainers/runc", Module: "github.com/opencontainers/runc",
		Cgo: true, Tags: "seccomp,netgo,osusergo,urfave_cli_no_docs",
		Link: func(string) string { return "-extldflags -static" }},
	{Name: "containerd-shim-runc-v2", Package: containerd + "/cmd/containerd-shim-runc-v2", Module: containerd,
		Tags: containerdTags + ",no_grpc", Link: containerdVersion},
	{Name: "containerd", Package: containerd + "/cmd/containerd", Module: containerd,
		Tags: containerdTags, Link: containerdVersion},
	{Name: "kubectl", Package: "./kubectl", Module: "k8s.io/kubectl", Tags: "grpcnotrace", Link: kubectlVersion},
	{Name: "proa-cni", Package: "./cmd/proa-cni", Core: true},
}

func containerdVersion(v string) string {
	return "-X " + containerd + "/version.Version=" + v
}

// kubectlVersion gives the version as Kubernetes counts it: module v0.37.2 is
// Kubernetes v1.37.2.
func kubectlVersion(v string) string {
	_, rest, _ := strings.Cut(v, ".")
	minor, _, _ := strings.Cut(rest, ".")
	const at = "-X k8s.io/component-base/version."
	const agent = "-X k8s.io/client-go/pkg/version." // of which the User-Agent header is made
	return agent + "gitVersion=v1." + rest + " " + agent + "gitCommit= " + at + "gitVersion=v1." + rest + " " + at + "gitMajor=1 " + at + "gitMinor=" + minor +
		" " + at + "gitCommit= " + at + "gitTreeState=clean"
}

type builder struct {
	ctx  context.Context
	core string // folder of the main module
	dir  string // the bundle's contents
}

// sweep removes programs that an earlier build made and the list no longer has.
func (b *builder) sweep() error {
	built, err := filepath.Glob(filepath.Join(b.dir, "bin", "*"))
	if err != nil {
		return err
	}
	for _, path := range built {
		known := func(p program) bool { return p.Name == filepath.Base(path) }
		if slices.ContainsFunc(programs, known) {
			continue
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// program builds p and says its version.
func (b *builder) program(p program) (string, error) {
	to := filepath.Join(b.dir, "bin", p.Name)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return "", err
	}
	if p.C != "" {
		return "ours", b.compileC(p.C, to)
	}
	in, version := ".", "ours"
	if p.Core {
		in = b.core
		if _, err := os.Stat(filepath.Join(in, p.Package)); errors.Is(err, fs.ErrNotExist) {
			return "not there yet: skipped", nil
		}
	}
	link := "-s -w"
	if p.Module != "" {
		v, err := b.run(in, nil, "go", "list", "-m", "-f", "{{.Version}}", p.Module)
		if err != nil {
			return "", err
		}
		version = strings.TrimPrefix(strings.TrimSpace(v), "v")
	}
	if p.Link != nil {
		link += " " + p.Link(version)
	}
	env := []string{"CGO_ENABLED=0"}
	if p.Cgo {
		env = []string{"CGO_ENABLED=1"}
	}
	_, err := b.run(in, env, "go", "build", "-trimpath", "-buildvcs=false", "-tags", p.Tags, "-ldflags", link, "-o", to, p.Package)
	return version, err
}

// compileC builds a program that uses no C library: a few hundred bytes.
func (b *builder) compileC(source, to string) error {
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "gcc"
	}
	_, err := b.run(".", nil, cc, "-Os", "-Wall", "-Wextra", "-Werror", "-static", "-nostdlib", "-nostartfiles",
		"-ffreestanding", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-pie", "-no-pie",
		"-Wl,--build-id=none,-z,noseparate-code,-z,norelro,-z,noexecstack,-s", "-o", to, source)
	return err
}

// run runs a command in a folder and returns what it printed on its standard
// output; an error carries what it printed on the other.
func (b *builder) run(dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(b.ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, complaint.String())
	}
	return string(out), nil
}
