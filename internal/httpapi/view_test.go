package httpapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"proa/internal/api"
)

func clientset(t *testing.T, rig *rig, typ string) *kubernetes.Clientset {
	t.Helper()
	c, err := kubernetes.NewForConfigAndClient(&rest.Config{Host: rig.URL, ContentConfig: rest.ContentConfig{ContentType: typ, AcceptContentTypes: typ}}, rig.client())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestViewsTyped writes and reads one object through two versions with the
// client library, in each form of the wire.
func TestViewsTyped(t *testing.T) {
	for _, typ := range []string{api.MediaJSON, api.MediaProtobuf} {
		t.Run(typ, func(t *testing.T) {
			c := clientset(t, serve(t, realServer(t), Config{}), typ)
			ctx := t.Context()
			v1, v2 := c.AutoscalingV1().HorizontalPodAutoscalers("default"), c.AutoscalingV2().HorizontalPodAutoscalers("default")
			q := kresource.MustParse("5")
			made, err := v2.Create(ctx, &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "h"},
				Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
					ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "d"}, MaxReplicas: 3,
					Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{
						Metric: autoscalingv2.MetricIdentifier{Name: "m"}, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &q}}}},
				}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			old, err := v1.Get(ctx, "h", metav1.GetOptions{})
			if err != nil || old.ResourceVersion != made.ResourceVersion || old.Spec.TargetCPUUtilizationPercentage != nil ||
				old.Annotations["autoscaling.alpha.kubernetes.io/metrics"] != `[{"type":"Pods","pods":{"metricName":"m","targetAverageValue":"5"}}]` {
				t.Fatalf("v1: %+v, %v", old, err)
			}
			w, err := v1.Watch(ctx, metav1.ListOptions{ResourceVersion: old.ResourceVersion})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			same, err := v1.Update(ctx, old.DeepCopy(), metav1.UpdateOptions{})
			if err != nil || same.ResourceVersion != old.ResourceVersion {
				t.Errorf("written back through v1: %+v, %v", same, err)
			}
			old.Spec.TargetCPUUtilizationPercentage = new(int32(50))
			if old, err = v1.Update(ctx, old, metav1.UpdateOptions{}); err != nil || old.Generation != 2 {
				t.Fatal(err)
			}
			now, err := v2.Get(ctx, "h", metav1.GetOptions{})
			if err != nil || len(now.Spec.Metrics) != 2 || *now.Spec.Metrics[1].Resource.Target.AverageUtilization != 50 || len(now.Annotations) != 0 {
				t.Fatalf("v2: %+v, %v", now, err)
			}
			if e := <-w.ResultChan(); e.Type != "MODIFIED" || *e.Object.(*autoscalingv1.HorizontalPodAutoscaler).Spec.TargetCPUUtilizationPercentage != 50 {
				t.Errorf("watched: %+v", e)
			}
			now.Status = autoscalingv2.HorizontalPodAutoscalerStatus{CurrentReplicas: 1, DesiredReplicas: 2,
				Conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{{Type: autoscalingv2.AbleToScale, Status: corev1.ConditionTrue}}}
			if _, err := v2.UpdateStatus(ctx, now, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			l, err := v1.List(ctx, metav1.ListOptions{})
			if err != nil || len(l.Items) != 1 || l.Items[0].Status.DesiredReplicas != 2 || !strings.Contains(l.Items[0].Annotations["autoscaling.alpha.kubernetes.io/conditions"], `"AbleToScale"`) {
				t.Errorf("listed: %+v, %v", l, err)
			}
			if _, err := v1.Patch(ctx, "h", types.MergePatchType, []byte(`{"status":{"currentReplicas":9}}`), metav1.PatchOptions{}, "status"); err != nil {
				t.Error(err)
			}
			if now, err = v2.Get(ctx, "h", metav1.GetOptions{}); err != nil || now.Status.CurrentReplicas != 9 || len(now.Status.Conditions) != 1 || now.Generation != 2 {
				t.Errorf("status through v1: %+v, %v", now, err)
			}
			if err := v1.Delete(ctx, "h", metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
			for e := range w.ResultChan() {
				if h := e.Object.(*autoscalingv1.HorizontalPodAutoscaler); e.Type == watch.Deleted {
					if h.Status.CurrentReplicas != 9 {
						t.Errorf("last seen: %+v", h)
					}
					break
				}
			}
		})
	}
}

// TestViewsUntyped asks for what is neither version's own form.
func TestViewsUntyped(t *testing.T) {
	rig := serve(t, realServer(t), Config{})
	c := clientset(t, rig, api.MediaJSON)
	_, err := c.EventsV1().Events("default").Create(t.Context(), &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e", Labels: map[string]string{"a": "b"}},
		EventTime: metav1.NowMicro(), ReportingController: "c", ReportingInstance: "i", Action: "a", Reason: "r", Type: "Normal", Note: "n",
		Regarding: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := metadata.NewForConfigAndClient(&rest.Config{Host: rig.URL}, rig.client())
	if err != nil {
		t.Fatal(err)
	}
	for _, gv := range []string{"/api/v1", "/apis/events.k8s.io/v1"} {
		path := gv + "/namespaces/default/events"
		_, body := rig.call("GET", path, "application/json;as=Table;g=meta.k8s.io;v=v1", "")
		table := decode[metav1.Table](t, body)
		if len(table.Rows) != 1 || fmt.Sprint(table.Rows[0].Cells[1:4]) != "[Normal r pod/p]" {
			t.Errorf("%s: %s", gv, body)
		}
		_, one := rig.call("GET", path+"/e", "application/json", "")
		want := `{"kind":"Event","apiVersion":"` + strings.TrimPrefix(strings.TrimPrefix(gv, "/apis/"), "/api/") + `"`
		if !strings.HasPrefix(one, want) {
			t.Errorf("%s: %.200s", gv, one)
		}
		_, list := rig.call("GET", path, "application/json", "")
		if want := strings.Replace(want, "Event", "EventList", 1); !strings.HasPrefix(list, want) || strings.Contains(list, `"kind":"Event"`) {
			t.Errorf("%s: %s", gv, list)
		}
	}
	for _, v := range []struct{ group, selector string }{{"", "involvedObject.name=p"}, {"events.k8s.io", "regarding.name=p"}} {
		gvr := eventsv1.SchemeGroupVersion.WithResource("events")
		gvr.Group = v.group
		l, err := m.Resource(gvr).Namespace("default").List(t.Context(), metav1.ListOptions{FieldSelector: v.selector})
		if err != nil || len(l.Items) != 1 || l.Items[0].Labels["a"] != "b" {
			t.Errorf("%v: %+v, %v", v, l, err)
		}
	}
	resp, body := rig.call("GET", "/api/v1/namespaces/default/events?fieldSelector=regarding.name%3Dp", "", "")
	if resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, "field label not supported: regarding.name") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// TestViewsThroughDial is one Handler behind another.
func TestViewsThroughDial(t *testing.T) {
	rig := serve(t, realServer(t), Config{})
	var hpa *api.Resource
	for _, r := range builtin() {
		if r.Resource == "horizontalpodautoscalers" && r.Version == "v1" {
			hpa = r
		}
	}
	h := api.Untyped(hpa)
	o, err := h.Create(t.Context(), rig.dial(), &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "h"},
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{MaxReplicas: 2, ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "d"}}})
	if err != nil || *o.(*autoscalingv1.HorizontalPodAutoscaler).Spec.TargetCPUUtilizationPercentage != 80 {
		t.Fatalf("%+v, %v", o, err)
	}
	l, err := h.List(t.Context(), rig.dial(), "default", api.Selectors{})
	if err != nil || len(l) != 1 || l[0].GetName() != "h" {
		t.Errorf("%v, %v", l, err)
	}
}

func TestDeprecatedWarns(t *testing.T) {
	rig := serve(t, realServer(t), Config{})
	for path, want := range map[string]string{
		"/api/v1/namespaces/default/endpoints": `299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"`,
		"/api/v1/componentstatuses":            `299 - "v1 ComponentStatus is deprecated in v1.19+"`,
		"/api/v1/pods":                         "",
	} {
		if resp, body := rig.call("GET", path, "", ""); resp.StatusCode != 200 || resp.Header.Get("Warning") != want {
			t.Errorf("%s: %d Warning %q %s", path, resp.StatusCode, resp.Header.Get("Warning"), body)
		}
	}
}
