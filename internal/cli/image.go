package cli

import (
	"context"
	"fmt"
	"text/tabwriter"

	"proa/internal/system"
)

// ImageLoad puts images from an archive into the cluster.
var ImageLoad = &Command{
	Name: "image load", Args: "FILE…", Group: "Images", Config: true,
	Short: "Load images from an archive (docker save, OCI layout)",
	Long: `Takes what 'docker save' writes and OCI image layouts, as a folder or a tar, with
any number of images. They go into this node's own registry, which the runtime
asks before any other, and are pulled from there at once.`,
	Run: func(ctx context.Context, c *Call) error {
		if len(c.Args) == 0 {
			return usageError("image load: which file? See 'proa image load --help'")
		}
		places, err := placesOf(c)
		if err != nil {
			return err
		}
		for _, file := range c.Args {
			names, err := system.LoadImages(ctx, places, file)
			for _, n := range names {
				fmt.Fprintf(c.Out, "Loaded %s\n", n)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
		return nil
	},
}

// ImageList shows the images of the node's registry.
var ImageList = &Command{
	Name: "image ls", Group: "Images", Config: true,
	Short: "List the images that were loaded or pushed",
	Run: func(ctx context.Context, c *Call) error {
		places, err := placesOf(c)
		if err != nil {
			return err
		}
		images, err := system.ListImages(places)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(c.Out, 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "IMAGE\tDIGEST\tSIZE")
		for _, i := range images {
			fmt.Fprintf(w, "%s\t%.19s\t%s\n", i.Name, i.Digest, size(i.Size))
		}
		return w.Flush()
	},
}

func size(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f kB", float64(n)/1e3)
}
