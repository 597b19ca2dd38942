package node

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/node/cri"
	"proa/internal/node/probe"
)

// hook runs a postStart or preStop handler to its end.
func (a *Agent) hook(ctx context.Context, pod *corev1.Pod, c *corev1.Container, h *corev1.LifecycleHandler, id string, ips []string) error {
	switch {
	case h.Exec != nil:
		out, errOut, code, err := a.Runtime.ExecSync(ctx, id, h.Exec.Command, 0)
		if err != nil {
			return fmt.Errorf("%s", cri.Message(err))
		}
		if code != 0 {
			return fmt.Errorf("command '%s' exited with %d: %s%s", join(h.Exec.Command), code, out, errOut)
		}
		return nil
	case h.HTTPGet != nil:
		if _, ok := a.Runtime.(cri.Prober); ok {
			return a.Runtime.(cri.Prober).Probe(ctx, id, "httpGet")
		}
		t, err := probe.HTTP(h.HTTPGet, a.podIP(pod, ips), c)
		if err != nil {
			return err
		}
		_, err = t.Check(ctx)
		return err
	case h.Sleep != nil:
		a.sleep(ctx, time.Duration(h.Sleep.Seconds)*time.Second)
		return ctx.Err()
	}
	return nil
}

// podIP is where the pod's ports are.
func (a *Agent) podIP(pod *corev1.Pod, ips []string) string {
	if pod.Spec.HostNetwork {
		ips = a.hostIPs
	}
	if len(ips) == 0 {
		return ""
	}
	return ips[0]
}

func join(words []string) string {
	out := ""
	for i, w := range words {
		if i > 0 {
			out += " "
		}
		out += w
	}
	return out
}
