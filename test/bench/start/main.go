// Command start measures a cold start of proa: until the API answers, until
// the node is Ready, until a name is answered; with empty data and the bundle
// unpacked, and, told apart, the very first start, which unpacks it. Beside it,
// in turns, etcd with an API server on it start with empty data.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

	"proa/internal/bundle"
	"proa/internal/kinds/core"
	"proa/test/bench/measure"
)

func main() {
	runs := flag.Int("runs", 7, "cold starts of each contestant")
	flag.Parse()
	err := measure.InHost()
	if err == nil {
		err = run(*runs)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-start:", err)
		os.Exit(1)
	}
}

// times is how long after its start a cluster did things, in milliseconds.
type times struct{ api, ready, dns float64 }

func run(runs int) error {
	proa, err := measure.Proa()
	if err != nil {
		return err
	}
	refs, err := measure.BuildReferences()
	if err != nil {
		return err
	}
	dir, remove, err := measure.Scratch()
	if err != nil {
		return err
	}
	defer remove()
	raw := measure.NewRaw("contestant", "run", "api_ms", "ready_ms", "dns_ms")
	first, err := coldStart(proa, filepath.Join(dir, "first"), false)
	if err != nil {
		return err
	}
	raw.Add("proa-first", 0, first.api, first.ready, first.dns)
	var api, ready, dns, etcd, both []float64
	for n := range runs + 1 {
		a, err := coldStart(proa, filepath.Join(dir, fmt.Sprint("p", n)), true)
		if err != nil {
			return err
		}
		e, b, err := referenceStart(refs, filepath.Join(dir, fmt.Sprint("r", n)))
		if err != nil {
			return err
		}
		if n == 0 {
			continue // files come into the page cache
		}
		raw.Add("proa", n, a.api, a.ready, a.dns)
		raw.Add("reference", n, e, b, 0)
		api, ready, dns, etcd, both = append(api, a.api), append(ready, a.ready), append(dns, a.dns), append(etcd, e), append(both, b)
	}
	fmt.Printf("  the very first start, which unpacks the bundle: API %.0f ms, Ready %.0f ms, DNS %.0f ms\n", first.api, first.ready, first.dns)
	fmt.Printf("  proa, ms: API %s, Ready %s, DNS %s\n", measure.Spread(api), measure.Spread(ready), measure.Spread(dns))
	fmt.Printf("  reference, ms: etcd answers %s, CRD server on it %s\n", measure.Spread(etcd), measure.Spread(both))
	if err := raw.Write("start"); err != nil {
		return err
	}
	claim := func(what string, ours []float64, target float64) measure.Claim {
		return measure.Claim{Figure: measure.Median(ours) / 1000, Unit: "s to " + what, Ratio: measure.Median(measure.Ratios(ours, both)),
			Reference: "etcd and a CRD server to API", Target: target, In: "s", Less: true}
	}
	measure.Report("start", []measure.Claim{
		claim("API answering", api, 0.3), claim("Node Ready", ready, 1), claim("DNS answering", dns, 2.5),
		{Figure: first.ready / 1000, Unit: "s to Node Ready at the very first start", Ratio: first.ready / measure.Median(both),
			Reference: "etcd and a CRD server to API", Target: 2, In: "s", Less: true},
	})
	return nil
}

// coldStart starts a cluster in a new folder, and removes it again.
func coldStart(proa, root string, unpacked bool) (t times, err error) {
	if unpacked {
		if out, err := exec.Command(proa, bundle.Command, root).CombinedOutput(); err != nil {
			return t, fmt.Errorf("unpack: %w\n%s", err, out)
		}
	}
	start := time.Now()
	p, err := measure.Start(measure.AnyCore, root+".log", proa, "up", "--root", root)
	if err != nil {
		return t, err
	}
	defer func() {
		p.Stop()
		out, cleanErr := exec.Command(proa, "clean", "--yes", "--root", root).CombinedOutput()
		if cleanErr != nil {
			err = errors.Join(err, fmt.Errorf("clean: %w\n%s", cleanErr, out))
		}
	}()
	named := make(chan error, 1)
	go func() {
		err := p.Await("DNS", 5*time.Millisecond, resolve)
		t.dns = measure.Millis(time.Since(start))
		named <- err
	}()
	var server measure.Target
	err = p.Await("the API", 2*time.Millisecond, func(ctx context.Context) error {
		if server.URL == "" {
			if server, err = measure.TargetOf(filepath.Join(root, "etc", "kubeconfig")); err != nil {
				return err
			}
		}
		_, err := server.Get(ctx, server.Client(), "/readyz")
		return err
	})
	if err != nil {
		return t, err
	}
	t.api = measure.Millis(time.Since(start))
	client := server.Client()
	err = p.Await("the node", 5*time.Millisecond, func(ctx context.Context) error {
		b, err := server.Get(ctx, client, "/api/v1/nodes")
		if err != nil {
			return err
		}
		return nodesReady(b)
	})
	t.ready = measure.Millis(time.Since(start))
	return t, errors.Join(err, <-named)
}

func nodesReady(b []byte) error {
	var list corev1.NodeList
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	if slices.ContainsFunc(list.Items, func(n corev1.Node) bool { return core.NodeReady(&n) }) {
		return nil
	}
	return errors.New("no node is Ready")
}

// resolve asks the cluster's DNS, as a pod in the host's network does.
func resolve(ctx context.Context) error {
	q := new(dns.Msg).SetQuestion("kubernetes.default.svc.cluster.local.", dns.TypeA)
	c := dns.Client{Net: "udp", Timeout: 200 * time.Millisecond, Dialer: &net.Dialer{Timeout: 200 * time.Millisecond}}
	r, _, err := c.ExchangeContext(ctx, q, "10.43.0.10:53")
	if err != nil {
		return err
	}
	if r.Rcode != dns.RcodeSuccess || len(r.Answer) == 0 {
		return fmt.Errorf("DNS says %s", dns.RcodeToString[r.Rcode])
	}
	return nil
}

// referenceStart returns when etcd answered, and when the API server on it did.
func referenceStart(bin, dir string) (etcd, api float64, err error) {
	id, err := measure.NewIdentity(dir)
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	e, err := measure.StartEtcd(measure.AnyCore, bin, dir, id)
	if err != nil {
		return 0, 0, err
	}
	defer e.Stop()
	etcd = measure.Millis(time.Since(start))
	c, err := measure.StartCRD(measure.AnyCore, bin, dir, id, e)
	if err != nil {
		return 0, 0, err
	}
	defer c.Stop()
	return etcd, measure.Millis(time.Since(start)), nil
}
