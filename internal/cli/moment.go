package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// moment reads a time as people say it, relative to now and in its zone: 14:05
// (the last time it was that), 2h or 3d (ago), a date with a time, or RFC 3339.
func moment(s string, now time.Time) (time.Time, error) {
	s = strings.TrimSpace(strings.TrimSuffix(s, " ago"))
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		t, err := time.Parse(layout, s)
		if err != nil {
			continue
		}
		at := func(day int) time.Time {
			return time.Date(now.Year(), now.Month(), day, t.Hour(), t.Minute(), t.Second(), 0, now.Location())
		}
		if today := at(now.Day()); !today.After(now) {
			return today, nil
		}
		return at(now.Day() - 1), nil
	}
	if days, err := strconv.Atoi(strings.TrimSuffix(s, "d")); err == nil && days >= 0 && strings.HasSuffix(s, "d") {
		return now.AddDate(0, 0, -days), nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("%q is no time: say 14:05, 2h or 3d (ago), '2026-01-31 14:05' or 2026-01-31T14:05:00Z", s)
}

// when is a time for people, relative to now and in its zone.
func when(t, now time.Time) string {
	t = t.In(now.Location())
	switch day := t.Format(time.DateOnly); day {
	case now.Format(time.DateOnly):
		return "today " + t.Format(time.TimeOnly)
	case now.AddDate(0, 0, -1).Format(time.DateOnly):
		return "yesterday " + t.Format(time.TimeOnly)
	default:
		return day + " " + t.Format(time.TimeOnly)
	}
}
