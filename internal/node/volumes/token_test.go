package volumes_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds"
	"proa/internal/kinds/core"
	"proa/internal/node"
	"proa/internal/node/volumes"
	"proa/internal/store"
	"proa/internal/store/memory"
)

// A token is bound to its pod, fetched anew at 80 % of its life, and shown beside
// the other sources of its volume, which follow the API.
func TestProjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memory.New(nil)
		s, err := apiserver.New(t.Context(), apiserver.Config{Engine: e, Kinds: kinds.All, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { s.Close(); _ = e.Close() }()
		if _, err := core.Namespace.Create(t.Context(), s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}); err != nil {
			t.Fatal(err)
		}
		asked := 0
		h := api.HandlerFunc(func(ctx context.Context, r *api.Request) (*api.Response, error) {
			if r.Sub != "token" {
				return s.Handle(ctx, r)
			}
			tr := r.Object.(*authenticationv1.TokenRequest)
			b := tr.Spec.BoundObjectRef
			if r.Namespace != "ns" || r.Name != "robot" || b == nil || b.Kind != "Pod" || b.UID != "u1" || b.Name != "p" || len(tr.Spec.Audiences) != 1 || tr.Spec.Audiences[0] != "vault" {
				t.Errorf("token request %s/%s %+v", r.Namespace, r.Name, tr.Spec)
			}
			asked++
			tr.Status = authenticationv1.TokenRequestStatus{Token: fmt.Sprintf("token-%d", asked),
				ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Duration(*tr.Spec.ExpirationSeconds) * time.Second))}
			return &api.Response{Object: tr}, nil
		})
		m := volumes.New(volumes.Options{Handler: h, Plain: true})
		defer m.Close()
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u1"}, Spec: corev1.PodSpec{ServiceAccountName: "robot",
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: new(int32(0o644)), Sources: []corev1.VolumeProjection{
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "vault", ExpirationSeconds: new(int64(1000))}},
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "ca"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
				{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
				{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}, Optional: new(true)}},
			}}}}}}}
		woken := 0
		run := &node.Run{Pod: pod, Dir: t.TempDir(), Volumes: map[string]node.Volume{}, Changed: func() { woken++ }}
		step := m.Step()
		if err := step.Start(t.Context(), run); err == nil || err.Error() != `MountVolume.SetUp failed for volume "v" : configmap "ca" not found` {
			t.Fatalf("without its ConfigMap: %v", err)
		}
		put := func(text string) {
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "ca"}, Data: map[string]string{"ca.crt": text}}
			if _, err := core.ConfigMap.Create(t.Context(), s, cm); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		put("one")
		if woken == 0 {
			t.Error("nobody was woken when the ConfigMap came")
		}
		if err := step.Start(t.Context(), run); err != nil {
			t.Fatal(err)
		}
		shows := func(name, want string) {
			t.Helper()
			b, err := os.ReadFile(filepath.Join(run.Volumes["v"].Path, name))
			if err != nil || string(b) != want {
				t.Errorf("%s shows %q, %v; want %q", name, b, err, want)
			}
		}
		shows("token", "token-1")
		shows("ca.crt", "one")
		shows("namespace", "ns")
		time.Sleep(799 * time.Second)
		synctest.Wait()
		shows("token", "token-1")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		shows("token", "token-2")
		cm, err := core.ConfigMap.Get(t.Context(), s, "ns", "ca")
		if err != nil {
			t.Fatal(err)
		}
		cm = api.Clone(cm)
		cm.Data["ca.crt"] = "two"
		if _, err := core.ConfigMap.Update(t.Context(), s, cm); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		shows("ca.crt", "two")
		if asked != 2 {
			t.Errorf("%d tokens were fetched; want 2", asked)
		}
		if err := step.Stop(t.Context(), run); err != nil {
			t.Fatal(err)
		}
	})
}

// jumpy is a clock that can be set; its timers know nothing of that, as real ones.
type jumpy struct {
	store.SystemClock
	by atomic.Int64
}

func (j *jumpy) Now() time.Time { return time.Now().Add(time.Duration(j.by.Load())) }

// After the machine slept, or its clock was set, tokens that have ended meanwhile
// are fetched anew soon. The older of two tokens counts.
func TestTokensAndClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := &jumpy{}
		var asked atomic.Int32
		h := api.HandlerFunc(func(_ context.Context, r *api.Request) (*api.Response, error) {
			tr := api.Clone(r.Object.(*authenticationv1.TokenRequest))
			tr.Status = authenticationv1.TokenRequestStatus{Token: fmt.Sprint("token-", asked.Add(1)),
				ExpirationTimestamp: metav1.NewTime(clock.Now().Add(time.Duration(*tr.Spec.ExpirationSeconds) * time.Second))}
			return &api.Response{Object: tr}, nil
		})
		m := volumes.New(volumes.Options{Handler: h, Plain: true, Clock: clock})
		defer m.Close()
		projected := func(name string, life int64) corev1.Volume {
			return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: new(int32(0o644)), Sources: []corev1.VolumeProjection{
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &life}}}}}}
		}
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u1"},
			Spec: corev1.PodSpec{Volumes: []corev1.Volume{projected("short", 1000), projected("long", 100_000)}}}
		run := &node.Run{Pod: pod, Dir: t.TempDir(), Volumes: map[string]node.Volume{}, Changed: func() {}}
		step := m.Step()
		if err := step.Start(t.Context(), run); err != nil {
			t.Fatal(err)
		}
		is := func(when string, want int32) {
			t.Helper()
			synctest.Wait()
			if got := asked.Load(); got != want {
				t.Errorf("%s: %d tokens were asked for, want %d", when, got, want)
			}
		}
		is("at the start", 2)
		time.Sleep(790 * time.Second)
		is("before its time", 2)
		time.Sleep(20 * time.Second)
		is("at 80 % of the shorter", 3)
		clock.by.Store(int64(48 * time.Hour))
		time.Sleep(61 * time.Second)
		is("after a jump of two days", 5)
		clock.by.Store(0)
		time.Sleep(10 * time.Minute)
		is("after the clock was set back", 5)
	})
}
