package apiserver_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/internal/api"
	"proa/internal/apiserver"
	"proa/internal/kinds/core"
)

// Forms that nobody reads go at the second sweep, and once no more go, their
// memory is given back, once.
func TestQuietServerGivesMemoryBack(t *testing.T) {
	s := start(t, engines["memory"](t), nil)
	account(t, s, "default")
	for n := range 1100 {
		if _, err := core.Pod.Create(t.Context(), s, pod("default", fmt.Sprint("p-", n), "")); err != nil {
			t.Fatal(err)
		}
	}
	var w apiserver.Sweeper
	for n, want := range []bool{false, false, true, false} {
		if got := w.Sweep(s); got != want {
			t.Errorf("sweep %d gave memory back: %v, want %v", n+1, got, want)
		}
	}
}

// JSON that nobody asks for stays for five minutes while it is little, and goes
// at the second sweep if it is much.
func TestSweepSparesALittleJSON(t *testing.T) {
	for _, tt := range []struct{ maps, size, goes int }{{10, 1 << 10, 60}, {40, 1 << 20, 3}} {
		s := start(t, engines["memory"](t), nil)
		for n := range tt.maps {
			c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("c-", n)}, Data: map[string]string{"k": strings.Repeat("x", tt.size)}}
			if _, err := core.ConfigMap.Create(t.Context(), s, c); err != nil {
				t.Fatal(err)
			}
		}
		var all []*api.Item
		for item := range s.Snapshot().Items(core.ConfigMap.Def().GroupResource(), "default") {
			if _, err := item.JSON(); err != nil {
				t.Fatal(err)
			}
			all = append(all, item)
		}
		var w apiserver.Sweeper
		for n := 1; n <= tt.goes; n++ {
			w.Sweep(s)
			left := 0
			for _, item := range all {
				left += item.TextSize()
			}
			if n < tt.goes && left < tt.maps*tt.size || n == tt.goes && left > 0 {
				t.Errorf("%d of %d bytes: %d bytes are left after sweep %d", tt.maps, tt.size, left, n)
			}
		}
	}
}
