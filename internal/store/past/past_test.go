package past

import (
	"strings"
	"testing"

	"proa/internal/store"
)

// TestTrim shows lists as words: F is a full version, l a light one, and what
// goes is in lower or upper case x.
func TestTrim(t *testing.T) {
	for _, c := range []struct {
		list, kept  string
		full, light int
	}{
		{"", "", 2, 2},
		{"FF", "FF", 2, 2},
		{"FFF", "XFF", 2, 2},
		{"FllFllF", "XxxFllF", 2, 2},
		{"FlFlFl", "XxFlFl", 2, 2},
		{"Fllll", "Fxxll", 2, 2},
		{"llllF", "xxllF", 2, 2},
		{"lFlFlFl", "xXxFxFl", 2, 1},
		{"FlF", "FxF", 2, 0},
		{"FlF", "XxX", 0, 5},
	} {
		var list []Entry
		for i, b := range c.list {
			list = append(list, Entry{Revision: int64(i), Light: b == 'l'})
		}
		kept, gone := Trim(list, &store.Keeping{Full: c.full, Light: c.light})
		if len(kept)+len(gone) != len(c.list) {
			t.Errorf("%s: %d kept and %d gone", c.list, len(kept), len(gone))
		}
		got := []byte(strings.NewReplacer("F", "X", "l", "x").Replace(c.list))
		for _, e := range kept {
			got[e.Revision] = c.list[e.Revision]
		}
		if string(got) != c.kept {
			t.Errorf("%s with %d and %d: %s, not %s", c.list, c.full, c.light, got, c.kept)
		}
		for i := range kept {
			if i > 0 && kept[i].Revision <= kept[i-1].Revision {
				t.Errorf("%s: out of order: %v", c.list, kept)
			}
		}
	}
}
