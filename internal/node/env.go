package node

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sort"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

type envVar struct{ Name, Value string }

// expand replaces $(NAME) by its value and $$ by $. A name without a value stays
// as it is written.
func expand(text string, lookup func(string) (string, bool)) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '$' || i+1 == len(text) {
			b.WriteByte(text[i])
			continue
		}
		switch text[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(text[i:], ')')
			if end < 0 {
				b.WriteString("$(")
				i++
				continue
			}
			if v, ok := lookup(text[i+2 : i+end]); ok {
				b.WriteString(v)
			} else {
				b.WriteString(text[i : i+end+1])
			}
			i += end
		default:
			b.WriteString(text[i : i+2])
			i++
		}
	}
	return b.String()
}

func expandAll(list []string, lookup func(string) (string, bool)) (out []string) {
	for _, s := range list {
		out = append(out, expand(s, lookup))
	}
	return out
}

func expander(env []envVar) func(string) (string, bool) {
	m := make(map[string]string, len(env))
	for _, e := range env {
		m[e.Name] = e.Value
	}
	return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
}

// An environment is built up in the order in which later entries win.
type environment struct {
	vars  []envVar
	index map[string]int
}

func (e *environment) set(name, value string) {
	if i, ok := e.index[name]; ok {
		e.vars[i].Value = value
		return
	}
	e.index[name] = len(e.vars)
	e.vars = append(e.vars, envVar{name, value})
}

func (e *environment) lookup(name string) (string, bool) {
	if i, ok := e.index[name]; ok {
		return e.vars[i].Value, true
	}
	return "", false
}

// sources reads the ConfigMaps and Secrets of one container, each at most once.
type sources struct {
	a       *Agent
	ns      string
	maps    map[string]*corev1.ConfigMap
	secrets map[string]*corev1.Secret
}

func (s *sources) configMap(ctx context.Context, name string) (*corev1.ConfigMap, error) {
	if m, ok := s.maps[name]; ok {
		return m, nil
	}
	m, err := core.ConfigMap.Get(ctx, s.a.Handler, s.ns, name)
	if apierrors.IsNotFound(err) {
		err = apierrors.NewNotFound(schema.GroupResource{Resource: "configmap"}, name)
	}
	if err == nil {
		s.maps[name] = m
	}
	return m, err
}

func (s *sources) secret(ctx context.Context, name string) (*corev1.Secret, error) {
	if m, ok := s.secrets[name]; ok {
		return m, nil
	}
	m, err := core.Secret.Get(ctx, s.a.Handler, s.ns, name)
	if apierrors.IsNotFound(err) {
		err = apierrors.NewNotFound(schema.GroupResource{Resource: "secret"}, name)
	}
	if err == nil {
		s.secrets[name] = m
	}
	return m, err
}

// env is a container's environment, in order.
func (a *Agent) env(ctx context.Context, pod *corev1.Pod, c *corev1.Container, ips []string) ([]envVar, error) {
	e := &environment{index: map[string]int{}}
	src := &sources{a, pod.Namespace, map[string]*corev1.ConfigMap{}, map[string]*corev1.Secret{}}
	services, err := a.serviceEnv(ctx, pod)
	if err != nil {
		return nil, err
	}
	for i := range c.EnvFrom {
		if err := e.from(ctx, src, &c.EnvFrom[i]); err != nil {
			return nil, err
		}
	}
	svc := expander(services)
	for i := range c.Env {
		v := &c.Env[i]
		if v.ValueFrom == nil {
			e.set(v.Name, expand(v.Value, func(n string) (string, bool) {
				if x, ok := e.lookup(n); ok {
					return x, true
				}
				return svc(n)
			}))
			continue
		}
		value, ok, err := a.valueFrom(ctx, src, pod, c, v.ValueFrom, ips)
		if err != nil {
			return nil, err
		}
		if ok {
			e.set(v.Name, value)
		}
	}
	for _, s := range services {
		if _, ok := e.lookup(s.Name); !ok {
			e.set(s.Name, s.Value)
		}
	}
	return e.vars, nil
}

// from adds all entries of a ConfigMap or Secret.
func (e *environment) from(ctx context.Context, src *sources, f *corev1.EnvFromSource) error {
	add := func(get func(func(k, v string))) {
		var list []envVar
		get(func(k, v string) { list = append(list, envVar{f.Prefix + k, v}) })
		sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
		for _, x := range list {
			if len(validation.IsRelaxedEnvVarName(x.Name)) == 0 {
				e.set(x.Name, x.Value)
			}
		}
	}
	switch {
	case f.ConfigMapRef != nil:
		m, err := src.configMap(ctx, f.ConfigMapRef.Name)
		if err != nil {
			return unlessOptional(err, f.ConfigMapRef.Optional)
		}
		add(func(put func(k, v string)) {
			for k, v := range m.Data {
				put(k, v)
			}
		})
	case f.SecretRef != nil:
		s, err := src.secret(ctx, f.SecretRef.Name)
		if err != nil {
			return unlessOptional(err, f.SecretRef.Optional)
		}
		add(func(put func(k, v string)) {
			for k, v := range s.Data {
				put(k, string(v))
			}
		})
	}
	return nil
}

func unlessOptional(err error, optional *bool) error {
	if is(optional) && apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// valueFrom returns a value from elsewhere; ok is false if it is optional and not there.
func (a *Agent) valueFrom(ctx context.Context, src *sources, pod *corev1.Pod, c *corev1.Container, v *corev1.EnvVarSource, ips []string) (value string, ok bool, err error) {
	switch {
	case v.FieldRef != nil:
		value, err = a.field(pod, v.FieldRef.FieldPath, ips)
		return value, err == nil, err
	case v.ResourceFieldRef != nil:
		of := c
		if n := v.ResourceFieldRef.ContainerName; n != "" {
			if of, _ = containerOf(pod, n); of == nil {
				return "", false, fmt.Errorf("container %s not found", n)
			}
		}
		value, err = a.resourceField(of, v.ResourceFieldRef)
		return value, err == nil, err
	case v.ConfigMapKeyRef != nil:
		r := v.ConfigMapKeyRef
		m, err := src.configMap(ctx, r.Name)
		if err != nil {
			return "", false, unlessOptional(err, r.Optional)
		}
		if value, ok = m.Data[r.Key]; !ok && !is(r.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", r.Key, pod.Namespace, r.Name)
		}
		return value, ok, nil
	case v.SecretKeyRef != nil:
		r := v.SecretKeyRef
		s, err := src.secret(ctx, r.Name)
		if err != nil {
			return "", false, unlessOptional(err, r.Optional)
		}
		b, ok := s.Data[r.Key]
		if !ok && !is(r.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", r.Key, pod.Namespace, r.Name)
		}
		return string(b), ok, nil
	}
	return "", false, nil
}

// field is one field of the pod, as the downward API names it.
func (a *Agent) field(pod *corev1.Pod, path string, ips []string) (string, error) {
	switch path {
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return strings.Join(a.hostIPs[:min(1, len(a.hostIPs))], ""), nil
	case "status.hostIPs":
		return strings.Join(a.hostIPs, ","), nil
	case "status.podIP":
		return strings.Join(ips[:min(1, len(ips))], ""), nil
	case "status.podIPs":
		return strings.Join(ips, ","), nil
	}
	return MetaField(pod, path)
}

// MetaField is a field of the pod's metadata: a name, a UID, one label or
// annotation, or all of them, a line each.
func MetaField(pod *corev1.Pod, path string) (string, error) {
	if name, key, ok := strings.Cut(path, "['"); ok {
		key = strings.TrimSuffix(key, "']")
		switch name {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return lines(pod.Labels), nil
	case "metadata.annotations":
		return lines(pod.Annotations), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

func lines(m map[string]string) string {
	var out []string
	for k, v := range m {
		out = append(out, fmt.Sprintf("%s=%q", k, v))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func (a *Agent) resourceField(c *corev1.Container, r *corev1.ResourceFieldSelector) (string, error) {
	return ResourceField(c, r, a.Machine.Allocatable(a.MaxPods))
}

// ResourceField is a limit or request of a container as a number in units of the
// divisor, rounded up. A limit that is not set is what the node has.
func ResourceField(c *corev1.Container, r *corev1.ResourceFieldSelector, node corev1.ResourceList) (string, error) {
	kind, name, _ := strings.Cut(r.Resource, ".")
	var from corev1.ResourceList
	switch kind {
	case "limits":
		from = c.Resources.Limits
	case "requests":
		from = c.Resources.Requests
	default:
		return "", fmt.Errorf("unsupported container resource : %v", r.Resource)
	}
	q, ok := from[corev1.ResourceName(name)]
	if !ok && kind == "limits" {
		q = node[corev1.ResourceName(name)]
	}
	div := r.Divisor
	if div.IsZero() {
		div = resource.MustParse("1")
	}
	if name == "cpu" {
		return strconv.FormatInt((q.MilliValue()+div.MilliValue()-1)/div.MilliValue(), 10), nil
	}
	return strconv.FormatInt((q.Value()+div.Value()-1)/div.Value(), 10), nil
}

// serviceEnv tells a container where the services of its namespace are, and the
// API in any case.
func (a *Agent) serviceEnv(ctx context.Context, pod *corev1.Pod) ([]envVar, error) {
	byName := map[string]*corev1.Service{}
	if k, err := core.Service.Get(ctx, a.Handler, corev1.NamespaceDefault, "kubernetes"); err == nil {
		byName[k.Name] = k
	} else if !apierrors.IsNotFound(err) {
		return nil, err
	}
	if l := pod.Spec.EnableServiceLinks; l == nil || *l {
		list, err := core.Service.List(ctx, a.Handler, pod.Namespace, api.Selectors{})
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			if s.Name != "kubernetes" || pod.Namespace == corev1.NamespaceDefault {
				byName[s.Name] = s
			}
		}
	}
	names := make([]string, 0, len(byName))
	for n := range byName {
		names = append(names, n)
	}
	slices.Sort(names)
	var out []envVar
	for _, n := range names {
		out = append(out, linkEnv(byName[n])...)
	}
	return out, nil
}

// linkEnv are a service's variables: NAME_SERVICE_HOST and so on, and those that
// Docker links had.
func linkEnv(s *corev1.Service) (out []envVar) {
	ip := s.Spec.ClusterIP
	if ip == "" || ip == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
		return nil
	}
	p := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
	add := func(k, v string) { out = append(out, envVar{p + k, v}) }
	port := func(n int32) string { return strconv.Itoa(int(n)) }
	add("_SERVICE_HOST", ip)
	add("_SERVICE_PORT", port(s.Spec.Ports[0].Port))
	for _, x := range s.Spec.Ports {
		if x.Name != "" {
			add("_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(x.Name, "-", "_")), port(x.Port))
		}
	}
	for i, x := range s.Spec.Ports {
		proto := strings.ToLower(string(x.Protocol))
		if proto == "" {
			proto = "tcp"
		}
		url := proto + "://" + net.JoinHostPort(ip, port(x.Port))
		if i == 0 {
			add("_PORT", url)
		}
		pre := "_PORT_" + port(x.Port) + "_" + strings.ToUpper(proto)
		add(pre, url)
		add(pre+"_PROTO", proto)
		add(pre+"_PORT", port(x.Port))
		add(pre+"_ADDR", ip)
	}
	return out
}
