package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"proa/internal/bundle"
)

// Kubectl is the kubectl of the bundle, or of the machine.
var Kubectl = &Command{
	Name: "kubectl", Args: "…", Group: "Cluster", Raw: true,
	Short: "Run kubectl with the cluster's kubeconfig",
	Run:   kubectl,
}

// kubectl becomes the program, so that terminals and signals are its own. A
// leading --root names the cluster, as PROA_ROOT does; $KUBECONFIG is respected.
func kubectl(ctx context.Context, c *Call) error {
	args := c.Args
	if len(args) > 0 && strings.HasPrefix(args[0], "--root") {
		root, n := strings.TrimPrefix(args[0], "--root="), 1
		if args[0] == "--root" && len(args) > 1 {
			root, n = args[1], 2
		}
		c.Settings.values["root"], c.Settings.from["root"] = root, "flag --root"
		args = args[n:]
	}
	if err := c.Settings.load(); err != nil {
		return usageError(err.Error())
	}
	places, err := placesOf(c)
	if err != nil {
		return err
	}
	env := os.Environ()
	if os.Getenv("KUBECONFIG") == "" {
		file := places.Kubeconfig()
		switch _, err := os.ReadFile(file); {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("there is no %s: start the cluster with 'proa up' first, or set KUBECONFIG", file)
		case errors.Is(err, fs.ErrPermission):
			return fmt.Errorf("%s is for root: run as root, or set KUBECONFIG to a copy of your own", file)
		case err != nil:
			return err
		}
		env = append(env, "KUBECONFIG="+file)
	}
	bin := ""
	if bundle.Present() {
		if bin, err = bundle.Unpack(ctx, places.Root); err != nil {
			return err
		}
	}
	path, err := bundle.Find(bin, "kubectl")
	if err != nil {
		return err
	}
	return syscall.Exec(path, append([]string{"kubectl"}, args...), env)
}
