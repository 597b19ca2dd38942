// Command typed serves core/v1 Pods with Kubernetes' own API machinery, as its
// API server does: the generic registry, protobuf in etcd, a watch cache, field
// ownership with Pod's schema, client certificates. Pod's defaults and
// validation, admission, and flow control are not in it, which flatters it.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/compatibility"
	"k8s.io/client-go/applyconfigurations"
)

type settings struct {
	etcd, cert, key, ca string
	port                int
}

func main() {
	var s settings
	flag.StringVar(&s.etcd, "etcd", "", "`URL` of etcd")
	flag.StringVar(&s.cert, "cert", "", "the server's certificate")
	flag.StringVar(&s.key, "key", "", "and its key")
	flag.StringVar(&s.ca, "client-ca", "", "authority of clients")
	flag.IntVar(&s.port, "port", 0, "port on 127.0.0.1")
	flag.Parse()
	if err := run(s); err != nil {
		fmt.Fprintln(os.Stderr, "typed:", err)
		os.Exit(1)
	}
}

func run(s settings) error {
	ctx := server.SetupSignalContext()
	codec := codecs.LegacyCodec(corev1.SchemeGroupVersion)
	o := options.NewRecommendedOptions("/registry", codec)
	o.Etcd.StorageConfig.EncodeVersioner = corev1.SchemeGroupVersion
	o.Etcd.StorageConfig.Transport.ServerList = []string{s.etcd}
	o.Etcd.DefaultStorageMediaType = runtime.ContentTypeProtobuf
	o.SecureServing.BindAddress, o.SecureServing.BindPort = net.ParseIP("127.0.0.1"), s.port
	o.SecureServing.ServerCert.CertKey = options.CertKey{CertFile: s.cert, KeyFile: s.key}
	o.Authentication.ClientCert.ClientCA = s.ca
	o.Authentication.RemoteKubeConfigFileOptional, o.Authentication.SkipInClusterLookup = true, true

	config := server.NewConfig(codecs)
	config.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
	config.MaxRequestsInFlight, config.MaxMutatingRequestsInFlight = 0, 0
	config.Authorization.Authorizer = authorizerfactory.NewAlwaysAllowAuthorizer()
	for _, apply := range []func() error{
		func() error { return o.SecureServing.ApplyToConfig(config) },
		func() error { return o.Authentication.ApplyTo(&config.Authentication, config.SecureServing, nil) },
		func() error { return o.Etcd.ApplyTo(config) },
	} {
		if err := apply(); err != nil {
			return err
		}
	}
	generic, err := config.Complete(nil).New("typed", server.NewEmptyDelegate())
	if err != nil {
		return err
	}
	if err := install(config, generic); err != nil {
		return err
	}
	return generic.PrepareRun().RunWithContext(ctx)
}

// install does what InstallLegacyAPIGroup does, with a schema that was made by
// Kubernetes' own generator and comes with client-go.
func install(config *server.Config, generic *server.GenericAPIServer) error {
	store, err := newStore(config.RESTOptionsGetter)
	if err != nil {
		return err
	}
	info := server.NewDefaultAPIGroupInfo("", scheme, runtime.NewParameterCodec(scheme), codecs)
	_, _, err = (&endpoints.APIGroupVersion{
		Storage: map[string]rest.Storage{"pods": store}, Root: "/api", GroupVersion: corev1.SchemeGroupVersion,
		AllServedVersionsByResource: map[string][]string{"pods": {"v1"}}, OptionsExternalVersion: info.OptionsExternalVersion,
		ParameterCodec: metav1.ParameterCodec, Serializer: info.NegotiatedSerializer,
		Typer: scheme, Creater: scheme, Convertor: scheme, ConvertabilityChecker: scheme, Defaulter: scheme,
		Namer: runtime.Namer(meta.NewAccessor()), UnsafeConvertor: runtime.UnsafeObjectConvertor(scheme),
		TypeConverter: applyconfigurations.NewTypeConverter(scheme), EquivalentResourceRegistry: generic.EquivalentResourceRegistry,
		Authorizer: generic.Authorizer, MinRequestTimeout: 30 * time.Minute, MaxRequestBodyBytes: 3 << 20,
	}).InstallREST(generic.Handler.GoRestfulContainer)
	return err
}
