package cli

import (
	"context"

	"proa/internal/bundle"
)

// Unpack is what proa runs itself with to unpack the bundle, so that the memory
// this takes ends with the child.
var Unpack = &Command{
	Name: bundle.Command, Args: "DIR", Short: "Unpack the bundle below DIR",
	Run: func(_ context.Context, c *Call) error {
		if len(c.Args) != 1 {
			return usageError("one folder is needed")
		}
		return bundle.UnpackHere(c.Args[0])
	},
}
