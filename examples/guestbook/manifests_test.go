// Package guestbook checks the example's manifests; its program is in frontend.
package guestbook

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

// load decodes every document, strictly: a misspelt field is an error.
func load(t *testing.T) []runtime.Object {
	t.Helper()
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no manifests", err)
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	var objects []runtime.Object
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for r := yaml.NewYAMLReader(bufReader(body)); ; {
			doc, err := r.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(file, err)
			}
			object, _, err := decoder.Decode(doc, nil, nil)
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			objects = append(objects, object)
		}
	}
	return objects
}

// The parts must find each other: selectors select, ports have names, volumes
// and references exist.
func TestManifestsFitTogether(t *testing.T) {
	objects := load(t)
	configs, secrets := map[string]*corev1.ConfigMap{}, map[string]*corev1.Secret{}
	var pods []corev1.PodTemplateSpec
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.ConfigMap:
			configs[o.Name] = o
		case *corev1.Secret:
			secrets[o.Name] = o
		case *appsv1.Deployment:
			pods = append(pods, o.Spec.Template)
			if !matches(o.Spec.Selector.MatchLabels, o.Spec.Template) {
				t.Errorf("deployment %s does not select its own pods", o.Name)
			}
		}
	}
	if len(pods) != 3 {
		t.Errorf("%d deployments, want 3", len(pods))
	}
	for _, pod := range pods {
		for _, c := range pod.Spec.Containers {
			checkContainer(t, pod.Spec, c, configs, secrets)
		}
	}
	services := 0
	for _, o := range objects {
		if s, ok := o.(*corev1.Service); ok {
			services++
			checkService(t, s, pods)
		}
	}
	if services != 3 {
		t.Errorf("%d services, want 3", services)
	}
}

func matches(selector map[string]string, pod corev1.PodTemplateSpec) bool {
	return labels.SelectorFromSet(selector).Matches(labels.Set(pod.Labels))
}

func checkService(t *testing.T, s *corev1.Service, pods []corev1.PodTemplateSpec) {
	t.Helper()
	found := 0
	for _, pod := range pods {
		if !matches(s.Spec.Selector, pod) {
			continue
		}
		found++
		for _, p := range s.Spec.Ports {
			if !hasPort(pod.Spec.Containers[0], p.TargetPort.StrVal) {
				t.Errorf("service %s: pods have no port %q", s.Name, p.TargetPort.StrVal)
			}
		}
	}
	if found != 1 {
		t.Errorf("service %s selects the pods of %d deployments, want 1", s.Name, found)
	}
}

func hasPort(c corev1.Container, name string) bool {
	for _, p := range c.Ports {
		if p.Name == name {
			return true
		}
	}
	return false
}

func checkContainer(t *testing.T, pod corev1.PodSpec, c corev1.Container, configs map[string]*corev1.ConfigMap, secrets map[string]*corev1.Secret) {
	t.Helper()
	if c.Resources.Limits.Memory().IsZero() || c.ReadinessProbe == nil || c.LivenessProbe == nil || c.StartupProbe == nil {
		t.Errorf("%s: wants limits and all three probes", c.Image)
	}
	for _, p := range []*corev1.Probe{c.ReadinessProbe, c.LivenessProbe, c.StartupProbe} {
		if g := p.HTTPGet; g != nil && !hasPort(c, g.Port.StrVal) {
			t.Errorf("%s: a probe asks port %q", c.Image, g.Port.StrVal)
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom == nil || e.ValueFrom.SecretKeyRef == nil {
			continue
		}
		ref := e.ValueFrom.SecretKeyRef
		if s := secrets[ref.Name]; s == nil || s.StringData[ref.Key] == "" {
			t.Errorf("%s: no key %s in secret %s", c.Image, ref.Key, ref.Name)
		}
	}
	for _, from := range c.EnvFrom {
		if configs[from.ConfigMapRef.Name] == nil {
			t.Errorf("%s: no config map %s", c.Image, from.ConfigMapRef.Name)
		}
	}
	volumes := map[string]corev1.Volume{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = v
		if v.ConfigMap != nil && configs[v.ConfigMap.Name] == nil {
			t.Errorf("%s: no config map %s", c.Image, v.ConfigMap.Name)
		}
	}
	for _, m := range c.VolumeMounts {
		if _, ok := volumes[m.Name]; !ok {
			t.Errorf("%s: no volume %s", c.Image, m.Name)
		}
	}
}

func bufReader(body []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(body)) }
