package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"proa/test/bench/measure"
)

// A kind is what a run stores.
type kind struct {
	resource string // plural
	body     string // JSON, without apiVersion; NAME stands for the name
}

const nameMark = "NAME"

// object is the JSON of one object.
func (k kind) object(apiVersion, name string) string {
	return fmt.Sprintf(`{"apiVersion":%q,%s`, apiVersion, strings.Replace(k.body, nameMark, name, 1))
}

func objectName(i int) string { return fmt.Sprintf("bench-%07d", i) }

func uid(i int) types.UID { return types.UID(fmt.Sprintf("7a0c9f5e-3d1b-4c58-9e21-%012x", i)) }

// write creates an object on a connection of its own.
func write(ctx context.Context, s measure.Killable, k kind, name string) error {
	c := s.Server().Client()
	defer c.CloseIdleConnections()
	_, err := s.Server().Do(ctx, c, http.MethodPost, s.Path(k.resource), k.object(s.APIVersion(), name))
	return err
}

// byAPI is the number of objects up to which they are made through the API.
const byAPI = 50_000

const sample = "sample"

// fill makes n objects in a server that is ready.
func fill(s contestant, k kind, n int) error {
	if n <= byAPI {
		return create(s, k, n)
	}
	if err := write(context.Background(), s, k, sample); err != nil {
		return err
	}
	return s.lay(k, n)
}

// create makes n objects through the API from 16 clients.
func create(s measure.Killable, k kind, n int) error {
	t, path := s.Server(), s.Path(k.resource)
	clients := make(chan *http.Client, 16)
	for range cap(clients) {
		c := t.Client()
		defer c.CloseIdleConnections()
		clients <- c
	}
	return each(n, cap(clients), func(i int) error {
		c := <-clients
		defer func() { clients <- c }()
		_, err := t.Do(context.Background(), c, http.MethodPost, path, k.object(s.APIVersion(), objectName(i)))
		return err
	})
}

// each calls f for 0 to n-1 from several goroutines, until one fails.
func each(n, goroutines int, f func(i int) error) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	next := make(chan int)
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := range next {
				if ctx.Err() != nil {
					continue
				}
				if err := f(i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}

// configMaps are of 1 KB as they are stored.
var configMaps = kind{"configmaps", `"kind":"ConfigMap","metadata":{"name":"` + nameMark + `","namespace":"default","labels":{"app":"shop","tier":"web"}},"data":{"text":"` +
	strings.Repeat("all work and no play makes a dull bench; ", 19) + `"}}`}

// pods are of 2.3 KB, and for a scheduler that is not there, so that they stay as they are.
var pods = kind{"pods", podBody()}

func podBody() string {
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
	return `"kind":"Pod","metadata":{"name":"` + nameMark + `","namespace":"default",` +
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
