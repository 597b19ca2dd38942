// Proa is a Kubernetes-compatible cluster in one program: see proa --help.
package main

import (
	"os"

	"proa/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
