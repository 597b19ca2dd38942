package measure

import (
	"fmt"
	"strings"
)

// PodBody is a Pod of 2.3 KB as JSON, without its first brace and apiVersion. A
// scheduler that is not there is to place it, so that it stays as it is.
func PodBody(name string) string {
	var env strings.Builder
	for n := range 12 {
		if n > 0 {
			env.WriteByte(',')
		}
		fmt.Fprintf(&env, `{"name":"SETTING_%02d","value":"value-of-setting-%02d-of-the-program"}`, n, n)
	}
	probe := func(path string) string {
		return fmt.Sprintf(`{"httpGet":{"path":%q,"port":8080,"scheme":"HTTP"},"periodSeconds":10,"timeoutSeconds":1,"failureThreshold":3,"successThreshold":1}`, path)
	}
	return `"kind":"Pod","metadata":{"name":"` + name + `","namespace":"default",` +
		`"labels":{"app.kubernetes.io/name":"frontend","app.kubernetes.io/part-of":"shop","pod-template-hash":"6d4b75cb6d","tier":"web"},` +
		`"annotations":{"prometheus.io/scrape":"true","prometheus.io/port":"9090","example.com/checksum":"0f343b0931126a20f133d67c2b018a3b5f8d4f0e7c7a3d9a3f9ab7f8d1cbe7a2"}},` +
		`"spec":{"schedulerName":"bench","restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","containers":[{"name":"web",` +
		`"image":"registry.example.com/shop/frontend:v1.42.7","imagePullPolicy":"IfNotPresent","command":["/bin/frontend"],` +
		`"args":["--listen=:8080","--backend=http://backend.default.svc.cluster.local:8080"],` +
		`"ports":[{"name":"http","containerPort":8080,"protocol":"TCP"},{"name":"metrics","containerPort":9090,"protocol":"TCP"}],` +
		`"env":[` + env.String() + `],"resources":{"requests":{"cpu":"100m","memory":"128Mi"},"limits":{"cpu":"500m","memory":"256Mi"}},` +
		`"livenessProbe":` + probe("/healthz") + `,"readinessProbe":` + probe("/readyz") + `,` +
		`"volumeMounts":[{"name":"settings","mountPath":"/etc/frontend"},{"name":"scratch","mountPath":"/tmp"}]}],` +
		`"volumes":[{"name":"settings","configMap":{"name":"frontend-settings"}},{"name":"scratch","emptyDir":{}}]}}`
}
