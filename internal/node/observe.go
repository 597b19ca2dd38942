package node

import (
	"context"
	"time"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/node/cri"
)

// observe asks the runtime about the pod. What cannot change any more is not
// asked for twice.
func (w *worker) observe(ctx context.Context) (*view, error) {
	rt := w.a.Runtime
	sel := map[string]string{cri.LabelPodUID: string(w.uid)}
	boxes, err := rt.ListSandboxes(ctx, &v1.PodSandboxFilter{LabelSelector: sel})
	if err != nil {
		return nil, err
	}
	v := &view{runtime: w.a.node.runtimeName()}
	keepBoxes, keep := map[string]*sandbox{}, map[string]*container{}
	for _, b := range boxes {
		s, err := w.sandbox(ctx, b)
		if cri.NotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		keepBoxes[b.Id] = s
		v.sandboxes = append(v.sandboxes, s)
	}
	if len(boxes) > 0 {
		list, err := rt.ListContainers(ctx, &v1.ContainerFilter{LabelSelector: sel})
		if err != nil {
			return nil, err
		}
		for _, l := range list {
			c, err := w.container(ctx, l)
			if cri.NotFound(err) {
				continue
			}
			if err != nil {
				return nil, err
			}
			keep[l.Id] = c
			v.containers = append(v.containers, c)
		}
	}
	v.sort()
	w.boxes, w.seen = keepBoxes, keep // only the worker's loop uses them
	return v, nil
}

func (w *worker) sandbox(ctx context.Context, b *v1.PodSandbox) (*sandbox, error) {
	ready := b.State == v1.PodSandboxState_SANDBOX_READY
	if s := w.boxes[b.Id]; s != nil && s.ready == ready {
		return s, nil
	}
	s := &sandbox{id: b.Id, attempt: b.GetMetadata().GetAttempt(), ready: ready, created: time.Unix(0, b.CreatedAt)}
	if !ready {
		return s, nil
	}
	st, err := w.a.Runtime.SandboxStatus(ctx, b.Id)
	if err != nil {
		return nil, err
	}
	s.ready = st.State == v1.PodSandboxState_SANDBOX_READY
	if n := st.GetNetwork(); n.GetIp() != "" {
		s.ips = append(s.ips, n.Ip)
		for _, x := range n.AdditionalIps {
			s.ips = append(s.ips, x.Ip)
		}
	}
	return s, nil
}

func (w *worker) container(ctx context.Context, l *v1.Container) (*container, error) {
	state := stateOf(l.State)
	if c := w.seen[l.Id]; c != nil && c.state == state && state != unknown {
		return c, nil
	}
	st, err := w.a.Runtime.ContainerStatus(ctx, l.Id)
	if err != nil {
		return nil, err
	}
	c := &container{
		id: l.Id, name: l.GetMetadata().GetName(), sandbox: l.PodSandboxId, attempt: l.GetMetadata().GetAttempt(),
		state: stateOf(st.State), created: time.Unix(0, st.CreatedAt),
		started: time.Unix(0, st.StartedAt), finished: time.Unix(0, st.FinishedAt),
		code: st.ExitCode, reason: st.Reason, message: st.Message,
		image: st.GetImage().GetImage(), imageRef: st.ImageRef, logPath: st.LogPath,
		hash: l.Annotations[cri.AnnotationHash],
	}
	if c.image == "" {
		c.image = l.GetImage().GetImage()
	}
	if c.state == exited {
		c.message = w.terminationMessage(c, l.Annotations)
	}
	return c, nil
}

func stateOf(s v1.ContainerState) runState {
	switch s {
	case v1.ContainerState_CONTAINER_CREATED:
		return created
	case v1.ContainerState_CONTAINER_RUNNING:
		return running
	case v1.ContainerState_CONTAINER_EXITED:
		return exited
	}
	return unknown
}
