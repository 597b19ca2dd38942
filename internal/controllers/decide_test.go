package controllers

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func deployment(replicas int32, surge, unavailable string) *appsv1.Deployment {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	d := &appsv1.Deployment{}
	d.Spec.Replicas = &replicas
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u}}
	return d
}

func set(name string, want, available int32) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(int64(name[0]), 0)}}
	rs.Spec.Replicas = &want
	rs.Status.AvailableReplicas = available
	return rs
}

func TestNewReplicas(t *testing.T) {
	for _, tt := range []struct {
		replicas           int32
		surge, unavailable string
		old, extra         int32
		new, want          int32
	}{
		{10, "0", "1", 10, 0, 0, 0},
		{10, "2", "0", 10, 0, 0, 2},
		{10, "2", "0", 5, 0, 0, 7},
		{10, "2", "0", 5, 4, 0, 3},
		{10, "2", "0", 5, 5, 2, 2},
		{10, "25%", "0", 10, 0, 0, 3},
		{10, "2", "0", 10, 0, 2, 2},
		{10, "0", "0", 10, 0, 0, 0},
		{3, "1", "0", 0, 0, 5, 3},
	} {
		d := deployment(tt.replicas, tt.surge, tt.unavailable)
		rs := set("b", tt.new, 0)
		if got := newReplicas(d, []*appsv1.ReplicaSet{set("a", tt.old, 0), rs}, rs, tt.extra); got != tt.want {
			t.Errorf("%+v: got %d", tt, got)
		}
	}
}

func TestShrinkOld(t *testing.T) {
	for _, tt := range []struct {
		replicas                  int32
		surge, unavailable        string
		old, oldReady             int32
		new, newReady, wantOldNow int32
	}{
		{10, "0", "2", 10, 10, 0, 0, 8},  // two may be missing
		{10, "2", "0", 10, 10, 2, 0, 10}, // the new are not there yet
		{10, "2", "0", 10, 10, 2, 2, 8},
		{10, "0", "2", 10, 4, 0, 0, 8}, // only unhealthy ones go
		{10, "0", "0", 10, 10, 0, 0, 9},
		{10, "5", "5", 10, 0, 5, 0, 5},
		{10, "2", "2", 8, 10, 4, 1, 7}, // two are yet to be removed, which are available no longer then
	} {
		d := deployment(tt.replicas, tt.surge, tt.unavailable)
		old := set("a", tt.old, tt.oldReady)
		got := tt.old
		for _, s := range shrinkOld(d, set("b", tt.new, tt.newReady), []*appsv1.ReplicaSet{old}) {
			got = s.size
		}
		if got != tt.wantOldNow {
			t.Errorf("%+v: got %d", tt, got)
		}
	}
}

func TestProportional(t *testing.T) {
	for _, tt := range []struct {
		from, to int32
		surge    string
		have     []int32
		want     []int32
	}{
		{10, 20, "3", []int32{8, 5}, []int32{14, 9}},
		{10, 5, "3", []int32{8, 5}, []int32{5, 3}},
		{10, 0, "3", []int32{8, 5}, []int32{0, 0}},
		{10, 12, "0", []int32{5, 5}, []int32{6, 6}},
	} {
		before := deployment(tt.from, tt.surge, "1")
		d := deployment(tt.to, tt.surge, "1")
		var sets []*appsv1.ReplicaSet
		for i, n := range tt.have {
			rs := set(string(rune('a'+i)), n, n)
			annotateSize(rs, before)
			sets = append(sets, rs)
		}
		got := map[string]int32{}
		for _, s := range proportional(d, sets) {
			got[s.set.Name] = s.size
		}
		for i, want := range tt.want {
			if n := got[string(rune('a'+i))]; n != want {
				t.Errorf("%d to %d, %v: got %v, want %v", tt.from, tt.to, tt.have, got, tt.want)
				break
			}
		}
	}
}

func TestLeastUseful(t *testing.T) {
	now := time.Unix(1e9, 0)
	pod := func(name, node string, phase corev1.PodPhase, readyFor time.Duration, cost string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(now.Add(-readyFor))}}
		p.Spec.NodeName, p.Status.Phase = node, phase
		if readyFor > 0 {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-readyFor))}}
		}
		if cost != "" {
			p.Annotations = map[string]string{corev1.PodDeletionCost: cost}
		}
		return p
	}
	pods := []*corev1.Pod{
		pod("old", "n1", corev1.PodRunning, time.Hour, ""),
		pod("dear", "n1", corev1.PodRunning, time.Second, "10"),
		pod("young", "n1", corev1.PodRunning, time.Minute, ""),
		pod("crowded", "n2", corev1.PodRunning, time.Hour, ""),
		pod("cheap", "n1", corev1.PodRunning, time.Hour, "-5"),
		pod("unready", "n1", corev1.PodRunning, 0, ""),
		pod("pending", "n1", corev1.PodPending, 0, ""),
		pod("nowhere", "", corev1.PodPending, 0, "100"),
	}
	leastUseful(pods, func(p *corev1.Pod) int { return map[string]int{"n2": 5, "n1": 1}[p.Spec.NodeName] }, now)
	var got []string
	for _, p := range pods {
		got = append(got, p.Name)
	}
	if want := "[nowhere pending unready cheap crowded young old dear]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestIndexes(t *testing.T) {
	for _, text := range []string{"", "0", "0,1", "0-2", "1,3-5,7", "0,2,4-9"} {
		if got := parseIndexes(text, 1000).String(); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestAddHistory(t *testing.T) {
	for _, tt := range [][3]string{{"", "1", "1"}, {"1", "3", "1,3"}, {"1,3", "3", "1,3"}} {
		if got := addHistory(tt[0], tt[1]); got != tt[2] {
			t.Errorf("%v: got %q", tt, got)
		}
	}
}

// TestSlicesChangeLittle checks that one change touches one slice.
func TestSlicesChangeLittle(t *testing.T) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "d", UID: "u"}}
	groups := func(from, to int) map[string]*group {
		g := &group{family: corev1.IPv4Protocol, endpoints: map[types.UID]discoveryv1.Endpoint{}}
		for i := from; i < to; i++ {
			uid := types.UID(fmt.Sprintf("p%04d", i))
			g.endpoints[uid] = discoveryv1.Endpoint{Addresses: []string{"10.0.0.1"}, TargetRef: &corev1.ObjectReference{UID: uid}}
		}
		return map[string]*group{"IPv4": g}
	}
	p := planSlices(svc, groups(0, 250), nil)
	if len(p.create) != 3 || len(p.create[0].Endpoints) != 100 {
		t.Fatalf("250 endpoints need 3 slices, got %d", len(p.create))
	}
	have := p.create
	for i, sl := range have {
		sl.Name = fmt.Sprint("s-", i)
	}
	if p := planSlices(svc, groups(0, 250), have); len(p.create)+len(p.update)+len(p.remove) != 0 {
		t.Errorf("nothing changed, and yet: %d, %d, %d", len(p.create), len(p.update), len(p.remove))
	}
	if p := planSlices(svc, groups(0, 251), have); len(p.update) != 1 || len(p.create)+len(p.remove) != 0 {
		t.Errorf("one more: %d, %d, %d", len(p.create), len(p.update), len(p.remove))
	}
	if p := planSlices(svc, groups(1, 251), have); len(p.update) != 1 || len(p.create)+len(p.remove) != 0 {
		t.Errorf("one exchanged: %d, %d, %d", len(p.create), len(p.update), len(p.remove))
	}
	if p := planSlices(svc, groups(0, 0), have); len(p.remove) != 2 || len(p.update) != 1 {
		t.Errorf("none left: %d, %d, %d", len(p.create), len(p.update), len(p.remove))
	}
}

func TestToleratedUntil(t *testing.T) {
	now := time.Unix(1e9, 0)
	added := metav1.NewTime(now.Add(-100 * time.Second))
	taints := []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoExecute, TimeAdded: &added}}
	seconds := func(n int64) corev1.Toleration {
		return corev1.Toleration{Key: "k", Operator: corev1.TolerationOpExists, TolerationSeconds: &n}
	}
	forever := corev1.Toleration{Key: "k", Operator: corev1.TolerationOpExists}
	for i, tt := range []struct {
		tolerations []corev1.Toleration
		left        time.Duration
		forever     bool
	}{
		{nil, 0, false},
		{[]corev1.Toleration{forever}, 0, true},
		{[]corev1.Toleration{seconds(300)}, 200 * time.Second, false},
		{[]corev1.Toleration{seconds(300), seconds(120)}, 20 * time.Second, false},
		{[]corev1.Toleration{seconds(300), forever}, 200 * time.Second, false},
		{[]corev1.Toleration{seconds(0)}, -100 * time.Second, false},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}}
		p.Spec.Tolerations = tt.tolerations
		end, ever := toleratedUntil(p, taints, now)
		if ever != tt.forever || !ever && end.Sub(now) != tt.left {
			t.Errorf("case %d: %v left, for ever %v", i, end.Sub(now), ever)
		}
	}
}
