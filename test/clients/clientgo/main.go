// Command clientgo plays the programs that people write on client-go: typed
// clients over protobuf and CBOR, informers, the dynamic and the metadata client,
// the pager, a retrying watch, server-side apply by apply configurations, leader
// election and the event recorder. It prints a line per part, and ends with 1 at the
// first that does not hold.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	appsapply "k8s.io/client-go/applyconfigurations/apps/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/pager"
	toolswatch "k8s.io/client-go/tools/watch"
	"k8s.io/client-go/util/retry"
)

const ns = "clientgo"

// world is what every part works with.
type world struct {
	config *rest.Config
	typed  *kubernetes.Clientset // over protobuf
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 80*time.Second)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	config.QPS, config.Burst = 1000, 1000
	proto := rest.CopyConfig(config)
	proto.ContentType, proto.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf
	typed, err := kubernetes.NewForConfig(proto)
	if err != nil {
		return err
	}
	w := &world{config, typed}
	if _, err := typed.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("namespace: %w", err)
	}
	for _, part := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"typed", w.typedClient}, {"informers", w.informers}, {"apply", w.apply}, {"pager", w.pager},
		{"retrywatch", w.retryWatch}, {"dynamic", w.dynamicClient}, {"metadata", w.metadataClient}, {"election", w.election},
		{"recorder", w.recorder}, {"conflict", w.conflict}, {"errors", w.errors},
	} {
		began := time.Now()
		if err := part.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		fmt.Printf("ok %s %.2fs\n", part.name, time.Since(began).Seconds())
	}
	return typed.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{})
}

func (w *world) typedClient(ctx context.Context) error {
	d := deployment("typed", 0)
	deployments := w.typed.AppsV1().Deployments(ns)
	made, err := deployments.Create(ctx, d, metav1.CreateOptions{FieldManager: "clientgo"})
	if err != nil {
		return err
	}
	if made.UID == "" || made.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return fmt.Errorf("created without uid or defaults: %+v", made)
	}
	if len(made.ManagedFields) != 1 || made.ManagedFields[0].Manager != "clientgo" || made.ManagedFields[0].Operation != metav1.ManagedFieldsOperationUpdate {
		return fmt.Errorf("managedFields of a create: %v", made.ManagedFields)
	}
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error { // its controller writes to it too
		s, err := deployments.GetScale(ctx, "typed", metav1.GetOptions{})
		if err != nil {
			return err
		}
		s.Spec.Replicas = 2
		if s, err = deployments.UpdateScale(ctx, "typed", s, metav1.UpdateOptions{}); err == nil && s.Spec.Replicas != 2 {
			return fmt.Errorf("scaled to %d", s.Spec.Replicas)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("scale: %w", err)
	}
	patched, err := deployments.Patch(ctx, "typed", types.StrategicMergePatchType, []byte(`{"spec":{"replicas":0,"template":{"spec":{"containers":[{"name":"c","env":[{"name":"A","value":"1"}]}]}}}}`), metav1.PatchOptions{})
	if err != nil || len(patched.Spec.Template.Spec.Containers[0].Env) != 1 || patched.Spec.Template.Spec.Containers[0].Image != "none:1" {
		return fmt.Errorf("patch: %v %w", patched, err)
	}
	if _, err = deployments.Create(ctx, deployment("dry", 1), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		return err
	}
	if _, err = deployments.Get(ctx, "dry", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return fmt.Errorf("a dry run left something: %w", err)
	}
	return deployments.Delete(ctx, "typed", metav1.DeleteOptions{})
}

// informers follows three kinds and counts what arrives.
func (w *world) informers(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	factory := informers.NewSharedInformerFactoryWithOptions(w.typed, 0, informers.WithNamespace(ns))
	defer factory.Shutdown()
	defer stop() // first
	inf := factory.Core().V1().ConfigMaps().Informer()
	deployments := factory.Apps().V1().Deployments().Lister()
	factory.Core().V1().Pods().Informer()
	seen := make(chan string, 1000)
	_, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { seen <- "add " + o.(*corev1.ConfigMap).Name },
		UpdateFunc: func(_, o any) { seen <- "update " + o.(*corev1.ConfigMap).Name },
		DeleteFunc: func(o any) { seen <- "delete " + o.(*corev1.ConfigMap).Name },
	})
	if err != nil {
		return err
	}
	factory.StartWithContext(ctx)
	for kind, ok := range factory.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return fmt.Errorf("%v does not sync", kind)
		}
	}
	maps := w.typed.CoreV1().ConfigMaps(ns)
	m, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "followed"}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	m.Data = map[string]string{"a": "b"}
	if _, err = maps.Update(ctx, m, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err = maps.Delete(ctx, "followed", metav1.DeleteOptions{}); err != nil {
		return err
	}
	for _, want := range []string{"add followed", "update followed", "delete followed"} {
		for got := ""; got != want; {
			select {
			case got = <-seen:
				if strings.HasSuffix(got, " followed") && got != want {
					return fmt.Errorf("%q came instead of %q", got, want)
				}
			case <-ctx.Done():
				return fmt.Errorf("%q never came", want)
			}
		}
	}
	_, err = deployments.Deployments(ns).Get("absent")
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("lister: %w", err)
	}
	return nil
}

func (w *world) apply(ctx context.Context) error {
	deployments := w.typed.AppsV1().Deployments(ns)
	config := func(image string) *appsapply.DeploymentApplyConfiguration {
		labels := map[string]string{"app": "applied"}
		return appsapply.Deployment("applied", ns).WithSpec(appsapply.DeploymentSpec().WithReplicas(0).
			WithSelector(metaapply.LabelSelector().WithMatchLabels(labels)).
			WithTemplate(coreapply.PodTemplateSpec().WithLabels(labels).
				WithSpec(coreapply.PodSpec().WithContainers(coreapply.Container().WithName("c").WithImage(image)))))
	}
	first, err := deployments.Apply(ctx, config("none:1"), metav1.ApplyOptions{FieldManager: "one"})
	if err != nil {
		return err
	}
	again, err := deployments.Apply(ctx, config("none:1"), metav1.ApplyOptions{FieldManager: "one"})
	if err != nil || again.Generation != first.Generation {
		return fmt.Errorf("a second apply made generation %d of %d: %w", again.Generation, first.Generation, err)
	}
	if _, err = deployments.Apply(ctx, config("none:2"), metav1.ApplyOptions{FieldManager: "two"}); !apierrors.IsConflict(err) {
		return fmt.Errorf("no conflict: %w", err)
	}
	if _, err = deployments.Apply(ctx, config("none:2"), metav1.ApplyOptions{FieldManager: "two", Force: true}); err != nil {
		return err
	}
	now, err := deployments.Get(ctx, "applied", metav1.GetOptions{})
	if err != nil {
		return err
	}
	mine, err := appsapply.ExtractDeployment(now, "two")
	if err != nil || *mine.Spec.Template.Spec.Containers[0].Image != "none:2" {
		return fmt.Errorf("extract: %+v %w", mine, err)
	}
	return nil
}

func (w *world) pager(ctx context.Context) error {
	secrets := w.typed.CoreV1().Secrets(ns)
	for i := range 25 {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "s-", Labels: map[string]string{"n": fmt.Sprint(i)}}}
		if _, err := secrets.Create(ctx, s, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	p := pager.New(pager.SimplePageFunc(func(o metav1.ListOptions) (runtime.Object, error) { return secrets.List(ctx, o) }))
	p.PageSize = 10
	n := 0
	err := p.EachListItem(ctx, metav1.ListOptions{LabelSelector: "n"}, func(runtime.Object) error { n++; return nil })
	if err != nil || n != 25 {
		return fmt.Errorf("%d of 25: %w", n, err)
	}
	if err = secrets.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "n in (1,2,3)"}); err != nil {
		return err
	}
	l, err := secrets.List(ctx, metav1.ListOptions{LabelSelector: "n"})
	if err != nil || len(l.Items) != 22 {
		return fmt.Errorf("%d of 22 after a delete of three: %w", len(l.Items), err)
	}
	return nil
}

func (w *world) retryWatch(ctx context.Context) error {
	maps := w.typed.CoreV1().ConfigMaps(ns)
	l, err := maps.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	rw, err := toolswatch.NewRetryWatcherWithContext(ctx, l.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			seconds := int64(1)
			o.TimeoutSeconds = &seconds // so that it has to be resumed
			return maps.Watch(ctx, o)
		},
	})
	if err != nil {
		return err
	}
	defer rw.Stop()
	for i := range 5 {
		name := fmt.Sprintf("rw%d", i)
		if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			return err
		}
		select {
		case e := <-rw.ResultChan():
			if m, ok := e.Object.(*corev1.ConfigMap); !ok || e.Type != watch.Added || m.Name != name {
				return fmt.Errorf("%s of %v instead of %s", e.Type, e.Object, name)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		time.Sleep(500 * time.Millisecond) // the watch ends and begins again meanwhile
	}
	return nil
}

// dynamicClient finds a kind by discovery, and works with it in CBOR where
// the server takes that.
func (w *world) dynamicClient(ctx context.Context) error {
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(w.typed.Discovery()))
	m, err := mapper.RESTMapping(schema.GroupKind{Group: "networking.k8s.io", Kind: "Ingress"})
	if err != nil {
		return err
	}
	if m.Resource.Version != "v1" || m.Scope.Name() != meta.RESTScopeNameNamespace {
		return fmt.Errorf("mapped to %v", m)
	}
	for _, content := range []string{runtime.ContentTypeJSON, runtime.ContentTypeCBOR} {
		config := rest.CopyConfig(w.config)
		config.ContentType, config.AcceptContentTypes = content, content+","+runtime.ContentTypeJSON
		dyn, err := dynamic.NewForConfig(config)
		if err != nil {
			return err
		}
		u := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": map[string]any{"name": "dyn"},
			"spec": map[string]any{"defaultBackend": map[string]any{"service": map[string]any{"name": "x", "port": map[string]any{"number": int64(80)}}}},
		}}
		in := dyn.Resource(m.Resource).Namespace(ns)
		if u, err = in.Create(ctx, u, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("%s: %w", content, err)
		}
		u.SetLabels(map[string]string{"a": "b"})
		if u, err = in.Update(ctx, u, metav1.UpdateOptions{}); err != nil || u.GetLabels()["a"] != "b" {
			return fmt.Errorf("%s: update: %v %w", content, u, err)
		}
		if n, ok, err := unstructured.NestedInt64(u.Object, "spec", "defaultBackend", "service", "port", "number"); n != 80 || !ok || err != nil {
			return fmt.Errorf("%s: the port is %d, %v: %w", content, n, ok, err)
		}
		if err = in.Delete(ctx, "dyn", metav1.DeleteOptions{}); err != nil {
			return fmt.Errorf("%s: %w", content, err)
		}
	}
	return nil
}

func (w *world) metadataClient(ctx context.Context) error {
	c, err := metadata.NewForConfig(w.config)
	if err != nil {
		return err
	}
	l, err := c.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Namespace(ns).List(ctx, metav1.ListOptions{Limit: 5})
	if err != nil || len(l.Items) != 5 || l.Continue == "" || l.Items[0].UID == "" {
		return fmt.Errorf("%d items, continue %q: %w", len(l.Items), l.Continue, err)
	}
	return nil
}

func (w *world) election(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lock := func(id string) resourcelock.Interface {
		return &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Namespace: ns, Name: "leader"}, Client: w.typed.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: id}}
	}
	leads := make(chan string, 2)
	candidate := func(id string) context.CancelFunc {
		own, end := context.WithCancel(ctx)
		go leaderelection.RunOrDie(own, leaderelection.LeaderElectionConfig{Lock: lock(id), ReleaseOnCancel: true,
			LeaseDuration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 200 * time.Millisecond,
			Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) { leads <- id }, OnStoppedLeading: func() {}}})
		return end
	}
	end := candidate("a")
	for _, want := range []string{"a", "b"} {
		select {
		case got := <-leads:
			if got != want {
				return fmt.Errorf("%s leads, not %s", got, want)
			}
		case <-ctx.Done():
			return fmt.Errorf("%s does not lead: %w", want, ctx.Err())
		}
		if want == "a" {
			candidate("b") // ended with ctx
			end()
		}
	}
	return nil
}

func (w *world) recorder(ctx context.Context) error {
	m, err := w.typed.CoreV1().ConfigMaps(ns).Get(ctx, "rw0", metav1.GetOptions{})
	if err != nil {
		return err
	}
	b := events.NewBroadcaster(&events.EventSinkImpl{Interface: w.typed.EventsV1()})
	if err := b.StartRecordingToSinkWithContext(ctx); err != nil {
		return err
	}
	defer b.Shutdown()
	b.NewRecorder(scheme.Scheme, "clientgo").Eventf(m, nil, corev1.EventTypeNormal, "Played", "Playing", "a note %d", 7)
	for ctx.Err() == nil {
		l, err := w.typed.EventsV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "reason=Played"})
		if err != nil {
			return err
		}
		if len(l.Items) == 1 {
			return sameEvent(ctx, w, &l.Items[0])
		}
		time.Sleep(50 * time.Millisecond)
	}
	return ctx.Err()
}

// sameEvent reads an event by its older name.
func sameEvent(ctx context.Context, w *world, e *eventsv1.Event) error {
	old, err := w.typed.CoreV1().Events(ns).Get(ctx, e.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if old.Message != "a note 7" || old.UID != e.UID || old.InvolvedObject.Name != "rw0" || old.ReportingController != "clientgo" {
		return fmt.Errorf("as core/v1 it is %+v", old)
	}
	return nil
}

func (w *world) conflict(ctx context.Context) error {
	maps := w.typed.CoreV1().ConfigMaps(ns)
	stale, err := maps.Get(ctx, "rw1", metav1.GetOptions{})
	if err != nil {
		return err
	}
	fresh := stale.DeepCopy()
	fresh.Data = map[string]string{"n": "1"}
	if _, err = maps.Update(ctx, fresh, metav1.UpdateOptions{}); err != nil {
		return err
	}
	stale.Data = map[string]string{"n": "2"}
	if _, err = maps.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		return fmt.Errorf("a stale update: %w", err)
	}
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		m, err := maps.Get(ctx, "rw1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		m.Data = map[string]string{"n": "3"}
		_, err = maps.Update(ctx, m, metav1.UpdateOptions{})
		return err
	})
}

// errors looks at how refusals come back as typed errors.
func (w *world) errors(ctx context.Context) error {
	maps := w.typed.CoreV1().ConfigMaps(ns)
	_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "rw0"}}, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("again: %w", err)
	}
	_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "Bad"}}, metav1.CreateOptions{})
	var status apierrors.APIStatus
	if !apierrors.IsInvalid(err) || !errors.As(err, &status) || len(status.Status().Details.Causes) != 1 || status.Status().Details.Causes[0].Field != "metadata.name" {
		return fmt.Errorf("a bad name: %w", err)
	}
	uid := types.UID("other")
	err = maps.Delete(ctx, "rw0", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if !apierrors.IsConflict(err) {
		return fmt.Errorf("a precondition: %w", err)
	}
	if _, err = w.typed.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{FieldSelector: "spec.nope=1"}); !apierrors.IsBadRequest(err) {
		return fmt.Errorf("a selector: %w", err)
	}
	if _, err = w.typed.CoreV1().ConfigMaps("absent").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		return fmt.Errorf("no namespace: %w", err)
	}
	anonymous := rest.AnonymousClientConfig(w.config)
	c, err := kubernetes.NewForConfig(anonymous)
	if err != nil {
		return err
	}
	if _, err = c.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{}); !apierrors.IsUnauthorized(err) && !apierrors.IsForbidden(err) {
		return fmt.Errorf("a stranger: %w", err)
	}
	return nil
}

func deployment(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "none:1"}}}},
	}}
}
