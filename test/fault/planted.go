package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"proa/internal/store/planted"
)

// tries is how often the tests of a bug are run until they catch it: some depend
// on which goroutine comes first.
const tries = 3

// A catcher runs tests that are built with the planted bugs.
type catcher struct {
	root string // of the repository
	dir  string // for what it builds
	bins map[string]string
}

func newCatcher(root string) (*catcher, error) {
	dir, err := os.MkdirTemp("", "proa-planted-")
	return &catcher{root: root, dir: dir, bins: map[string]string{}}, err
}

func (c *catcher) close() { os.RemoveAll(c.dir) }

// build makes the test program of a package.
func (c *catcher) build(ctx context.Context, pkg string) (string, error) {
	if bin := c.bins[pkg]; bin != "" {
		return bin, nil
	}
	bin := filepath.Join(c.dir, strings.ReplaceAll(pkg, "/", "-")+".test")
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "planted", "-ldflags", "-s -w", "-o", bin, "./internal/"+pkg)
	cmd.Dir = c.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the tests of %s: %w\n%s", pkg, err, out)
	}
	c.bins[pkg] = bin
	return bin, nil
}

// run runs tests of a package with a bug, or none if its name is empty. It says
// whether they failed.
func (c *catcher) run(ctx context.Context, pkg, tests, bug string) (failed bool, out []byte, err error) {
	bin, err := c.build(ctx, pkg)
	if err != nil {
		return false, nil, err
	}
	cmd := exec.CommandContext(ctx, bin, "-test.run", tests, "-test.failfast", "-test.timeout", "120s")
	cmd.Dir = filepath.Join(c.root, "internal", pkg)
	cmd.Env = append(os.Environ(), planted.Variable+"="+bug)
	out, err = cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case bytes.Contains(out, []byte("no tests to run")):
		return false, out, fmt.Errorf("%s has no tests %s", pkg, tests)
	case err == nil:
		return false, out, nil
	case errors.As(err, &exit) && ctx.Err() == nil:
		return true, out, nil
	}
	return false, out, errors.Join(err, ctx.Err())
}

// catch says whether the tests named for a bug catch it.
func (c *catcher) catch(ctx context.Context, b planted.Bug) (bool, error) {
	for range tries {
		failed, _, err := c.run(ctx, testsOf(b), b.Tests, b.Name)
		if failed || err != nil {
			return failed, err
		}
	}
	return false, nil
}

// testsOf is the package whose tests catch a bug.
func testsOf(b planted.Bug) string {
	if b.Of != "" {
		return b.Of
	}
	return b.In
}

// control runs the tests of all bugs without any: they must pass.
func (c *catcher) control(ctx context.Context, bugs []planted.Bug) error {
	patterns := map[string][]string{}
	for _, b := range bugs {
		patterns[testsOf(b)] = append(patterns[testsOf(b)], b.Tests)
	}
	for pkg, all := range patterns {
		// The slashes of patterns name parts of tests, which are not to be mixed.
		for _, p := range all {
			failed, out, err := c.run(ctx, pkg, p, "")
			if err != nil {
				return err
			}
			if failed {
				return fmt.Errorf("%s %s fails without a planted bug:\n%s", pkg, p, out)
			}
		}
	}
	return nil
}

// catchAll returns how many of the bugs are caught, and says which are not.
func (c *catcher) catchAll(ctx context.Context, bugs []planted.Bug, say func(format string, args ...any)) (int, error) {
	caught := 0
	for _, b := range bugs {
		began := time.Now()
		ok, err := c.catch(ctx, b)
		if err != nil {
			return caught, fmt.Errorf("%s: %w", b.Name, err)
		}
		verdict := "NOT CAUGHT"
		if ok {
			caught++
			verdict = "caught"
		}
		say("planted: %-32s %-10s %5.1fs  %s", b.Name, verdict, time.Since(began).Seconds(), b.What)
	}
	return caught, nil
}
