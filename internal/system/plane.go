package system

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"proa/internal/api"
	"proa/internal/api/record"
	"proa/internal/apiserver"
	"proa/internal/apiserver/access"
	"proa/internal/apiserver/admit"
	"proa/internal/apiserver/crd"
	"proa/internal/apiserver/reach"
	"proa/internal/apiserver/usage"
	"proa/internal/control"
	"proa/internal/controllers"
	"proa/internal/host"
	"proa/internal/httpapi"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/kubeletapi"
	"proa/internal/pki"
	"proa/internal/sched"
)

// issuer of service account tokens, and their audience.
func (s *system) issuer() string { return "https://kubernetes.default.svc." + s.id.Domain }

// A plane is the control plane: the API server and what drives it.
type plane struct {
	*apiserver.Server
	authorizer access.Authorizer
	net        reach.Net // to services, for those who call them
	url        string
	agents     agents
	meter      *usage.Meter // of what nodes and pods use
	nodeTLS    *tls.Config  // how the API server reaches the nodes' agents
	metrics    *prometheus.Registry
	behind     api.Handler // Server, with other API servers behind it

	scheduler, controllers started
}

// startPlane brings up the API server, on the wire too, and what runs beside it.
func (s *system) startPlane(ctx context.Context) (*plane, error) {
	listener, err := s.listen(s.Bind, s.Ports.API, "the API")
	if err != nil {
		return nil, err
	}
	if s.ca, err = pki.OpenCA(s.Places.PKI(), "ca", s.now()); err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	signer, err := pki.OpenSigner(s.Places.PKI(), "service-account", s.issuer())
	if err != nil {
		return nil, fmt.Errorf("key for service account tokens: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.ca.Cert)
	p := &plane{url: "https://" + net.JoinHostPort(s.localAddress(), strconv.Itoa(s.Ports.API))}
	if p.nodeTLS, err = s.clientTLS(roots, "apiserver-node-client", pki.Leaf{User: "proa-apiserver", Groups: []string{api.GroupMasters}}); err != nil {
		return nil, err
	}

	rbac, nodes := access.NewRBAC(), &access.Nodes{}
	p.authorizer = access.Either(nodes, rbac)
	rbac.All = p.authorizer
	authn := &access.Authenticator{Signer: signer, Audiences: []string{s.issuer()}, Roots: roots, Now: s.now}
	subs := authn.Subs()
	maps.Copy(subs, rbac.Subs())
	agents := p.nodes()
	maps.Copy(subs, kubeletapi.Subs(agents))
	p.meter = usage.New(usage.Config{Agent: agents.Agent, Log: s.Log})
	maps.Copy(subs, p.meter.Subs())
	subs["componentstatuses"] = apiserver.Components(
		apiserver.Component{Name: "scheduler", Probe: p.scheduler.probe},
		apiserver.Component{Name: "controller-manager", Probe: p.controllers.probe},
		apiserver.Component{Name: "etcd-0", Probe: func(context.Context) error { return s.engine.Err() }})
	s.parts.Go(func() { host.KeepHeapTight(ctx) })
	p.Server, err = apiserver.New(ctx, apiserver.Config{
		Engine: s.engine.Engine, Kinds: kinds.All, Subs: subs, Admit: append(s.admission(), rbac.Steps()...), Log: s.Log,
		Webhook: crd.Through(&p.net),
	})
	if err != nil {
		return nil, err
	}
	p.net.Reads = p.Server
	s.parts.Go(func() { <-ctx.Done(); p.Close() })
	authn.Handler, nodes.Handler = p.Server, p.Server
	if err := s.bootstrap(ctx, p); err != nil {
		return nil, err
	}
	rbac.Follow(ctx, p.Server, func(err error) { s.Log.Warn("Roles cannot be followed", "err", err) })
	select {
	case <-rbac.Ready():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := s.serve(ctx, listener, p, authn); err != nil {
		return nil, err
	}
	s.Say("API server answers at %s", p.url)
	s.startControllers(ctx, p)
	return p, nil
}

func (s *system) admission() []*admit.Step {
	return admit.All(admit.Settings{Services: s.id.ServiceCIDR, NodePorts: [2]int32{int32(s.NodePortFrom), int32(s.NodePortTo)}})
}

// serve puts the server on the wire and writes the kubeconfig that reaches it.
func (s *system) serve(ctx context.Context, l net.Listener, p *plane, authn *access.Authenticator) error {
	hosts := append([]string{"localhost", "127.0.0.1", s.address.String(), s.id.NodeName, nth(s.id.ServiceCIDR, 1).String(),
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + s.id.Domain}, s.SANs...)
	cert, err := s.certificate("apiserver", pki.Leaf{User: "kube-apiserver", Server: true, Hosts: hosts})
	if err != nil {
		return err
	}
	p.metrics = prometheus.NewRegistry()
	s.measure(p)
	others, err := s.startAggregator(ctx, p)
	if err != nil {
		return err
	}
	p.behind = others.Handler(p.Server)
	handler := httpapi.Serve(access.Authorize(p.behind, p.authorizer), httpapi.Config{
		Groups:       p.Groups,
		MaxBody:      s.MaxObject,
		Remote:       others.Catalog,
		Authenticate: authn.Authenticate,
		Impersonate:  access.Impersonate(p.authorizer),
		Version:      Version(),
		Log:          s.Log,
		Checks: append(s.scrubChecks(),
			httpapi.Check{Name: "store", Probe: func(context.Context) error { return s.engine.Err() }}),
		Register: p.metrics,
		Metrics:  promhttp.HandlerFor(p.metrics, promhttp.HandlerOpts{}),
		Paths:    s.withSnapshot(p, withProfiles(access.IdentityPaths(s.issuer(), authn.Signer))),
	})
	server := httpapi.Server("", &tls.Config{GetCertificate: cert.Server, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}, handler)
	s.part(ctx, "the API's HTTPS server", func(ctx context.Context) error { return serveUntil(ctx, server, l) })

	admin, err := s.ca.Keep(s.Places.PKI(), "admin", pki.Leaf{User: "proa-admin", Groups: []string{api.GroupMasters}}, s.now())
	if err != nil {
		return err
	}
	return pki.Kubeconfig{Cluster: "proa" + s.Places.Suffix, Server: p.url, CA: s.ca.PEM, Client: admin}.Write(s.Places.Kubeconfig())
}

// measure shows the process, what the server holds, and how much of the disk's
// time the store takes.
func (s *system) measure(p *plane) {
	v := Version()
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "kubernetes_build_info", Help: "Always 1; its labels say what was built.",
		ConstLabels: prometheus.Labels{"major": v.Major, "minor": v.Minor, "git_version": v.GitVersion, "git_commit": v.GitCommit,
			"git_tree_state": v.GitTreeState, "build_date": v.BuildDate, "go_version": v.GoVersion, "compiler": v.Compiler, "platform": v.Platform}})
	build.Set(1)
	p.metrics.MustRegister(s.scrubMetrics()...)
	p.metrics.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build,
		p.Server,
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "proa_store_syncs_total", Help: "Syncs of the store's files since the start."},
			func() float64 { return float64(s.engine.Syncs()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "proa_store_revision", Help: "Revision of the last durable write."},
			func() float64 { return float64(s.engine.Revision()) }))
}

// startControllers starts what drives what is towards what is declared.
func (s *system) startControllers(ctx context.Context, p *plane) {
	events := func(component, host string) *record.Recorder {
		r := record.New(core.Event, p.Server, component, host, s.now, s.Log)
		s.parts.Go(func() { r.Run(ctx) })
		return r
	}
	ctl := api.As(api.User{Name: api.UserControllers, Groups: []string{api.GroupAuthenticated}}, p.Server)
	all := controllers.All(controllers.Config{Kinds: p.Server.Kinds, RootCA: string(s.ca.PEM), PodCIDR: s.id.PodCIDR.String(),
		Metrics: metricsFrom(p.behind)})
	s.part(ctx, "the controllers", func(ctx context.Context) error {
		p.controllers.Store(true)
		return control.Run(ctx, ctl, all, control.Config{Log: s.Log, Now: s.now, Events: events("controllers", ""), Register: p.metrics})
	})
	sch := api.As(api.User{Name: api.UserScheduler, Groups: []string{api.GroupAuthenticated}}, p.Server)
	s.part(ctx, "the scheduler", func(ctx context.Context) error {
		p.scheduler.Store(true)
		c := s.placing
		c.Log, c.Now, c.Seed, c.Events = s.Log, s.now, s.SchedulerSeed, events("default-scheduler", "")
		c.Register = p.metrics
		return sched.Run(ctx, sch, c)
	})
}

// listen opens a TCP port, and says who holds it if it is taken.
func (s *system) listen(host string, port int, what string) (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("port %d, for %s, is taken%s: stop what uses it, or give other ports with --ports", port, what, holderOf(port))
	}
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", what, err)
	}
	return l, nil
}

func (s *system) localAddress() string {
	if a, err := netip.ParseAddr(s.Bind); err == nil && !a.IsUnspecified() {
		return s.Bind
	}
	return "127.0.0.1"
}

// certificate keeps one certificate of the cluster's authority, and renews it in time.
func (s *system) certificate(name string, l pki.Leaf) (*pki.Renewer, error) {
	r, err := s.ca.Renewer(s.Places.PKI(), name, l, s.now)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", name, err)
	}
	return r, nil
}

func (s *system) clientTLS(roots *x509.CertPool, name string, l pki.Leaf) (*tls.Config, error) {
	cert, err := s.certificate(name, l)
	if err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: roots, GetClientCertificate: cert.Client, MinVersion: tls.VersionTLS12}, nil
}

// serveUntil serves until ctx ends, then lets requests that are under way finish.
func serveUntil(ctx context.Context, server *http.Server, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { shutdown(server) })
	defer stop()
	err := server.ServeTLS(httpapi.Gather(l), "", "")
	if ctx.Err() != nil {
		shutdown(server)
	}
	return err
}
