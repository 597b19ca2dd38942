package cli

import (
	"context"
	"fmt"
	"text/tabwriter"
)

// Config prints the settings.
var Config = &Command{
	Name: "config", Group: "Machine", Config: true,
	Short: "Print every setting, its value and where it came from",
	Long: `Every setting is a flag (--NAME), an environment variable (PROA_NAME) and a key
of the settings file. The flag wins over the environment, which wins over the
file.`,
	Run: func(_ context.Context, c *Call) error {
		w := tabwriter.NewWriter(c.Out, 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "SETTING\tVALUE\tFROM")
		for _, s := range settingList {
			v := c.Settings.values[s.Name]
			if v == "" {
				v = `""`
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", s.Name, v, c.Settings.from[s.Name])
		}
		return w.Flush()
	},
}
