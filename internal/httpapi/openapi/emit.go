//go:build ignore

// Program emit writes the generated OpenAPI definitions to a compressed file of
// lines: "3 NAME JSON" for the OpenAPI v3 form of a definition, and "2 NAME
// JSON" for the v2 form of the few that cannot be derived from it.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"os"
	"reflect"
	"slices"

	"github.com/klauspost/compress/zstd"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsv1beta1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistrationv1beta1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1beta1"
	"k8s.io/kube-openapi/pkg/builder3/util"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"proa/internal/httpapi/openapi/defs"
)

func main() {
	kinds := kindsByName()
	all := defs.GetOpenAPIDefinitions(func(name string) spec.Ref {
		return spec.MustCreateRef("#/components/schemas/" + name)
	})
	var out bytes.Buffer
	line := func(version, name string, s *spec.Schema) {
		b, err := json.Marshal(s)
		if err != nil {
			log.Fatalf("%s: %v", name, err)
		}
		fmt.Fprintf(&out, "%s %s %s\n", version, name, b)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := all[name].Schema
		if v2, ok := s.Extensions[common.ExtensionV2Schema]; ok {
			old := v2.(spec.Schema)
			line("2", name, &old)
			s.Extensions = maps.Clone(s.Extensions)
			delete(s.Extensions, common.ExtensionV2Schema)
		}
		if k := kinds[name]; k != nil {
			s.AddExtension("x-kubernetes-group-version-kind", k)
		}
		line("3", name, util.WrapRefs(&s))
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(4<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		log.Fatal(err)
	}
	packed := z.EncodeAll(out.Bytes(), nil)
	if err := os.WriteFile(os.Args[1], packed, 0o644); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d definitions, %d bytes, %d compressed\n", len(all), out.Len(), len(packed))
}

// kindsByName says which group, version and kind each definition is served as.
func kindsByName() map[string][]any {
	out := map[string][]any{}
	for _, add := range []func(*runtime.Scheme) error{apiextensionsv1.AddToScheme, apiextensionsv1beta1.AddToScheme,
		apiregistrationv1.AddToScheme, apiregistrationv1beta1.AddToScheme} {
		if err := add(scheme.Scheme); err != nil {
			log.Fatal(err)
		}
	}
	types := scheme.Scheme.AllKnownTypes()
	var names []string
	for k := range types {
		names = append(names, k.Group+" "+k.Version+" "+k.Kind)
	}
	slices.Sort(names)
	for _, n := range names {
		for k, t := range types {
			if k.Group+" "+k.Version+" "+k.Kind != n || k.Version == "__internal" {
				continue
			}
			if m, ok := reflect.New(t).Interface().(interface{ OpenAPIModelName() string }); ok {
				out[m.OpenAPIModelName()] = append(out[m.OpenAPIModelName()], map[string]string{"group": k.Group, "version": k.Version, "kind": k.Kind})
			}
		}
	}
	return out
}
