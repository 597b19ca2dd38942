package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"proa/internal/httpapi"
	"proa/internal/why"
)

// Why shows why an object is not as it should be.
var Why = &Command{
	Name: "why", Args: "TYPE/NAME", Group: "Objects",
	Short: "Show why an object is not ready: the chain of causes",
	Long: `Shows why an object is not as it should be: what waits for what, since when, and
what would change it. Each line is the cause of the line above it that is less
indented, so the root of the matter comes last. Of an object that is well, it says so.

It knows pods, deployments, replica sets, replication controllers, stateful sets,
daemon sets, jobs, cron jobs, services, persistent volume claims, namespaces and
nodes. It only reads, as you, and says what you may not see. The exit status is 0 if there is an answer,
whatever it is; -o json has "healthy" for programs.

  proa why deploy/web
  proa why pod/web-0 -n shop
  proa why svc web -o json`,
	Flags: func(fs *flag.FlagSet, c *Call) {
		connectFlags(fs, c)
		fs.StringVar(&c.output, "o", "", "`FORMAT`: json")
	},
	Run: runWhy,
}

func runWhy(ctx context.Context, c *Call) error {
	if c.output != "" && c.output != "json" {
		return usageError(fmt.Sprintf("why: -o must be json, not %q", c.output))
	}
	r, err := connect(c)
	if err != nil {
		return err
	}
	p, err := r.object(ctx, "why", c.Args)
	if err != nil {
		return err
	}
	if !slices.Contains(why.Kinds(), p.Resource) {
		return usageError(fmt.Sprintf("why knows nothing of %s; it knows %s", p.Resource, strings.Join(why.Kinds(), ", ")))
	}
	now := time.Now()
	answer, err := why.Explain(ctx, httpapi.Dial(r.base, r.http), p.Group, p.Resource, p.Namespace, p.Name, now)
	var broken *url.Error
	if errors.As(err, &broken) {
		return fmt.Errorf("the API at %s does not answer: %w", r.base, err)
	}
	if err != nil {
		return err
	}
	if c.output == "json" {
		e := json.NewEncoder(c.Out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(answer)
	}
	answer.Print(c.Out, now)
	return nil
}
