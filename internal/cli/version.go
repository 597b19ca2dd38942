package cli

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"

	"proa/internal/bundle"
	"proa/internal/system"
)

// Version prints what this program is.
var Version = &Command{
	Name: "version", Group: "Other",
	Short: "Print the version of proa and of the Kubernetes API it serves",
	Flags: func(fs *flag.FlagSet, c *Call) { fs.BoolVar(&c.json, "json", false, "print as JSON") },
	Run: func(_ context.Context, c *Call) error {
		v := system.Version()
		if c.json {
			b, err := json.MarshalIndent(v, "", "  ")
			fmt.Fprintln(c.Out, string(b))
			return err
		}
		programs := "none (built without the bundle)"
		if bundle.Present() {
			programs = bundle.Version()[:12]
		}
		fmt.Fprintf(c.Out, "proa %s, %s, %s\nbundle %s\n", v.GitVersion, v.Platform, v.GoVersion, programs)
		return nil
	},
}
