// Fault runs the store's engine through crashes, failing disks, flipped bits and
// planted bugs for as long as it is told, and prints what it did in one last
// line. See docs/design/013-faults.md.
package main

import (
	"context"
	"fmt"
	"os"

	"proa/internal/store/planted"
)

func main() {
	c, err := newCatcher(".")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer c.close()
	n, err := c.catchAll(context.Background(), planted.All, func(f string, a ...any) { fmt.Printf(f+"\n", a...) })
	fmt.Println(n, len(planted.All), err)
}
