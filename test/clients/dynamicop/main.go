// Command dynamicop is an operator without types, on client-go's dynamic client:
// it defines its kinds with the clientset of API extensions, finds them by
// discovery, follows them by dynamic informers, and makes a Plant for every bed of a
// Garden. It speaks CBOR where the server takes that. It prints a line for each
// thing that holds, and ends with 1 at the first that does not.
//
// KUBECONFIG says where the server is. DYNAMICOP_BARE=1: the server has custom
// resources and nothing else.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

const ns = "dynamicop"

var (
	gardens = schema.GroupVersionResource{Group: "plants.example.com", Version: "v1", Resource: "gardens"}
	plants  = schema.GroupVersionResource{Group: "plants.example.com", Version: "v1", Resource: "plants"}
)

func main() {
	for _, gate := range []string{"ClientsAllowCBOR", "ClientsPreferCBOR"} {
		on := os.Getenv("DYNAMICOP_BARE") == ""                                         // such a server does not read it
		if err := os.Setenv("KUBE_FEATURE_"+gate, strconv.FormatBool(on)); err != nil { // before client-go looks
			panic(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 80*time.Second)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
	fmt.Println("ok dynamicop")
}

// world is what every part works with.
type world struct {
	config    *rest.Config
	crds      *apiextensions.Clientset
	core      *kubernetes.Clientset
	discovery interface {
		Invalidate()
	}
	mapper   *restmapper.DeferredDiscoveryRESTMapper
	dynamic  *dynamic.DynamicClient
	metadata metadata.Interface
	types    *contentTypes
	bare     bool
}

func newWorld() (*world, error) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 1000, 1000
	w := &world{config: config, types: &contentTypes{seen: map[string]int{}}, bare: os.Getenv("DYNAMICOP_BARE") != ""}
	if w.crds, err = apiextensions.NewForConfig(config); err != nil {
		return nil, err
	}
	if w.core, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	cached := memory.NewMemCacheClient(w.core.Discovery())
	w.discovery, w.mapper = cached, restmapper.NewDeferredDiscoveryRESTMapper(cached)
	if w.metadata, err = metadata.NewForConfig(config); err != nil {
		return nil, err
	}
	watched := rest.CopyConfig(config)
	watched.Wrap(w.types.wrap)
	w.dynamic, err = dynamic.NewForConfig(watched)
	return w, err
}

func run(ctx context.Context) error {
	w, err := newWorld()
	if err != nil {
		return err
	}
	if !w.bare {
		_, err := w.core.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	for _, part := range []struct {
		name string
		core bool // needs a cluster, not only custom resources
		do   func(context.Context) error
	}{
		{"unknown kinds", false, w.unknown},
		{"definitions", false, w.define},
		{"names that are taken", false, w.taken},
		{"published schemas", true, w.published},
		{"reconcile", false, w.reconcile},
		{"patches", false, w.patches},
		{"scale client", false, w.scale},
		{"cbor", true, w.cbor},
		{"pages", false, w.pages},
		{"metadata client", false, w.metadataClient},
		{"a stricter schema", false, w.stricter},
		{"a second version", false, w.secondVersion},
		{"owners and garbage", true, w.garbage},
		{"a definition that ends", false, w.end},
		{"a definition that is new again", false, w.again},
	} {
		if part.core && w.bare {
			continue
		}
		began := time.Now()
		if err := part.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		fmt.Printf("ok %s %.2fs\n", part.name, time.Since(began).Seconds())
	}
	return nil
}

// contentTypes counts what the server's answers are written in.
type contentTypes struct {
	sync.Mutex
	seen map[string]int
	next http.RoundTripper
}

func (c *contentTypes) wrap(next http.RoundTripper) http.RoundTripper {
	c.next = next
	return c
}

// RoundTrip sends a request on.
func (c *contentTypes) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(r)
	if err == nil {
		c.Lock()
		c.seen[r.Header.Get("Content-Type")+" > "+resp.Header.Get("Content-Type")]++
		c.Unlock()
	}
	return resp, err
}

// until waits for something to hold.
func until(ctx context.Context, what string, holds func() (bool, error)) error {
	for {
		ok, err := holds()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
	}
}
