package main

import (
	"encoding/json"
	"fmt"
)

const nameMark = "%NAME%"

// podBody is a Pod of about 2.3 KB, as a controller would send it; another
// scheduler than the cluster's is to place it.
func podBody(scheduler string) string {
	env := make([]any, 12)
	for n := range env {
		env[n] = map[string]any{"name": fmt.Sprintf("SETTING_%02d", n), "value": fmt.Sprintf("value-of-setting-%02d-of-the-program", n)}
	}
	probe := func(path string) any {
		return map[string]any{"httpGet": map[string]any{"path": path, "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 1, "failureThreshold": 3, "successThreshold": 1}
	}
	resources := map[string]any{"requests": map[string]any{"cpu": "100m", "memory": "128Mi"}, "limits": map[string]any{"cpu": "500m", "memory": "256Mi"}}
	b, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{
			"name": nameMark, "namespace": "default",
			"labels":      map[string]any{"app.kubernetes.io/name": "frontend", "app.kubernetes.io/part-of": "shop", "pod-template-hash": "6d4b75cb6d", "tier": "web"},
			"annotations": map[string]any{"prometheus.io/scrape": "true", "prometheus.io/port": "9090", "example.com/checksum": "0f343b0931126a20f133d67c2b018a3b5f8d4f0e7c7a3d9a3f9ab7f8d1cbe7a2"},
		},
		"spec": map[string]any{
			"schedulerName": scheduler, "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
			"containers": []any{map[string]any{
				"name": "web", "image": "registry.example.com/shop/frontend:v1.42.7", "imagePullPolicy": "IfNotPresent",
				"command": []any{"/bin/frontend"}, "args": []any{"--listen=:8080", "--backend=http://backend.default.svc.cluster.local:8080"},
				"ports": []any{map[string]any{"name": "http", "containerPort": 8080, "protocol": "TCP"}, map[string]any{"name": "metrics", "containerPort": 9090, "protocol": "TCP"}},
				"env":   env, "resources": resources, "livenessProbe": probe("/healthz"), "readinessProbe": probe("/readyz"),
				"volumeMounts": []any{map[string]any{"name": "settings", "mountPath": "/etc/frontend"}, map[string]any{"name": "scratch", "mountPath": "/tmp"}},
			}},
			"volumes": []any{map[string]any{"name": "settings", "configMap": map[string]any{"name": "frontend-settings"}}, map[string]any{"name": "scratch", "emptyDir": map[string]any{}}},
			"tolerations": []any{
				map[string]any{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
				map[string]any{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}},
		},
	})
	if err != nil {
		panic(err) // maps of strings and numbers
	}
	return string(b)
}

// crdManifest serves pods as custom resources of any content.
const crdManifest = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"pods.bench.proa.local"},
"spec":{"group":"bench.proa.local","scope":"Namespaced","names":{"plural":"pods","singular":"pod","kind":"Pod","listKind":"PodList"},
"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`
