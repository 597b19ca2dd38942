package httpapi

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kwatch "k8s.io/apimachinery/pkg/watch"

	"proa/internal/api"
	"proa/internal/kinds/core"
)

// bigPod is about 2 KB, as pods of a cluster are.
func bigPod(name string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "0b2c6f34-bb2a-4a7b-a1a8-0e8a51e7a0aa",
		Labels: map[string]string{"app": "web", "tier": "front"}, Annotations: map[string]string{"a": strings.Repeat("x", 200)}}}
	for i := range 2 {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: fmt.Sprint("c", i), Image: "registry.example.com/team/image:v1.2.3",
			Env:          []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: strings.Repeat("y", 100)}},
			VolumeMounts: []corev1.VolumeMount{{Name: "token", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount", ReadOnly: true}}})
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: fmt.Sprint("c", i), Ready: true, Image: "registry.example.com/team/image:v1.2.3",
			ContainerID: "containerd://" + strings.Repeat("0f", 32)})
	}
	p.Status.Phase = corev1.PodRunning
	return p
}

func benchServer(b *testing.B, pods int) http.Handler {
	s := newShelf()
	for i := range pods {
		s.put(core.Pod.Def(), bigPod(fmt.Sprintf("pod-%05d", i)), kwatch.Added)
	}
	s.log = nil
	return Serve(s, Config{Groups: grouped, Authenticate: byName, Register: prometheus.NewRegistry()})
}

// sink is a ResponseWriter that keeps nothing.
type sink struct {
	h    http.Header
	n    int
	code int
}

func (s *sink) Header() http.Header         { return s.h }
func (s *sink) WriteHeader(code int)        { s.code = code }
func (s *sink) Write(p []byte) (int, error) { s.n += len(p); return len(p), nil }

func benchPath(b *testing.B, h http.Handler, path, accept string) {
	req := httptest.NewRequest("GET", path, nil)
	req.Header.Set("X-Test-User", "u")
	req.Header.Set("Accept", accept)
	b.ReportAllocs()
	for b.Loop() {
		w := sink{h: http.Header{}}
		h.ServeHTTP(&w, req)
		if w.code != 200 {
			b.Fatal(w.code)
		}
		b.SetBytes(int64(w.n))
	}
}

func BenchmarkGet(b *testing.B) {
	h := benchServer(b, 1)
	for _, accept := range []string{api.MediaJSON, api.MediaProtobuf} {
		b.Run(accept[len("application/"):], func(b *testing.B) { benchPath(b, h, "/api/v1/namespaces/default/pods/pod-00000", accept) })
	}
}

func BenchmarkList10k(b *testing.B) {
	h := benchServer(b, 10_000)
	for name, accept := range map[string]string{"json": api.MediaJSON, "protobuf": api.MediaProtobuf,
		"table": "application/json;as=Table;g=meta.k8s.io;v=v1", "metadata": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"} {
		b.Run(name, func(b *testing.B) { benchPath(b, h, "/api/v1/pods", accept) })
	}
}

// BenchmarkGetTLS is a GET over HTTP/2 and TLS on loopback, client included, on
// connections as they are and on those that gather.
func BenchmarkGetTLS(b *testing.B) {
	h := benchServer(b, 1)
	for name, listen := range map[string]func(net.Listener) net.Listener{"plain": func(l net.Listener) net.Listener { return l }, "gathered": Gather} {
		b.Run(name, func(b *testing.B) {
			s := httptest.NewUnstartedServer(nil)
			s.Config = Server("", nil, h)
			s.EnableHTTP2 = true
			s.Listener = listen(s.Listener)
			s.StartTLS()
			defer s.Close()
			c := s.Client()
			b.ReportAllocs()
			before := processorTime(b)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					req, _ := http.NewRequest("GET", s.URL+"/api/v1/namespaces/default/pods/pod-00000", nil)
					req.Header.Set("X-Test-User", "u")
					resp, err := c.Do(req)
					if err != nil {
						b.Error(err)
						return
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
			b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

// processorTime is what this process has used, user and system.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
