package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"sigs.k8s.io/yaml"

	"proa/internal/api"
)

// Show shows an object as it was.
var Show = &Command{
	Name: "show", Args: "TYPE/NAME", Group: "Objects",
	Short: "Show an object as it was at a time or a revision",
	Long: `Prints an object as it was, in the same form as 'kubectl get -o yaml'.

  proa show deploy/web --at 14:05
  proa show deploy/web --at 2h
  proa show deploy/web --rev 1234 -o json`,
	Flags: func(fs *flag.FlagSet, c *Call) {
		connectFlags(fs, c)
		stateFlags(fs, c, "rev")
		fs.StringVar(&c.output, "o", "yaml", "`FORMAT`: yaml or json")
	},
	Run: runShow,
}

// stateFlags are those that choose one state.
func stateFlags(fs *flag.FlagSet, c *Call, rev string) {
	fs.Func("at", "`TIME`: 14:05, 2h (ago), '2026-01-31 14:05' or RFC 3339", func(v string) (err error) {
		c.at, err = moment(v, time.Now())
		return err
	})
	fs.Func(rev, "`REVISION`, as 'proa history' shows them", func(v string) (err error) {
		if c.rev, err = strconv.ParseInt(v, 10, 64); err != nil || c.rev <= 0 {
			return fmt.Errorf("%q is no revision: it must be a number above 0", v)
		}
		return nil
	})
}

// state is the query for the state that was chosen; nil if none was.
func (c *Call) state() (url.Values, error) {
	switch {
	case c.rev > 0 && !c.at.IsZero():
		return nil, usageError("a revision and a time exclude each other")
	case c.rev > 0:
		return url.Values{"revision": {strconv.FormatInt(c.rev, 10)}}, nil
	case !c.at.IsZero():
		return url.Values{"at": {c.at.Format(time.RFC3339Nano)}}, nil
	}
	return nil, nil
}

func runShow(ctx context.Context, c *Call) error {
	if c.output != "yaml" && c.output != "json" {
		return usageError(fmt.Sprintf("show: -o must be yaml or json, not %q", c.output))
	}
	q, err := c.state()
	if err != nil {
		return err
	}
	if q == nil {
		return usageError("show needs --at TIME or --rev REVISION; 'proa history' shows which there are")
	}
	r, err := connect(c)
	if err != nil {
		return err
	}
	p, err := r.object(ctx, "show", c.Args)
	if err != nil {
		return err
	}
	b, err := r.do(ctx, http.MethodGet, api.HistoryPath+p.Path(), q, "application/json", nil)
	if err != nil {
		return err
	}
	o, err := parseObject(b)
	if err != nil {
		return err
	}
	delete(o.in("metadata"), "managedFields")
	if c.output == "yaml" {
		b, err = yaml.Marshal(o)
	} else {
		b, err = json.MarshalIndent(o, "", "    ")
		b = append(bytes.TrimSpace(b), '\n')
	}
	if err == nil {
		_, err = c.Out.Write(b)
	}
	return err
}
