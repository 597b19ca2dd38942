// Proa is a Kubernetes-compatible cluster in one program: see proa --help.
package main

import (
	"os"
	_ "time/tzdata" // for machines that have no time zones of their own

	"proa/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
