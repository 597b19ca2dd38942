// Command build makes the programs that travel inside proa, as bundle/go.mod
// pins them, and packs them into one tar under zstd:
//
//	OUT/bundle/bin/        the programs
//	OUT/bundle/images/     the sandbox image, an OCI archive
//	OUT/bundle/licences/   the licences of everything linked into them
//	OUT/bundle.tar.zst     all of that, and beside it its SHA-256
//
// The archive is a function of its inputs: fixed times, owners and order.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"
)

func main() {
	out := flag.String("o", "../build", "folder to build into")
	core := flag.String("core", "..", "folder of the main module, for the small programs of ours that live there")
	best := flag.Bool("best", false, "compress as well as possible: minutes, not a second")
	embed := flag.String("embed", "", "also put the archive and its hash into this folder, for go:embed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := build(ctx, *out, *core, *embed, *best); err != nil {
		fmt.Fprintln(os.Stderr, "bundle:", err)
		os.Exit(1)
	}
}

// build runs every step and says each one with the time that it took.
func build(ctx context.Context, out, core, embed string, best bool) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	b := &builder{ctx: ctx, core: core, dir: filepath.Join(out, "bundle")}
	if err := b.sweep(); err != nil {
		return err
	}
	for _, p := range programs {
		if err := step(p.Name, func() (string, error) { return b.program(p) }); err != nil {
			return err
		}
	}
	if err := step("sandbox image", b.pauseImage); err != nil {
		return err
	}
	if err := step("licences", b.licences); err != nil {
		return err
	}
	return step("archive", func() (string, error) {
		return pack(b.dir, filepath.Join(out, "bundle.tar.zst"), embed, best)
	})
}

func step(name string, run func() (string, error)) error {
	start := time.Now()
	fmt.Printf("bundle: %-24s ", name) // a cold containerd takes minutes
	note, err := run()
	if err != nil {
		fmt.Println()
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Printf("%-34s %6.1fs\n", note, time.Since(start).Seconds())
	return nil
}
