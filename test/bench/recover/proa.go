package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds/core"
	"proa/internal/store"
	"proa/internal/store/lsm"
	"proa/test/bench/measure"
)

// proa is the pretend cluster.
type proa struct{ *measure.PretendCluster }

func newProa(core int, root string) (proa, error) {
	program, err := measure.Proa()
	if err != nil {
		return proa{}, err
	}
	c, err := measure.NewPretendCluster(core, program, root)
	return proa{c}, err
}

func (p proa) name() string  { return "proa" }
func (p proa) launch() error { return p.PretendCluster.Start() }
func (p proa) ready() error  { return p.PretendCluster.Ready() }
func (p proa) kill()         { p.Process.Kill() }
func (p proa) stop()         { p.Process.Stop() }
func (p proa) pids() []int   { return []int{p.PID()} }

func (p proa) write(ctx context.Context, k kind, n int) error {
	return post(ctx, p.Target, "/api/v1/namespaces/default/"+k.resource, k.object("v1", fmt.Sprint("bench-", n)))
}

// post creates an object on a connection of its own.
func post(ctx context.Context, t measure.Target, path, body string) error {
	c := t.Client()
	defer c.CloseIdleConnections()
	_, err := t.Do(ctx, c, http.MethodPost, path, body)
	return err
}

// byAPI is the number of objects up to which they are made through the API.
const byAPI = 50_000

func (p proa) fill(k kind, n int) error {
	path := "/api/v1/namespaces/default/" + k.resource
	if n <= byAPI {
		return create(p.Target, path, n, func(name string) string { return k.object("v1", name) })
	}
	if err := post(context.Background(), p.Target, path, k.object("v1", sample)); err != nil {
		return err
	}
	p.Process.Stop()
	return p.lay(k, n)
}

const sample = "sample"

// lay copies the record of the sample n times under other names, as the API
// would have made them, straight into the store.
func (p proa) lay(k kind, n int) (err error) {
	def := core.ConfigMap.Def()
	if k.resource != def.Resource {
		return fmt.Errorf("%s can only be made through the API: ask for at most %d", k.resource, byAPI)
	}
	e, err := lsm.Open(p.Store(), lsm.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	prefix := apiserver.Prefix(def.GroupResource()) + "default/"
	rec, _, err := e.Get(context.Background(), prefix+sample)
	if err != nil || rec == nil {
		return fmt.Errorf("the sample is not in the store: %w", err)
	}
	return each(n, 1024, func(i int) error {
		o, err := def.Codec.Decode(rec.Value)
		if err != nil {
			return err
		}
		o = api.Clone(o)
		name := objectName(i)
		o.SetName(name)
		o.SetUID(uid(i))
		body, err := def.Codec.Encode(o)
		if err != nil {
			return err
		}
		_, err = e.Write(context.Background(), store.Op{Key: prefix + name, Value: body, Expect: store.Absent, User: rec.User, Codec: rec.Codec})
		return err
	})
}

func objectName(i int) string { return fmt.Sprintf("bench-%07d", i) }

func uid(i int) types.UID { return types.UID(fmt.Sprintf("7a0c9f5e-3d1b-4c58-9e21-%012x", i)) }

// create makes n objects through an API from 16 clients.
func create(t measure.Target, path string, n int, object func(name string) string) error {
	clients := make(chan *http.Client, 16)
	for range cap(clients) {
		clients <- t.Client()
	}
	return each(n, cap(clients), func(i int) error {
		c := <-clients
		defer func() { clients <- c }()
		_, err := t.Do(context.Background(), c, http.MethodPost, path, object(objectName(i)))
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

var _ contestant = proa{}
