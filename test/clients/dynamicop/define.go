package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/openapi"
	"k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"
)

type props = map[string]apiextensionsv1.JSONSchemaProps

func object(description string, p props) apiextensionsv1.JSONSchemaProps {
	return apiextensionsv1.JSONSchemaProps{Type: "object", Description: description, Properties: p}
}

func integer() apiextensionsv1.JSONSchemaProps {
	return apiextensionsv1.JSONSchemaProps{Type: "integer", Format: "int32"}
}

func text() apiextensionsv1.JSONSchemaProps { return apiextensionsv1.JSONSchemaProps{Type: "string"} }

// definition is a CRD of one version.
func definition(plural, kind string, scope apiextensionsv1.ResourceScope, spec, status apiextensionsv1.JSONSchemaProps) *apiextensionsv1.CustomResourceDefinition {
	root := object("A "+kind+" grows.", props{"spec": spec, "status": status})
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + "." + gardens.Group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: gardens.Group, Scope: scope,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Kind: kind},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &root},
				Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
			}},
		},
	}
}

func gardenDefinition() *apiextensionsv1.CustomResourceDefinition {
	beds := integer()
	beds.Minimum, beds.Default = new(float64(0)), &apiextensionsv1.JSON{Raw: []byte("2")}
	free := apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: new(true)}
	spec := object("What is to grow.", props{"beds": beds, "kind": text(), "soil": text(), "notes": free})
	crd := definition("gardens", "Garden", apiextensionsv1.NamespaceScoped, spec, object("", props{"planted": integer(), "selector": text(), "by": text()}))
	crd.Spec.Versions[0].Subresources.Scale = &apiextensionsv1.CustomResourceSubresourceScale{
		SpecReplicasPath: ".spec.beds", StatusReplicasPath: ".status.planted", LabelSelectorPath: new(".status.selector")}
	return crd
}

func plantDefinition() *apiextensionsv1.CustomResourceDefinition {
	return definition("plants", "Plant", apiextensionsv1.NamespaceScoped, object("", props{"kind": text()}), object("", props{"height": integer()}))
}

// unknown asks for a kind before it is there; the answer is remembered.
func (w *world) unknown(ctx context.Context) error {
	_, err := w.mapper.RESTMapping(schema.GroupKind{Group: gardens.Group, Kind: "Garden"})
	if !meta.IsNoMatchError(err) {
		return fmt.Errorf("mapped: %w", err)
	}
	_, err = w.dynamic.Resource(gardens).Namespace(ns).List(ctx, metav1.ListOptions{})
	if !apierrors.IsNotFound(err) || !strings.Contains(err.Error(), "the server could not find the requested resource") {
		return fmt.Errorf("a list: %w", err)
	}
	return nil
}

// establish creates a definition and waits, as a watch shows it, until it is established.
func (w *world) establish(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) error {
	made, err := w.crds.ApiextensionsV1().CustomResourceDefinitions().Create(ctx, crd, metav1.CreateOptions{FieldManager: "dynamicop"})
	if err != nil {
		return err
	}
	if n := made.Spec.Names; n.Singular == "" || n.ListKind == "" || made.Spec.Conversion == nil || made.Spec.Conversion.Strategy != apiextensionsv1.NoneConverter {
		return fmt.Errorf("made without defaults: %+v", made.Spec)
	}
	selector := fields.OneTermEqualSelector("metadata.name", crd.Name).String()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			return w.crds.ApiextensionsV1().CustomResourceDefinitions().List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return w.crds.ApiextensionsV1().CustomResourceDefinitions().Watch(ctx, o)
		},
	}
	_, err = toolswatch.UntilWithSync(ctx, lw, &apiextensionsv1.CustomResourceDefinition{}, nil, func(e watch.Event) (bool, error) {
		got, ok := e.Object.(*apiextensionsv1.CustomResourceDefinition)
		if !ok {
			return false, fmt.Errorf("event %+v", e)
		}
		return is(got, apiextensionsv1.Established) && is(got, apiextensionsv1.NamesAccepted), nil
	})
	return err
}

func is(crd *apiextensionsv1.CustomResourceDefinition, what apiextensionsv1.CustomResourceDefinitionConditionType) bool {
	for _, c := range crd.Status.Conditions {
		if c.Type == what {
			return c.Status == apiextensionsv1.ConditionTrue
		}
	}
	return false
}

func (w *world) define(ctx context.Context) error {
	for _, crd := range []*apiextensionsv1.CustomResourceDefinition{gardenDefinition(), plantDefinition()} {
		if err := w.establish(ctx, crd); err != nil {
			return fmt.Errorf("%s: %w", crd.Name, err)
		}
	}
	return until(ctx, "it is mapped", func() (bool, error) {
		w.mapper.Reset()
		m, err := w.mapper.RESTMapping(schema.GroupKind{Group: gardens.Group, Kind: "Garden"})
		if err == nil && (m.Resource != gardens || m.Scope.Name() != meta.RESTScopeNameNamespace) {
			return false, fmt.Errorf("mapped to %+v", m)
		}
		if err == nil {
			_, err = w.mapper.RESTMapping(schema.GroupKind{Group: gardens.Group, Kind: "Plant"})
		}
		if meta.IsNoMatchError(err) {
			return false, nil
		}
		return err == nil, err
	})
}

// taken defines a kind whose name another definition has.
func (w *world) taken(ctx context.Context) error {
	crds := w.crds.ApiextensionsV1().CustomResourceDefinitions()
	crd := definition("gardenings", "Garden", apiextensionsv1.NamespaceScoped, object("", nil), object("", nil))
	crd.Spec.Names.ListKind = "GardeningList"
	if _, err := crds.Create(ctx, crd, metav1.CreateOptions{}); err != nil {
		return err
	}
	err := until(ctx, "the names are not accepted", func() (bool, error) {
		got, err := crds.Get(ctx, crd.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, c := range got.Status.Conditions {
			if c.Type == apiextensionsv1.NamesAccepted && c.Status == apiextensionsv1.ConditionFalse {
				if c.Reason != "KindConflict" || !strings.Contains(c.Message, `"Garden" is already in use`) {
					return false, fmt.Errorf("%+v", c)
				}
				return !is(got, apiextensionsv1.Established), nil
			}
		}
		return false, nil
	})
	if err != nil {
		return err
	}
	if err := crds.Delete(ctx, crd.Name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	bad := gardenDefinition()
	bad.Name = "other." + gardens.Group
	if _, err := crds.Create(ctx, bad, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		return fmt.Errorf("a definition of another name: %w", err)
	}
	return nil
}

// published reads the schema as kubectl explain does.
func (w *world) published(ctx context.Context) error {
	type components struct {
		Components struct {
			Schemas map[string]struct {
				Description string `json:"description"`
				Kinds       []struct {
					Group, Version, Kind string
				} `json:"x-kubernetes-group-version-kind"`
				Properties map[string]json.RawMessage `json:"properties"`
			} `json:"schemas"`
		} `json:"components"`
		Paths map[string]json.RawMessage `json:"paths"`
	}
	return until(ctx, "the schema is published", func() (bool, error) {
		paths, err := w.core.Discovery().OpenAPIV3().Paths()
		if err != nil {
			return false, err
		}
		var gv openapi.GroupVersion
		if gv = paths["apis/"+gardens.Group+"/v1"]; gv == nil {
			return false, nil
		}
		b, err := gv.Schema("application/json")
		if err != nil {
			return false, err
		}
		var doc components
		if err := json.Unmarshal(b, &doc); err != nil {
			return false, err
		}
		for _, path := range []string{"", "/{name}", "/{name}/status", "/{name}/scale"} {
			if doc.Paths["/apis/plants.example.com/v1/namespaces/{namespace}/gardens"+path] == nil {
				return false, nil
			}
		}
		garden, ok := doc.Components.Schemas["com.example.plants.v1.Garden"]
		if !ok || garden.Description != "A Garden grows." || len(garden.Kinds) != 1 || garden.Kinds[0].Kind != "Garden" || garden.Properties["metadata"] == nil {
			return false, fmt.Errorf("the schema of Garden: %+v", garden)
		}
		if doc.Components.Schemas["com.example.plants.v1.GardenList"].Kinds == nil {
			return false, errors.New("no schema of GardenList")
		}
		return true, ctx.Err()
	})
}
