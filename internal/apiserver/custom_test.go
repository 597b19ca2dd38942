package apiserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/crd"
	"proa/internal/kinds/apiextensions"
	"proa/internal/store/memory"
)

var root = api.User{Name: "root", Groups: []string{api.GroupMasters}}

const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    additionalPrinterColumns: [{name: Size, type: string, jsonPath: .spec.size}]
    selectableFields: [{jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: string, enum: [small, large], default: small}
              replicas: {type: integer, default: 1}
              ports:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, port: {type: integer}}}
            x-kubernetes-validations:
            - {rule: "self.replicas <= 5 || self.size == 'large'", message: too many}
          status: {type: object, properties: {replicas: {type: integer}}}
  - name: v1beta1
    served: true
    storage: false
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

// define makes a definition and establishes it, which is the controllers' business elsewhere.
func define(t *testing.T, s *apiserver.Server, text string) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	c := new(apiextensionsv1.CustomResourceDefinition)
	if err := yaml.UnmarshalStrict([]byte(text), c); err != nil {
		t.Fatal(err)
	}
	made := must[*apiextensionsv1.CustomResourceDefinition](t)(apiextensions.CustomResourceDefinition.Create(t.Context(), s, c))
	made = api.Clone(made)
	made.Status.AcceptedNames = made.Spec.Names
	for _, typ := range []apiextensionsv1.CustomResourceDefinitionConditionType{apiextensionsv1.NamesAccepted, apiextensionsv1.Established} {
		made.Status.Conditions = append(made.Status.Conditions, apiextensionsv1.CustomResourceDefinitionCondition{Type: typ, Status: apiextensionsv1.ConditionTrue})
	}
	return must[*apiextensionsv1.CustomResourceDefinition](t)(apiextensions.CustomResourceDefinition.UpdateStatus(t.Context(), s, made))
}

// redefine changes a definition.
func redefine(t *testing.T, s *apiserver.Server, name string, change func(*apiextensionsv1.CustomResourceDefinition)) {
	t.Helper()
	c := api.Clone(must[*apiextensionsv1.CustomResourceDefinition](t)(apiextensions.CustomResourceDefinition.Get(t.Context(), s, "", name)))
	change(c)
	must[*apiextensionsv1.CustomResourceDefinition](t)(apiextensions.CustomResourceDefinition.Update(t.Context(), s, c))
}

// served is the resource that requests name.
func served(t *testing.T, s *apiserver.Server, gvr string) *api.Resource {
	t.Helper()
	want, _ := schema.ParseResourceArg(gvr)
	for _, g := range s.Groups() {
		for _, r := range g.Resources {
			if r.GroupVersionResource == *want {
				return r
			}
		}
	}
	t.Fatalf("%s is not served", gvr)
	return nil
}

type custom struct {
	t *testing.T
	s *apiserver.Server
	r *api.Resource
}

func (c custom) ask(q api.Request, body string) (*api.Response, error) {
	q.Resource, q.User = c.r, root
	if q.Namespace == "" {
		q.Namespace = "default"
	}
	if body != "" {
		q.Body = must[[]byte](c.t)(yaml.YAMLToJSON([]byte(body)))
		q.ContentType = api.MediaJSON
	}
	return c.s.Handle(c.t.Context(), &q)
}

func (c custom) json(resp *api.Response, err error) map[string]any {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
	b := must[[]byte](c.t)(resp.Item.JSON())
	out := map[string]any{}
	if err := json.Unmarshal(b, &out); err != nil {
		c.t.Fatalf("%v: %s", err, b)
	}
	return out
}

func (c custom) make(body string) map[string]any {
	c.t.Helper()
	return c.json(c.ask(api.Request{Verb: api.Create}, body))
}

func (c custom) get(name string) map[string]any {
	c.t.Helper()
	return c.json(c.ask(api.Request{Verb: api.Get, Name: name}, ""))
}

func at(v any, path ...string) any {
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}

func TestCustomResource(t *testing.T) {
	each(t, func(t *testing.T, s *apiserver.Server) {
		define(t, s, widgets)
		c := custom{t, s, served(t, s, "widgets.v1.example.com")}
		made := c.make("{apiVersion: example.com/v1, kind: Widget, metadata: {name: a}, spec: {replicas: 2, extra: 1}, status: {replicas: 9}}")
		if at(made, "spec", "size") != "small" || at(made, "spec", "extra") != nil || made["status"] != nil || at(made, "metadata", "generation") != 1.0 ||
			at(made, "metadata", "uid") == "" || at(made, "metadata", "managedFields") == nil {
			t.Errorf("made %v", made)
		}
		got := c.get("a")
		if fmt.Sprint(got) != fmt.Sprint(made) {
			t.Errorf("made %v\n got %v", made, got)
		}
		_, err := c.ask(api.Request{Verb: api.Create}, "{apiVersion: example.com/v1, kind: Widget, metadata: {name: b}, spec: {replicas: 7, size: tiny}}")
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.size: Unsupported value: \"tiny\"") {
			t.Errorf("a wrong value: %v", err)
		}
		_, err = c.ask(api.Request{Verb: api.Create}, "{apiVersion: example.com/v1, kind: Widget, metadata: {name: b}, spec: {replicas: 7}}")
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "too many") {
			t.Errorf("a broken rule: %v", err)
		}
		_, err = c.ask(api.Request{Verb: api.Create, Options: api.Options{FieldValidation: "Strict"}},
			"{apiVersion: example.com/v1, kind: Widget, metadata: {name: b}, spec: {sise: large}}")
		if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), `unknown field "spec.sise"`) {
			t.Errorf("an unknown field: %v", err)
		}
		patched := c.json(c.ask(api.Request{Verb: api.Patch, Name: "a", Patch: types.MergePatchType}, "{spec: {size: large}}"))
		if at(patched, "spec", "size") != "large" || at(patched, "metadata", "generation") != 2.0 {
			t.Errorf("patched %v", patched)
		}
		status := c.json(c.ask(api.Request{Verb: api.Patch, Name: "a", Sub: "status", Patch: types.MergePatchType}, "{spec: {size: small}, status: {replicas: 2}}"))
		if at(status, "spec", "size") != "large" || at(status, "status", "replicas") != 2.0 || at(status, "metadata", "generation") != 2.0 {
			t.Errorf("status %v", status)
		}
		resp, err := c.ask(api.Request{Verb: api.Get, Name: "a", Sub: "scale"}, "")
		if err != nil || !strings.Contains(fmt.Sprintf("%+v", resp.Object), "Replicas:2") {
			t.Errorf("scale %+v %v", resp, err)
		}
		older := custom{t, s, served(t, s, "widgets.v1beta1.example.com")}
		if o := older.get("a"); o["apiVersion"] != "example.com/v1beta1" || at(o, "spec", "size") != "large" {
			t.Errorf("in another version %v", o)
		}
		older.json(older.ask(api.Request{Verb: api.Patch, Name: "a", Patch: types.MergePatchType}, "{spec: {replicas: 3}}"))
		if o := c.get("a"); o["apiVersion"] != "example.com/v1" || at(o, "spec", "replicas") != 3.0 {
			t.Errorf("written in another version %v", o)
		}
	})
}

func TestCustomApply(t *testing.T) {
	each(t, func(t *testing.T, s *apiserver.Server) {
		define(t, s, widgets)
		c := custom{t, s, served(t, s, "widgets.v1.example.com")}
		apply := func(manager, body string) (*api.Response, error) {
			return c.ask(api.Request{Verb: api.Patch, Name: "a", Patch: types.ApplyYAMLPatchType, Options: api.Options{FieldManager: manager}}, body)
		}
		const head = "{apiVersion: example.com/v1, kind: Widget, metadata: {name: a}, "
		c.json(apply("one", head+"spec: {size: large, ports: [{name: x, port: 1}]}}"))
		two := c.json(apply("two", head+"spec: {ports: [{name: z, port: 2}]}}"))
		if n := len(at(two, "spec", "ports").([]any)); n != 2 {
			t.Errorf("%d ports: %v", n, two)
		}
		if _, err := apply("two", head+"spec: {size: small}}"); !apierrors.IsConflict(err) {
			t.Errorf("another's field: %v", err)
		}
		one := c.json(apply("one", head+"spec: {size: large}}"))
		if n := len(at(one, "spec", "ports").([]any)); n != 1 {
			t.Errorf("%d ports: %v", n, one)
		}
	})
}

func TestCustomRestart(t *testing.T) {
	e := memory.New(nil)
	s := must[*apiserver.Server](t)(apiserver.New(t.Context(), apiserver.Config{Engine: e, Kinds: kindsAll}))
	define(t, s, widgets)
	made := custom{t, s, served(t, s, "widgets.v1.example.com")}.make("{apiVersion: example.com/v1, kind: Widget, metadata: {name: a}, spec: {}}")
	s.Close()
	s = start(t, e, nil)
	c := custom{t, s, served(t, s, "widgets.v1.example.com")}
	if got := c.get("a"); fmt.Sprint(got) != fmt.Sprint(made) {
		t.Errorf("before %v\nafter %v", made, got)
	}
	redefine(t, s, "widgets.example.com", func(d *apiextensionsv1.CustomResourceDefinition) {
		d.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["color"] = apiextensionsv1.JSONSchemaProps{Type: "string", Default: &apiextensionsv1.JSON{Raw: []byte(`"red"`)}}
		delete(d.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"].Properties, "ports")
	})
	if got := c.get("a"); got["color"] != "red" {
		t.Errorf("read by another schema: %v", got)
	}
	redefine(t, s, "widgets.example.com", func(d *apiextensionsv1.CustomResourceDefinition) {
		d.Spec.Versions[0].Storage, d.Spec.Versions[1].Storage = false, true
	})
	if got := c.get("a"); got["apiVersion"] != "example.com/v1" || got["color"] != "red" {
		t.Errorf("stored in an older version: %v", got)
	}
	c.json(c.ask(api.Request{Verb: api.Patch, Name: "a", Patch: types.MergePatchType}, "{spec: {size: large}}"))
	if got := c.get("a"); at(got, "spec", "size") != "large" {
		t.Errorf("written in the new version: %v", got)
	}
}

// TestCustomWebhook converts by a webhook that keeps the size elsewhere.
func TestCustomWebhook(t *testing.T) {
	asked := 0
	hook := func(_ context.Context, _ *apiextensionsv1.WebhookClientConfig, body []byte) ([]byte, error) {
		var review apiextensionsv1.ConversionReview
		if err := json.Unmarshal(body, &review); err != nil {
			return nil, err
		}
		asked++
		review.Response = &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: "Success"}}
		for _, raw := range review.Request.Objects {
			o := map[string]any{}
			if err := json.Unmarshal(raw.Raw, &o); err != nil {
				return nil, err
			}
			o["apiVersion"] = review.Request.DesiredAPIVersion
			if strings.HasSuffix(review.Request.DesiredAPIVersion, "beta1") {
				o["size"] = at(o, "spec", "size")
				delete(o["spec"].(map[string]any), "size")
			} else if o["size"] != nil {
				o["spec"].(map[string]any)["size"] = o["size"]
				delete(o, "size")
			}
			raw.Raw, _ = json.Marshal(o)
			review.Response.ConvertedObjects = append(review.Response.ConvertedObjects, raw)
		}
		review.Request = nil
		return json.Marshal(review)
	}
	s := start(t, memory.New(nil), func(c *apiserver.Config) { c.Webhook = crd.Webhook(hook) })
	text := strings.Replace(widgets, "  versions:", `  conversion:
    strategy: Webhook
    webhook: {conversionReviewVersions: [v1], clientConfig: {url: "https://127.0.0.1:1/"}}
  versions:`, 1)
	define(t, s, text)
	c := custom{t, s, served(t, s, "widgets.v1.example.com")}
	b := custom{t, s, served(t, s, "widgets.v1beta1.example.com")}
	for i := range 3 {
		c.make(fmt.Sprintf("{apiVersion: example.com/v1, kind: Widget, metadata: {name: x%d}, spec: {size: large}}", i))
	}
	if asked > 0 {
		t.Errorf("asked %d times for what is stored so", asked)
	}
	resp := must[*api.Response](t)(b.ask(api.Request{Verb: api.List}, ""))
	if asked != 1 || len(resp.List.Items) != 3 {
		t.Errorf("asked %d times for %d objects", asked, len(resp.List.Items))
	}
	if o := b.get("x1"); o["size"] != "large" || asked != 1 {
		t.Errorf("asked %d times: %v", asked, o)
	}
	made := b.make("{apiVersion: example.com/v1beta1, kind: Widget, metadata: {name: z}, size: large, spec: {}}")
	if made["size"] != "large" {
		t.Errorf("made in the other version: %v", made)
	}
	if o := c.get("z"); at(o, "spec", "size") != "large" {
		t.Errorf("in the version for storage: %v", o)
	}
	w := must[*api.Response](t)(b.ask(api.Request{Verb: api.Watch, At: api.Version{ResourceVersion: resp.List.Items[0].Object().GetResourceVersion()}}, ""))
	for e, err := range w.Events {
		if err != nil || e.Type != watch.Added || e.Item.Object().(*crd.Object).Fields["size"] != "large" {
			t.Errorf("event %v %v %v", e.Type, e.Item, err)
		}
		if e.Item.Object().GetName() == "z" {
			break
		}
	}
}
