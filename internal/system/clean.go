package system

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/bundle"
	"proa/internal/node/cgroups"
	"proa/internal/node/containerd"
	"proa/internal/node/cri"
	"proa/internal/node/mounts"
	"proa/internal/overlay"
	"proa/internal/proxy"
)

// stopLimit bounds the end of all containers: their own grace periods, and some.
const stopLimit = 5 * time.Minute

// StopContainers ends every container of the node and its containerd. proa must
// not be running. Volumes, images and the cluster's data stay.
func StopContainers(ctx context.Context, p Places, say func(string, ...any)) error {
	return withRuntime(ctx, p, func(rt *cri.Real) error {
		n, err := eachSandbox(ctx, rt, func(ctx context.Context, id string) error { return end(ctx, rt, id) })
		if n > 0 {
			say("Stopped the containers of %d pods", n)
		}
		return err
	})
}

// end asks the containers of a sandbox to end, and gives each the time its pod
// has for that, before it ends the sandbox. Hooks do not run: they are the agent's.
func end(ctx context.Context, rt cri.Runtime, id string) error {
	list, err := rt.ListContainers(ctx, &v1.ContainerFilter{PodSandboxId: id,
		State: &v1.ContainerStateValue{State: v1.ContainerState_CONTAINER_RUNNING}})
	if err != nil {
		return err
	}
	errs := make([]error, len(list)+1)
	var wg sync.WaitGroup
	for i, c := range list {
		seconds, err := strconv.Atoi(c.Annotations[cri.AnnotationGrace])
		if err != nil {
			seconds = defaultGrace
		}
		wg.Go(func() { errs[i] = rt.StopContainer(ctx, c.Id, time.Duration(seconds)*time.Second) })
	}
	wg.Wait()
	errs[len(list)] = rt.StopSandbox(ctx, id)
	return errors.Join(errs...)
}

// defaultGrace is PodSpec.terminationGracePeriodSeconds where it is not known.
const defaultGrace = 30

// withRuntime calls f with the node's containerd, started if need be, and ends it after.
func withRuntime(ctx context.Context, p Places, f func(*cri.Real) error) error {
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	bin, err := bundle.Unpack(ctx, p.Root)
	if errors.Is(err, bundle.ErrAbsent) {
		return nil // then there is no containerd of ours
	}
	if err != nil {
		return err
	}
	c := containerdConfig(p, bin)
	if _, err := os.Stat(c.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	network, err := serveNetwork(ctx, p)
	if err != nil {
		return err
	}
	defer network()
	sup, err := containerd.Start(ctx, c, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	rt, err := cri.Dial(p.Socket())
	if err == nil {
		err = f(rt)
		rt.Close()
	}
	if err = errors.Join(err, sup.Stop(ctx)); err == nil {
		// Nothing runs any more that a shim could be for.
		_, err = containerd.EndShims(ctx, p.Socket())
	}
	return err
}

// serveNetwork answers the runtime's calls to disconnect pods, until stop is called.
func serveNetwork(ctx context.Context, p Places) (stop func(), err error) {
	id, err := identityOf(p)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !id.NodeRange.IsValid() {
		return func() {}, nil // it never had a network
	}
	if err != nil {
		return nil, err
	}
	s := &system{Config: Config{Places: p, Log: slog.New(slog.DiscardHandler)}, id: id}
	n, err := overlay.New(s.overlayConfig(id.NodeRange, nil))
	if err != nil {
		return nil, err
	}
	if err := n.Start(); err != nil {
		n.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.Serve(ctx); err != nil && ctx.Err() == nil {
			s.Log.Warn("The pod network does not answer", "err", err)
		}
	}()
	return func() { cancel(); <-done; n.Close() }, nil
}

// eachSandbox calls f for every sandbox, several at a time.
func eachSandbox(ctx context.Context, rt *cri.Real, f func(context.Context, string) error) (int, error) {
	list, err := rt.ListSandboxes(ctx, nil)
	if err != nil {
		return 0, err
	}
	errs := make([]error, len(list))
	limit := make(chan struct{}, 64) // most of them only wait
	var wg sync.WaitGroup
	for i, sb := range list {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			if errs[i] = f(ctx, sb.Id); errs[i] != nil {
				errs[i] = fmt.Errorf("pod %s/%s: %s", sb.Metadata.GetNamespace(), sb.Metadata.GetName(), cri.Message(errs[i]))
			}
		})
	}
	wg.Wait()
	return len(list), errors.Join(errs...)
}

// Clean ends and removes everything that the cluster made on this machine:
// containers, mounts, interfaces, rules, cgroups, files. proa must not be
// running. It goes on after an error and returns all of them.
func Clean(ctx context.Context, p Places, say func(string, ...any)) error {
	var errs []error
	try := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	try("containers", withRuntime(ctx, p, func(rt *cri.Real) error {
		n, err := eachSandbox(ctx, rt, func(ctx context.Context, id string) error { return remove(ctx, rt, id) })
		say("Removed the containers of %d pods", n)
		return err
	}))
	if os.Geteuid() == 0 {
		if id, err := identityOf(p); err == nil && id.NodeRange.IsValid() {
			s := &system{Config: Config{Places: p, Log: slog.New(slog.DiscardHandler)}, id: id}
			try("pod network", overlay.Clean(s.overlayConfig(id.NodeRange, nil)))
		}
		try("service rules", proxy.Clean(p.Table()))
		if tree, err := cgroups.Open("/sys/fs/cgroup", p.Cgroup()); err == nil {
			try("cgroups", tree.RemoveAll())
		}
		say("Removed interfaces, rules and cgroups")
		try("mounts", errors.Join(mounts.Below(p.Root), mounts.Below(p.Run)))
	}
	if len(errs) == 0 {
		// Only when nothing is mounted or running there any more.
		for _, dir := range []string{p.Run, p.Root, p.Etc} {
			try("files", os.RemoveAll(dir))
		}
		say("Removed %s, %s and %s", p.Root, p.Run, p.Etc)
	}
	return errors.Join(errs...)
}

// remove forgets a sandbox. After the death of its shim the first try may fail.
func remove(ctx context.Context, rt cri.Sandboxes, id string) error {
	err := rt.StopSandbox(ctx, id)
	if again := rt.RemoveSandbox(ctx, id); again == nil {
		return nil
	}
	return errors.Join(err, rt.RemoveSandbox(ctx, id))
}
