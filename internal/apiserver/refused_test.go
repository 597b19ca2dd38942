package apiserver_test

import (
	"net/netip"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/apiserver/admit"
	"proa/internal/kinds/coordination"
	"proa/internal/kinds/core"
	"proa/internal/store/memory"
)

// Some kinds are only updated by who says which state he has seen.
func TestConditionalUpdate(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	ctx := t.Context()
	l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "l"}}
	must[*coordinationv1.Lease](t)(coordination.Lease.Update(ctx, s, l.DeepCopy())) // creates it
	_, err := coordination.Lease.Update(ctx, s, l.DeepCopy())
	wantError(t, err, 422, metav1.StatusReasonInvalid, `leases.coordination.k8s.io "l" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update`)
	must[*coordinationv1.Lease](t)(coordination.Lease.Update(ctx, s, must[*coordinationv1.Lease](t)(coordination.Lease.Get(ctx, s, "a", "l")).DeepCopy()))
	must[*coordinationv1.Lease](t)(coordination.Lease.Patch(ctx, s, "a", "l", "", types.MergePatchType, []byte(`{"metadata":{"labels":{"k":"v"}}}`)))
}

func TestNoUniqueName(t *testing.T) {
	s := start(t, memory.New(nil), func(c *apiserver.Config) { c.Suffix = func(n int) string { return strings.Repeat("x", n) } })
	create := func() error {
		cm := configMap("a", "")
		cm.GenerateName = "c-"
		_, err := core.ConfigMap.Create(t.Context(), s, cm)
		return err
	}
	if err := create(); err != nil {
		t.Fatal(err)
	}
	wantError(t, create(), 409, metav1.StatusReasonAlreadyExists, `configmaps "c-xxxxx" already exists, the server was not able to generate a unique name for the object`)
}

// While an object goes, nothing more may hold it; and the last thing that held it takes it along.
func TestFinalizersOfTheDeleted(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	ctx := t.Context()
	cm := configMap("a", "x")
	cm.Finalizers = []string{"example.com/a"}
	made := must[*corev1.ConfigMap](t)(core.ConfigMap.Create(ctx, s, cm))
	other := made.UID + "x"
	err := core.ConfigMap.Delete(ctx, s, "a", "x", api.Options{UID: &other})
	wantError(t, err, 409, metav1.StatusReasonConflict, `Operation cannot be fulfilled on ConfigMap "x": the UID in the precondition (`+string(other)+`) does not match the UID in record (`+string(made.UID)+`). The object might have been deleted and then recreated`)
	if err := core.ConfigMap.Delete(ctx, s, "a", "x", api.Options{}); err != nil {
		t.Fatal(err)
	}
	going := must[*corev1.ConfigMap](t)(core.ConfigMap.Get(ctx, s, "a", "x")).DeepCopy()
	going.Finalizers = append(going.Finalizers, "example.com/b")
	_, err = core.ConfigMap.Update(ctx, s, going)
	wantError(t, err, 422, metav1.StatusReasonInvalid, `metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"example.com/b"}`)
	must[*corev1.ConfigMap](t)(core.ConfigMap.Patch(ctx, s, "a", "x", "", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))
	if _, err := core.ConfigMap.Get(ctx, s, "a", "x"); !apierrors.IsNotFound(err) {
		t.Errorf("still there: %v", err)
	}
}

// A refused write gives back what it had reserved, and a dry run reserves nothing.
func TestAddressesOfRefusedWrites(t *testing.T) {
	s := admitting(t, admit.Settings{Services: netip.MustParsePrefix("10.43.0.0/30"), NodePorts: [2]int32{30000, 30000}})
	ctx := t.Context()
	node := func(name string, change func(*corev1.ServiceSpec)) *corev1.Service {
		return service(name, func(p *corev1.ServiceSpec) {
			p.Type = corev1.ServiceTypeNodePort
			if change != nil {
				change(p)
			}
		})
	}
	for range 3 {
		_, err := core.Service.Create(ctx, s, node("bad", func(p *corev1.ServiceSpec) { p.SessionAffinity = "Sometimes" }))
		wantError(t, err, 422, metav1.StatusReasonInvalid, "spec.sessionAffinity: Unsupported value")
		must[*api.Response](t)(s.Handle(ctx, &api.Request{Verb: api.Create, Resource: core.Service.Def(), Namespace: "default", Object: node("dry", nil), Options: api.Options{DryRun: true}}))
	}
	must[*corev1.Service](t)(core.Service.Create(ctx, s, node("good", nil)))
	_, err := core.Service.Create(ctx, s, node("late", nil))
	if err == nil {
		t.Error("one address was given to two")
	}
	if err := core.Service.Delete(ctx, s, "default", "good", api.Options{}); err != nil {
		t.Fatal(err)
	}
	must[*corev1.Service](t)(core.Service.Create(ctx, s, node("late", nil)))
}
