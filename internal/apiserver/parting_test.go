package apiserver_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"proa/internal/api"
	"proa/internal/kinds/core"
	"proa/internal/store/memory"
)

// TestParting has a delete say something of the object that it marks, in the same
// write, and not of one that goes at once or is marked already.
func TestParting(t *testing.T) {
	s := start(t, memory.New(nil), nil)
	asked := 0
	remove := func(name string, grace int64) *api.Response {
		t.Helper()
		return must[*api.Response](t)(s.Handle(t.Context(), &api.Request{Verb: api.Delete, Resource: core.Pod.Def(), Namespace: "a", Name: name,
			Options: api.Options{GracePeriod: &grace, Parting: func(o api.Object) {
				asked++
				p := o.(*corev1.Pod)
				p.Status.Conditions = append(slices.Clone(p.Status.Conditions), corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue})
			}}}))
	}
	come := func(name string) int64 {
		t.Helper()
		return must[*api.Response](t)(s.Handle(t.Context(), &api.Request{Verb: api.Create, Resource: core.Pod.Def(), Namespace: "a", Object: pod("a", name, "n1")})).Item.Revision
	}
	made := come("slow")
	resp := remove("slow", 30)
	p := resp.Result().(*corev1.Pod)
	if asked != 1 || p.DeletionTimestamp == nil || core.PodCondition(p, corev1.DisruptionTarget) == nil || resp.Item.Revision != made+1 {
		t.Errorf("asked %d times; after revision %d: %d, %v, %v", asked, made, resp.Item.Revision, p.DeletionTimestamp, p.Status.Conditions)
	}
	if remove("slow", 20); asked != 1 {
		t.Errorf("asked again of what is marked already")
	}
	come("quick")
	if resp := remove("quick", 0); asked != 1 || !resp.Deleted {
		t.Errorf("asked %d times of what goes at once; gone: %v", asked-1, resp.Deleted)
	}
}
