// Command sampleapi puts Kubernetes' sample API server, unchanged, behind the
// API server of a cluster, and uses it through there with the clients that are
// generated for it. It starts the server and an etcd as its store beside the
// cluster, with the rights of a service account, reached by a Service without
// selector; prints a line for each thing that holds, and ends with 1 at the first
// that does not.
//
// KUBECONFIG says where the cluster is. The programs sample-apiserver and server
// (etcd's) lie beside this one. SAMPLEAPI_ADDRESS is the address of this machine
// that the cluster can reach; it is found if not given. SAMPLEAPI_KUBECTL is a kubectl, if that is to be used too.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	wardle "k8s.io/sample-apiserver/pkg/generated/clientset/versioned"
)

const (
	ns    = "wardle"
	group = "wardle.example.com"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 85*time.Second)
	err := run(ctx)
	cancel()
	if err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
	fmt.Println("ok sampleapi")
}

// world is what every check works with.
type world struct {
	config   *rest.Config // an administrator's, at the cluster
	core     *kubernetes.Clientset
	services *aggregator.Clientset
	wardle   *wardle.Clientset
	warnings interface{ WarningCount() int }
	address  string
	dir      string // of files and logs
	programs string
	backend  backend
}

func newWorld() (*world, error) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 1000, 1000
	warnings := rest.NewWarningWriter(io.Discard, rest.WarningWriterOptions{})
	config.WarningHandler = warnings
	w := &world{config: config, warnings: warnings, address: os.Getenv("SAMPLEAPI_ADDRESS")}
	var err1, err2, err3, err4 error
	w.core, err1 = kubernetes.NewForConfig(config)
	w.services, err2 = aggregator.NewForConfig(config)
	w.wardle, err3 = wardle.NewForConfig(config)
	w.dir, err4 = os.MkdirTemp("", "sampleapi-")
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	if w.address == "" {
		if w.address, err = ownAddress(); err != nil {
			return nil, err
		}
	}
	self, err := os.Executable()
	w.programs = filepath.Dir(self)
	return w, err
}

// ownAddress is the first address of this machine that is not loopback: one
// that endpoints may have.
func ownAddress() (string, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			return n.IP.String(), nil
		}
	}
	return "", errors.New("this machine has no address but loopback: endpoints cannot name it")
}

func run(ctx context.Context) error {
	w, err := newWorld()
	if err != nil {
		return err
	}
	defer os.RemoveAll(w.dir)
	defer w.backend.stop()
	for _, part := range []struct {
		name  string
		do    func(context.Context) error
		fault string // why it is known to fail; it must, as long as that stands here
	}{
		{"local services", w.local, ""},
		{"a service that is not there", w.absent, ""},
		{"the server starts with what a cluster gives it", w.start, ""},
		{"available", w.available, ""},
		{"discovery", w.discovery, ""},
		{"schemas", w.schemas, ""},
		{"objects", w.objects, ""},
		{"table", w.table, ""},
		{"versions", w.versions, ""},
		{"informer", w.informer, ""},
		{"kubectl", w.kubectl, ""},
		{"its own admission", w.admission, ""},
		{"who asks", w.identity, ""},
		{"who asks the server itself", w.direct, ""},
		{"a server that is dead", w.dead, ""},
		{"namespace", w.namespace, "namespaces are not emptied of what other servers hold in them"},
		{"garbage", w.garbage, "what other servers hold is not collected with its owners"},
		{"withdrawn", w.withdrawn, ""},
	} {
		began := time.Now()
		err := inTime(ctx, part.do)
		switch {
		case part.fault != "" && err == nil:
			return fmt.Errorf("%s: it holds now: it is no longer a known fault", part.name)
		case part.fault != "":
			fmt.Printf("KNOWN FAULT %s: %s: %v\n", part.name, part.fault, err)
			continue
		case err != nil:
			return fmt.Errorf("%s: %w\n%s", part.name, err, w.backend.lastWords())
		}
		fmt.Printf("ok %s %.2fs\n", part.name, time.Since(began).Seconds())
	}
	return nil
}

// inTime gives each part its share of the time.
func inTime(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 35*time.Second)
	defer cancel()
	return do(ctx)
}

// until waits for something to hold; an error of holds is what stands in the way so far.
func until(ctx context.Context, what string, holds func() error) error {
	for {
		err := holds()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(30 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", what, ctx.Err(), err)
		}
	}
}
