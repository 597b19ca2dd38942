package store

import "time"

// A Clock tells an engine the time and wakes it. Tests hand in their own
// (storetest.Clock); nil means [SystemClock].
type Clock interface {
	Now() time.Time
	// AfterFunc calls f once d has passed, in a goroutine of its own, unless the
	// function it returns is called before.
	AfterFunc(d time.Duration, f func()) (stop func())
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// Now is time.Now.
func (SystemClock) Now() time.Time { return time.Now() }

// AfterFunc is time.AfterFunc.
func (SystemClock) AfterFunc(d time.Duration, f func()) func() {
	t := time.AfterFunc(d, f)
	return func() { t.Stop() }
}
