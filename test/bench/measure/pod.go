package measure

import (
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Marks of a pod that a contestant replaces by something as long, so that forms
// with lengths in them stay whole.
const (
	NameMark  = "name-mark-of-28-characters-x" // the name; see Name
	ShardMark = "shard-0000"                   // the scheduler and the label shard; see Shard
)

// Name is a name as long as NameMark, which begins with what is given.
func Name(begin string) string {
	return begin + strings.Repeat("x", max(0, len(NameMark)-len(begin)))
}

// Shard is a value as long as ShardMark.
func Shard(n int) string { return fmt.Sprintf("shard-%04d", n) }

// Pod is a Pod of about 2.3 KB as JSON, as a controller would send it; another
// scheduler than the cluster's is to place it. The label shard and the
// scheduler are ShardMark.
func Pod(apiVersion string) string {
	type m = map[string]any
	env := make([]any, 12)
	for n := range env {
		env[n] = m{"name": fmt.Sprintf("SETTING_%02d", n), "value": fmt.Sprintf("value-of-setting-%02d-of-the-program", n)}
	}
	probe := func(path string) any {
		return m{"httpGet": m{"path": path, "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 1, "failureThreshold": 3, "successThreshold": 1}
	}
	resources := m{"requests": m{"cpu": "100m", "memory": "128Mi"}, "limits": m{"cpu": "500m", "memory": "256Mi"}}
	b, err := json.Marshal(m{
		"apiVersion": apiVersion, "kind": "Pod",
		"metadata": m{
			"name": NameMark, "namespace": "default",
			"labels":      m{"app.kubernetes.io/name": "frontend", "app.kubernetes.io/part-of": "shop", "shard": ShardMark, "tier": "web"},
			"annotations": m{"prometheus.io/scrape": "true", "prometheus.io/port": "9090", "example.com/checksum": "0f343b0931126a20f133d67c2b018a3b5f8d4f0e7c7a3d9a3f9ab7f8d1cbe7a2"},
		},
		"spec": m{
			"schedulerName": ShardMark, "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
			"containers": []any{m{
				"name": "web", "image": "registry.example.com/shop/frontend:v1.42.7", "imagePullPolicy": "IfNotPresent",
				"command": []any{"/bin/frontend"}, "args": []any{"--listen=:8080", "--backend=http://backend.default.svc.cluster.local:8080"},
				"ports": []any{m{"name": "http", "containerPort": 8080, "protocol": "TCP"}, m{"name": "metrics", "containerPort": 9090, "protocol": "TCP"}},
				"env":   env, "resources": resources, "livenessProbe": probe("/healthz"), "readinessProbe": probe("/readyz"),
				"volumeMounts": []any{m{"name": "settings", "mountPath": "/etc/frontend"}, m{"name": "scratch", "mountPath": "/tmp"}},
			}},
			"volumes": []any{m{"name": "settings", "configMap": m{"name": "frontend-settings"}}, m{"name": "scratch", "emptyDir": m{}}},
			"tolerations": []any{
				m{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
				m{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}},
		},
	})
	if err != nil {
		panic(err) // maps of strings and numbers
	}
	return string(b)
}

// PodBody is the same Pod under a name of any length, without its first brace and
// apiVersion.
func PodBody(name string) string {
	const version = "v1"
	s := strings.NewReplacer(NameMark, name, ShardMark, "bench").Replace(Pod(version))
	return strings.TrimPrefix(s, `{"apiVersion":"`+version+`",`)
}

// Protobuf is a Pod's JSON as the protobuf of the wire.
func Protobuf(pod string) (string, error) {
	var p corev1.Pod
	if err := json.Unmarshal([]byte(pod), &p); err != nil {
		return "", err
	}
	raw, err := p.Marshal()
	if err != nil {
		return "", err
	}
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "Pod"}, Raw: raw}
	b, err := u.Marshal()
	return "k8s\x00" + string(b), err
}

// CRDManifest serves pods as custom resources of any content, as
// bench.proa.local/v1. They can be selected by scheduler.
const CRDManifest = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"pods.bench.proa.local"},
"spec":{"group":"bench.proa.local","scope":"Namespaced","names":{"plural":"pods","singular":"pod","kind":"Pod","listKind":"PodList"},
"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`
