package controllers

import (
	"testing"
	"time"

	"github.com/robfig/cron/v3"
)

// TestLatest checks the latest time of a schedule against a walk over all of them.
func TestLatest(t *testing.T) {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, text := range []string{"* * * * *", "*/7 3-5 * * *", "0 0 29 2 *", "30 6-16/4 * * 1-5", "@every 90s", "@monthly", "TZ=Europe/Berlin 30 2 * * *", "0 0 31 2 *"} {
		s, err := cron.ParseStandard(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range []time.Duration{0, 59 * time.Second, 61 * time.Second, 4 * time.Hour, 50 * time.Hour, 40 * 24 * time.Hour, 90 * 24 * time.Hour, 1200 * 24 * time.Hour} {
			now := start.Add(d)
			if d > 100*24*time.Hour && (text == "* * * * *" || text == "@every 90s") {
				continue
			}
			var want time.Time
			n := 0
			for at := s.Next(start); !at.IsZero() && !at.After(now); at = s.Next(at) {
				want = at
				n++
			}
			got, count := latest(s, start, now)
			if !got.Equal(want) || count != min(n, manyMissed+1) {
				t.Errorf("%q after %v: %v (%d), want %v (%d)", text, d, got, count, want, n)
			}
		}
	}
}
