package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/system"
)

// statusTimeout bounds the questions that status asks.
const statusTimeout = 5 * time.Second

// Status says how the cluster is. Its exit status is 0 only if every node is ready.
var Status = &Command{
	Name: "status", Group: "Cluster", Config: true,
	Short: "Show whether the cluster runs, its nodes and its pods",
	Long:  "Exits with 0 if the API answers and every node is Ready, otherwise with 1.",
	Run: func(ctx context.Context, c *Call) error {
		places, err := placesOf(c)
		if err != nil {
			return err
		}
		pid, err := system.PID(places)
		if err != nil {
			return err
		}
		if pid == 0 {
			return fmt.Errorf("proa is not running on %s; 'proa up' starts it", places.Root)
		}
		fmt.Fprintf(c.Out, "proa %s, process %d, data in %s\n", system.Version().GitVersion, pid, places.Root)
		ctx, cancel := context.WithTimeout(ctx, statusTimeout)
		defer cancel()
		h, url, err := system.Client(places.Kubeconfig())
		if err != nil {
			return err
		}
		nodes, err := core.Node.List(ctx, h, "", api.Selectors{})
		if err != nil {
			return fmt.Errorf("the API at %s does not answer: %w; look into %s", url, err, places.Log())
		}
		pods, err := core.Pod.List(ctx, h, "", api.Selectors{})
		if err != nil {
			return err
		}
		fmt.Fprintf(c.Out, "API %s, kubeconfig %s\n\n", url, places.Kubeconfig())
		return show(c.Out, nodes, pods)
	},
}

func show(w io.Writer, nodes []*corev1.Node, pods []*corev1.Pod) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tSTATUS\tPODS\tREADY\tADDRESS")
	bad := 0
	for _, n := range nodes {
		state := nodeState(n)
		if state != "Ready" {
			bad++
		}
		all, ready := 0, 0
		for _, p := range pods {
			if p.Spec.NodeName == n.Name {
				all++
				if core.PodReady(p) {
					ready++
				}
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\n", n.Name, state, all, ready, nodeAddress(n))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	waiting := 0
	for _, p := range pods {
		if p.Spec.NodeName == "" {
			waiting++
		}
	}
	if waiting > 0 {
		fmt.Fprintf(w, "\n%d pods wait for a node: see 'proa kubectl get pods -A --field-selector spec.nodeName='\n", waiting)
	}
	if bad > 0 || len(nodes) == 0 {
		return errors.New("not every node is ready: see 'proa kubectl describe nodes'")
	}
	return nil
}

func nodeState(n *corev1.Node) string {
	switch c := core.NodeCondition(n, corev1.NodeReady); {
	case c == nil:
		return "Unknown"
	case c.Status == corev1.ConditionTrue:
		return "Ready"
	default:
		return "NotReady: " + c.Message
	}
}

func nodeAddress(n *corev1.Node) string {
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	return ""
}
