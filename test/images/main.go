// Command images builds the images of the examples and the tests into OCI
// archives, without a registry: from static Go programs of this repository and
// from Debian packages. The archives are a function of their inputs, and are
// left alone when those have not changed; the packages are fetched once.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"
)

// An imageSpec is one archive, FILE.tar.
type imageSpec struct {
	File    string
	Name    string
	Program string            // Go package, built static
	At      string            // where it goes
	Link    string            // more linker flags
	Also    []string          // other names of the program, as links
	Debian  *debian           // what comes from packages
	Files   map[string]string // small text files
	User    string
	Env     []string
	Command []string // Entrypoint of the image
}

var searchPath = "PATH=/usr/local/bin:/usr/bin:/bin"

// passwd has the users that programs here expect to have names.
var passwd = map[string]string{
	"etc/passwd":        "root:x:0:0:root:/:/bin/sh\nredis:x:999:999:redis:/data:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n",
	"etc/group":         "root:x:0:\nredis:x:999:\nnogroup:x:65534:\n",
	"etc/nsswitch.conf": "hosts: files dns\n",
}

const frontend = "./examples/guestbook/frontend"

// images is what is built.
var images = []imageSpec{
	{File: "proa-test-1", Name: "proa-test:1", Program: "./test/images/prog", At: "bin/proa-test",
		Also: []string{"bin/fetch", "bin/lookup"}, Debian: &busybox, Files: passwd, Env: []string{searchPath}, Command: []string{"/bin/proa-test"}},
	{File: "guestbook-frontend-v1", Name: "guestbook-frontend:v1", Program: frontend, At: "bin/frontend",
		Link: "-X main.version=v1", Files: passwd, User: "65534:65534", Env: []string{searchPath}, Command: []string{"/bin/frontend"}},
	{File: "guestbook-frontend-v2", Name: "guestbook-frontend:v2", Program: frontend, At: "bin/frontend",
		Link: "-X main.version=v2", Files: passwd, User: "65534:65534", Env: []string{searchPath}, Command: []string{"/bin/frontend"}},
	{File: "redis-debian", Name: "redis:debian", Debian: &redis, Files: passwd, User: "999:999", Env: []string{searchPath},
		Command: []string{"/usr/bin/redis-server"}},
}

func main() {
	out := flag.String("o", "build/images", "folder for the archives")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	for _, spec := range images {
		start := time.Now()
		fmt.Printf("images: %-24s ", spec.Name)
		note, err := build(ctx, spec, *out)
		if err != nil {
			fmt.Fprintf(os.Stderr, "\nimages: %s: %v\n", spec.Name, err)
			os.Exit(1)
		}
		fmt.Printf("%-34s %6.1fs\n", note, time.Since(start).Seconds())
	}
}

// build makes one archive and says what came of it.
func build(ctx context.Context, spec imageSpec, out string) (string, error) {
	var layers []*layer
	if spec.Debian != nil {
		l, err := spec.Debian.layer(ctx, filepath.Join(out, "debs"))
		if err != nil {
			return "", err
		}
		layers = append(layers, l)
	}
	own := newLayer()
	for name, text := range spec.Files {
		own.file(name, 0o644, []byte(text))
	}
	own.folder("tmp", 0o1777)
	own.folder("data", 0o1777)
	if spec.Program != "" {
		body, err := program(ctx, spec, out)
		if err != nil {
			return "", err
		}
		own.file(spec.At, 0o755, body)
		for _, name := range spec.Also {
			own.link(name, "/"+spec.At)
		}
	}
	return write(spec, append(layers, own), filepath.Join(out, spec.File+".tar"))
}

// program builds a static Go program and returns it.
func program(ctx context.Context, spec imageSpec, out string) ([]byte, error) {
	to, err := filepath.Abs(filepath.Join(out, "bin", spec.File))
	if err != nil {
		return nil, err
	}
	_, err = run(ctx, "", "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w "+spec.Link, "-o", to, spec.Program)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(to)
}

// run returns what a command prints; its error carries what it complains of.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, complaint.String())
	}
	return out, nil
}
