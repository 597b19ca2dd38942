package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/internal/system"
	"proa/test/bench/measure"
)

// A cluster is a proa with containers, and its runtime's socket.
type cluster struct {
	proa   string
	places system.Places
	server measure.Target
	client *http.Client
	run    cri.RuntimeServiceClient
	images cri.ImageServiceClient
	seen   chan sight
	stops  []func()
}

// A sight is a pod as a watch showed it.
type sight struct {
	at      time.Time
	name    string
	running bool
	gone    bool
}

const image = "proa-test:1"

func start(ctx context.Context, root string) (*cluster, error) {
	c := &cluster{seen: make(chan sight, 1000)}
	var err error
	if c.proa, err = measure.Proa(); err != nil {
		return c, err
	}
	if c.places, err = system.PlacesFor(root); err != nil {
		return c, err
	}
	p, err := measure.Start(measure.AnyCore, root+".log", c.proa, "up", "--root", root, "--log-level", "warn")
	if err != nil {
		return c, err
	}
	c.stops = append(c.stops, func() {
		p.Stop()
		if out, err := exec.Command(c.proa, "clean", "--yes", "--root", root).CombinedOutput(); err != nil {
			fmt.Printf("  clean: %v: %s\n", err, out)
		}
	})
	err = p.Await("proa", 20*time.Millisecond, func(ctx context.Context) error {
		if c.server, err = measure.TargetOf(c.places.Kubeconfig()); err != nil {
			return err
		}
		c.client = c.server.Client()
		_, err := c.server.Get(ctx, c.client, "/api/v1/namespaces/default/serviceaccounts/default")
		return err
	})
	if err != nil {
		return c, err
	}
	return c, errors.Join(c.load(), c.dial(), c.watch(ctx))
}

func (c *cluster) stop() {
	for i := len(c.stops) - 1; i >= 0; i-- {
		c.stops[i]()
	}
}

// load brings the image in; proa may still be on its way to Ready.
func (c *cluster) load() error {
	file := filepath.Join("build", "images", "proa-test-1.tar")
	var err error
	for range 50 {
		var out []byte
		if out, err = exec.Command(c.proa, "image", "load", "--root", c.places.Root, file).CombinedOutput(); err == nil {
			return nil
		}
		err = fmt.Errorf("image load: %w\n%s", err, out)
		time.Sleep(200 * time.Millisecond)
	}
	return err
}

func (c *cluster) dial() error {
	conn, err := grpc.NewClient("unix://"+c.places.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	c.stops = append(c.stops, func() { conn.Close() })
	c.run, c.images = cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	return nil
}

// watch follows the pods of the default namespace over the wire.
func (c *cluster) watch(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.server.URL+"/api/v1/namespaces/default/pods?watch=1", nil)
	if err != nil {
		return err
	}
	resp, err := c.server.Client().Do(req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("watch: %s", resp.Status)
	}
	go func() {
		defer close(c.seen)
		defer resp.Body.Close()
		for dec := json.NewDecoder(resp.Body); ; {
			var e struct {
				Type   string
				Object corev1.Pod
			}
			if dec.Decode(&e) != nil {
				return
			}
			s := sight{at: time.Now(), name: e.Object.Name, gone: e.Type == "DELETED"}
			for _, x := range e.Object.Status.ContainerStatuses {
				s.running = x.State.Running != nil && e.Object.Status.Phase == corev1.PodRunning
			}
			c.seen <- s
		}
	}()
	return nil
}

// await returns when a watch showed what is looked for.
func (c *cluster) await(name string, match func(sight) bool) (time.Time, error) {
	over := time.After(60 * time.Second)
	for {
		select {
		case s, ok := <-c.seen:
			if !ok {
				return time.Time{}, errors.New("the watch has ended")
			}
			if s.name == name && match(s) {
				return s.at, nil
			}
		case <-over:
			return time.Time{}, fmt.Errorf("pod %s: nothing for a minute", name)
		}
	}
}

// idle returns when the runtime holds no sandbox.
func (c *cluster) idle(ctx context.Context) error {
	for range 500 {
		l, err := c.run.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		if err != nil || len(l.Items) == 0 {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.New("sandboxes are left for ten seconds")
}
