package apiserver_test

import (
	"fmt"
	"testing"

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
