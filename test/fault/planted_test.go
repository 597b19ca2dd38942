package main

import (
	"testing"

	"proa/internal/store/planted"
)

// TestPlanted plants every bug and runs the tests that must catch it.
func TestPlanted(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: builds tests with planted bugs; run without -short")
	}
	c, err := newCatcher("../..")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	caught, err := c.catchAll(t.Context(), planted.All, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d caught", caught, len(planted.All))
	if caught < len(planted.All) || caught < 20 {
		t.Errorf("%d planted bugs are not caught", len(planted.All)-caught)
	}
}
