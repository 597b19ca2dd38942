// Command operator is an operator as kubebuilder lays one out, on
// controller-runtime: a custom resource of three versions with a hub, a conversion
// webhook, a controller with children, status, conditions and a finalizer. It
// installs its definition, runs, plays its user, prints a line for each thing that
// holds, and ends with 1 at the first that does not.
//
// KUBECONFIG says where the server is. OPERATOR_BARE=1: the server has custom
// resources and nothing else. OPERATOR_SERVICE=NAMESPACE/NAME: the server reaches the
// webhook by that service, which leads to port 9443 here.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	v1 "proa/test/clients/operator/api/v1"
	"proa/test/clients/operator/api/v1alpha1"
	"proa/test/clients/operator/api/v1beta1"
)

const ns = "operator"

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 80*time.Second)
	defer cancel()
	log.SetLogger(zap.New(zap.WriteTo(os.Stderr)))
	if err := run(ctx); err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
	fmt.Println("ok operator")
}

// world is what the checks work with.
type world struct {
	config   *rest.Config
	scheme   *runtime.Scheme
	client   client.Client // asks the server
	cached   client.Client // the manager's
	warnings *warnings
	crd      *apiextensionsv1.CustomResourceDefinition
	image    string
	bare     bool
}

func newWorld() (*world, error) {
	w := &world{scheme: runtime.NewScheme(), warnings: new(warnings), bare: os.Getenv("OPERATOR_BARE") != "", image: "proa-test:1"}
	for _, add := range []func(*runtime.Scheme) error{clientscheme.AddToScheme, apiextensionsv1.AddToScheme, v1.AddToScheme, v1beta1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(w.scheme); err != nil {
			return nil, err
		}
	}
	var err error
	if w.config, err = ctrl.GetConfig(); err != nil {
		return nil, err
	}
	w.config.QPS, w.config.Burst = 1000, 1000
	w.config.WarningHandlerWithContext = w.warnings
	return w, nil
}

func run(ctx context.Context) error {
	w, err := newWorld()
	if err != nil {
		return err
	}
	serve, err := newServing()
	if err != nil {
		return err
	}
	if err := w.install(ctx, serve); err != nil {
		return err
	}
	mgr, err := w.manager(ctx, serve)
	if err != nil {
		return err
	}
	w.cached = mgr.GetClient()
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(running) }()
	err = w.play(ctx, serve, mgr)
	stop()
	if e := <-ended; err == nil {
		err = e
	}
	return err
}

// install makes the namespace and the definition, as envtest installs one.
func (w *world) install(ctx context.Context, serve *serving) error {
	crd, err := serve.definition()
	if err != nil {
		return err
	}
	options := envtest.CRDInstallOptions{CRDs: []*apiextensionsv1.CustomResourceDefinition{crd}, Scheme: clientscheme.Scheme, MaxTime: 10 * time.Second, PollInterval: 20 * time.Millisecond}
	if _, err := envtest.InstallCRDs(w.config, options); err != nil {
		return fmt.Errorf("install the definition: %w", err)
	}
	fmt.Println("ok the definition is installed and in discovery")
	// The client learns what is served when it is made.
	if w.client, err = client.New(w.config, client.Options{Scheme: w.scheme}); err != nil {
		return err
	}
	if !w.bare {
		if err := w.client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	w.crd = crd
	return nil
}

// manager is the operator itself.
func (w *world) manager(ctx context.Context, serve *serving) (ctrl.Manager, error) {
	mgr, err := ctrl.NewManager(w.config, ctrl.Options{
		Scheme: w.scheme, LeaderElection: !w.bare, LeaderElectionID: "websites", LeaderElectionNamespace: ns, LeaderElectionReleaseOnCancel: true,
		Metrics: server.Options{BindAddress: "0"},
		WebhookServer: webhook.NewServer(webhook.Options{Host: serve.host, Port: serve.port, TLSOpts: []func(*tls.Config){func(c *tls.Config) {
			c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &serve.cert, nil }
		}}}),
	})
	if err != nil {
		return nil, err
	}
	err = mgr.GetFieldIndexer().IndexField(ctx, &v1.Website{}, "spec.class", func(o client.Object) []string {
		return []string{o.(*v1.Website).Spec.Class}
	})
	if err != nil {
		return nil, err
	}
	r := &reconciler{Client: mgr.GetClient(), bare: w.bare}
	if !w.bare {
		r.events = mgr.GetEventRecorder("websites")
	}
	if err := r.SetupWithManager(mgr); err != nil {
		return nil, err
	}
	return mgr, ctrl.NewWebhookManagedBy(mgr, &v1.Website{}).Complete()
}
