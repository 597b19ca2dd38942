package apiserver_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/admit"
	"proa/internal/kinds/core"
)

func fromYAML[T any](t *testing.T, text string) *T {
	t.Helper()
	o := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return o
}

// limit makes the LimitRanges of a namespace of its own, and the account that pods need.
func limit(t *testing.T, s *apiserver.Server, ns string, specs ...string) {
	t.Helper()
	if _, err := core.Namespace.Create(t.Context(), s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
		t.Fatal(err)
	}
	account(t, s, ns)
	for i, spec := range specs {
		l := fromYAML[corev1.LimitRange](t, "spec: {limits: ["+spec+"]}")
		l.Namespace, l.Name = ns, string(rune('a'+i))
		if _, err := core.LimitRange.Create(t.Context(), s, l); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLimitsFillIn checks what containers are given, and what is said of it.
func TestLimitsFillIn(t *testing.T) {
	s := admitting(t, admit.Settings{})
	for i, tt := range []struct {
		name        string
		limits      []string
		spec        string
		want        string // resources of the containers, init containers first
		annotations string
	}{
		{"nothing said", []string{"{type: Container, default: {cpu: 200m, memory: 64Mi}, defaultRequest: {cpu: 100m}}"},
			"containers: [{name: c, image: i}]", "cpu 100m/200m memory 64Mi/64Mi",
			"LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c"},
		{"all said", []string{"{type: Container, default: {cpu: 200m}, defaultRequest: {cpu: 100m}}"},
			"containers: [{name: c, image: i, resources: {requests: {cpu: 1}, limits: {cpu: 2}}}]", "cpu 1/2", ""},
		{"half said", []string{"{type: Container, default: {cpu: 200m}, defaultRequest: {cpu: 100m}}"},
			"containers: [{name: c, image: i, resources: {requests: {cpu: 150m}}}]", "cpu 150m/200m",
			"LimitRanger plugin set: cpu limit for container c"},
		{"a limit is a request", []string{"{type: Container, default: {cpu: 2}, defaultRequest: {cpu: 1}}"},
			"containers: [{name: c, image: i, resources: {limits: {cpu: 500m}}}]", "cpu 500m/500m", ""},
		{"init containers", []string{"{type: Container, defaultRequest: {cpu: 100m}}"},
			"initContainers: [{name: x, image: i}, {name: z, image: i, restartPolicy: Always}]\ncontainers: [{name: c, image: i}, {name: d, image: i}]",
			"cpu 100m/0; cpu 100m/0; cpu 100m/0; cpu 100m/0",
			"LimitRanger plugin set: cpu request for container c; cpu request for container d; cpu request for init container x; cpu request for init container z"},
		{"the most is the default", []string{"{type: Container, max: {cpu: 3}, min: {memory: 1Mi}}"},
			"containers: [{name: c, image: i}]", "cpu 3/3 memory 1Mi/0",
			"LimitRanger plugin set: cpu, memory request for container c; cpu limit for container c"},
		{"two ranges", []string{"{type: Container, default: {cpu: 1}}", "{type: Container, default: {cpu: 2, memory: 1Gi}}"},
			"containers: [{name: c, image: i}]", "cpu 1/1 memory 1Gi/1Gi",
			"LimitRanger plugin set: memory request for container c; memory limit for container c"},
		{"bounds of pods give nothing", []string{"{type: Pod, max: {example.com/x: 3}}"},
			"containers: [{name: c, image: i, resources: {limits: {example.com/x: 1}}}]", "example.com/x 1/1", ""},
	} {
		ns := "fill-" + string(rune('a'+i))
		limit(t, s, ns, tt.limits...)
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "p"}, Spec: *fromYAML[corev1.PodSpec](t, tt.spec)}
		made, err := core.Pod.Create(t.Context(), s, p)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var got []string
		for _, list := range [][]corev1.Container{made.Spec.InitContainers, made.Spec.Containers} {
			for _, c := range list {
				var one []string
				for _, name := range []corev1.ResourceName{"cpu", "example.com/x", "memory"} {
					r, l := c.Resources.Requests[name], c.Resources.Limits[name]
					if !r.IsZero() || !l.IsZero() {
						one = append(one, string(name)+" "+r.String()+"/"+l.String())
					}
				}
				got = append(got, strings.Join(one, " "))
			}
		}
		if text := strings.Join(got, "; "); text != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, text, tt.want)
		}
		if a := made.Annotations["kubernetes.io/limit-ranger"]; a != tt.annotations {
			t.Errorf("%s: annotation %q, want %q", tt.name, a, tt.annotations)
		}
	}
}

// TestLimitsRefuse checks what is refused, and in which words.
func TestLimitsRefuse(t *testing.T) {
	s := admitting(t, admit.Settings{})
	one := func(resources string) string {
		return "containers: [{name: c, image: i, resources: {" + resources + "}}]"
	}
	for i, tt := range []struct {
		name, limits, spec string
		want               string // empty: it is fine
	}{
		{"least", "{type: Container, min: {cpu: 200m}}", one("requests: {cpu: 100m}"), "minimum cpu usage per Container is 200m, but request is 100m"},
		{"least of the limit", "{type: Container, min: {cpu: 200m}, max: {cpu: 4}}", one("requests: {cpu: 200m}, limits: {cpu: 200m}"), ""},
		{"least, nothing said", "{type: Pod, min: {cpu: 200m}}", one(""), "minimum cpu usage per Pod is 200m.  No request is specified"},
		{"most", "{type: Container, max: {memory: 1Gi}}", one("limits: {memory: 2Gi}"), "maximum memory usage per Container is 1Gi, but limit is 2Gi"},
		{"most, exactly", "{type: Container, max: {memory: 1Gi}}", one("limits: {memory: 1024Mi}"), ""},
		{"most, nothing said", "{type: Pod, max: {memory: 1Gi}}", one("requests: {memory: 1Mi}"), "maximum memory usage per Pod is 1Gi.  No limit is specified"},
		{"ratio", "{type: Container, maxLimitRequestRatio: {cpu: 2}}", one("requests: {cpu: 100m}, limits: {cpu: 300m}"), "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"},
		{"ratio, exactly", "{type: Container, maxLimitRequestRatio: {cpu: 11}}", one("requests: {cpu: 100m}, limits: {cpu: 1100m}"), ""},
		{"ratio, no request", "{type: Container, maxLimitRequestRatio: {cpu: 2}}", one(""), "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0"},
		{"ratio, no limit", "{type: Container, maxLimitRequestRatio: {cpu: 2}}", one("requests: {cpu: 1}"), "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0"},
		{"init containers", "{type: Container, max: {cpu: 1}}", "initContainers: [{name: x, image: i, resources: {limits: {cpu: 2}}}]\ncontainers: [{name: c, image: i}]",
			"maximum cpu usage per Container is 1, but limit is 2"},
		{"sum", "{type: Pod, max: {cpu: 1}}", "containers: [{name: c, image: i, resources: {limits: {cpu: 600m}}}, {name: d, image: i, resources: {limits: {cpu: 500m}}}]",
			"maximum cpu usage per Pod is 1, but limit is 1100m"},
		{"sum of one after the other", "{type: Pod, max: {cpu: 1}}", "initContainers: [{name: x, image: i, resources: {limits: {cpu: 1}}}]\ncontainers: [{name: c, image: i, resources: {limits: {cpu: 1}}}]", ""},
		{"sum with a sidecar", "{type: Pod, max: {cpu: 1}}", "initContainers: [{name: x, image: i, restartPolicy: Always, resources: {limits: {cpu: 1}}}]\ncontainers: [{name: c, image: i, resources: {limits: {cpu: 1}}}]",
			"maximum cpu usage per Pod is 1, but limit is 2"},
		{"of the pod as a whole", "{type: Pod, max: {cpu: 1}}", "resources: {limits: {cpu: 2}}\n" + one("requests: {cpu: 100m}"), "maximum cpu usage per Pod is 1, but limit is 2"},
		{"several", "{type: Pod, max: {cpu: 1, memory: 1Mi}}", one("limits: {cpu: 2, memory: 2Mi}"),
			"[maximum cpu usage per Pod is 1, but limit is 2, maximum memory usage per Pod is 1Mi, but limit is 2Mi]"},
		{"claims are none of it", "{type: PersistentVolumeClaim, max: {storage: 1}}", one(""), ""},
	} {
		ns := "refuse-" + string(rune('a'+i))
		limit(t, s, ns, tt.limits)
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "p"}, Spec: *fromYAML[corev1.PodSpec](t, tt.spec)}
		_, err := core.Pod.Create(t.Context(), s, p)
		want := `pods "p" is forbidden: ` + tt.want
		switch {
		case tt.want == "" && err != nil, tt.want != "" && err == nil:
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		case tt.want != "" && (err.Error() != want || !apierrors.IsForbidden(err)):
			t.Errorf("%s: got %v, want %s", tt.name, err, want)
		}
	}
}

// TestLimitsOfClaims checks what claims may request, when they are made and when they grow.
func TestLimitsOfClaims(t *testing.T) {
	s := admitting(t, admit.Settings{})
	limit(t, s, "claims", "{type: PersistentVolumeClaim, min: {storage: 1Gi}, max: {storage: 10Gi}}")
	claim := func(name, size string) *corev1.PersistentVolumeClaim {
		c := fromYAML[corev1.PersistentVolumeClaim](t, "spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: "+size+"}}}")
		c.Namespace, c.Name = "claims", name
		return c
	}
	for size, want := range map[string]string{
		"512Mi": `persistentvolumeclaims "c" is forbidden: minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 512Mi`,
		"11Gi":  `persistentvolumeclaims "c" is forbidden: maximum storage usage per PersistentVolumeClaim is 10Gi, but request is 11Gi`,
	} {
		if _, err := core.PersistentVolumeClaim.Create(t.Context(), s, claim("c", size)); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", size, err, want)
		}
	}
	made, err := core.PersistentVolumeClaim.Create(t.Context(), s, claim("c", "2Gi"))
	if err != nil {
		t.Fatal(err)
	}
	made = made.DeepCopy()
	made.Spec.Resources.Requests = claim("c", "20Gi").Spec.Resources.Requests
	_, err = core.PersistentVolumeClaim.Update(t.Context(), s, made)
	if err == nil || apierrors.IsForbidden(err) {
		t.Errorf("that it cannot grow at all is to be said first: %v", err)
	}
}

// TestLimitsLater checks that a LimitRange is about what comes after it: pods
// that are there may be changed, but not resized out of bounds.
func TestLimitsLater(t *testing.T) {
	s := admitting(t, admit.Settings{})
	ctx := t.Context()
	limit(t, s, "later")
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "later", Name: "p"}, Spec: *fromYAML[corev1.PodSpec](t,
		"containers: [{name: c, image: i, resources: {requests: {cpu: 3}, limits: {cpu: 3}}}]")}
	if _, err := core.Pod.Create(ctx, s, p); err != nil {
		t.Fatal(err)
	}
	l := fromYAML[corev1.LimitRange](t, "{metadata: {name: l, namespace: later}, spec: {limits: [{type: Container, max: {cpu: 2}}]}}")
	if _, err := core.LimitRange.Create(ctx, s, l); err != nil {
		t.Fatal(err)
	}
	patch := func(sub, text string) error {
		_, err := s.Handle(ctx, &api.Request{Verb: api.Patch, Resource: core.Pod.Def(), Sub: sub, Namespace: "later", Name: "p",
			Patch: types.StrategicMergePatchType, Body: []byte(text)})
		return err
	}
	if err := patch("", `{"metadata":{"labels":{"a":"b"}}}`); err != nil {
		t.Errorf("a label: %v", err)
	}
	size := func(cpu string) error {
		return patch("resize", `{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"`+cpu+`"},"limits":{"cpu":"`+cpu+`"}}}]}}`)
	}
	if err := size("2500m"); err == nil || err.Error() != `pods "p" is forbidden: maximum cpu usage per Container is 2, but limit is 2500m` {
		t.Errorf("resized: %v", err)
	}
	if err := size("1500m"); err != nil {
		t.Errorf("resized within bounds: %v", err)
	}
	if err := core.LimitRange.Delete(ctx, s, "later", "l", api.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := size("4"); err != nil {
		t.Errorf("without bounds: %v", err)
	}
}

// TestLimitsAreNobodys checks that what is filled in has no owner, so that a later
// apply does not take it away, and that a quota counts it.
func TestLimitsAreNobodys(t *testing.T) {
	s := admitting(t, admit.Settings{})
	ctx := t.Context()
	limit(t, s, "owned", "{type: Container, default: {memory: 1Gi}, defaultRequest: {cpu: 100m}}")
	q := fromYAML[corev1.ResourceQuota](t, "{metadata: {name: q, namespace: owned}, spec: {hard: {requests.cpu: 150m}}}")
	if _, err := core.ResourceQuota.Create(ctx, s, q); err != nil {
		t.Fatal(err)
	}
	apply := func(name string) (*corev1.Pod, error) {
		resp, err := s.Handle(ctx, &api.Request{Verb: api.Patch, Resource: core.Pod.Def(), Namespace: "owned", Name: name, Patch: types.ApplyYAMLPatchType,
			Options: api.Options{FieldManager: "m"},
			Body:    []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"` + name + `"},"spec":{"containers":[{"name":"c","image":"i","resources":{"requests":{"memory":"1Mi"}}}]}}`)})
		if err != nil {
			return nil, err
		}
		return resp.Item.Public().(*corev1.Pod), nil
	}
	var text string
	for range 2 {
		p, err := apply("p")
		if err != nil {
			t.Fatal(err)
		}
		if c := p.Spec.Containers[0].Resources; c.Requests.Cpu().String() != "100m" || c.Limits.Memory().String() != "1Gi" || c.Requests.Memory().String() != "1Mi" {
			t.Errorf("resources %v", c)
		}
		for _, f := range p.ManagedFields {
			text += string(f.FieldsV1.Raw)
		}
	}
	if strings.Contains(text, "f:cpu") || strings.Contains(text, "f:limits") || strings.Contains(text, "limit-ranger") || !strings.Contains(text, "f:memory") {
		t.Errorf("owned: %s", text)
	}
	_, err := apply("second")
	refused(t, err, "exceeded quota: q, requested: requests.cpu=100m, used: requests.cpu=100m, limited: requests.cpu=150m")
}
