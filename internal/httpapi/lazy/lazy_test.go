package lazy

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A Context ends as one of the library would, whether anybody waits or not.
func TestContext(t *testing.T) {
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		parent, stop := context.WithCancel(context.WithValue(t.Context(), key{}, "kept"))
		fresh := func() *Context { return WithDeadline(parent, time.Now().Add(time.Second)) }

		d := fresh()
		if at, ok := d.Deadline(); !ok || !at.Equal(d.at) || d.Err() != nil || d.Value(key{}) != "kept" {
			t.Errorf("a new one has deadline %v, error %v, value %v", at, d.Err(), d.Value(key{}))
		}
		time.Sleep(time.Second)
		if err := d.Err(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("when it is over without a wait: %v", err)
		}

		d = fresh()
		began := time.Now()
		<-d.Done()
		if took := time.Since(began); took != time.Second || !errors.Is(d.Err(), context.DeadlineExceeded) || d.Value(key{}) != "kept" {
			t.Errorf("a wait took %v, error %v", took, d.Err())
		}

		d = fresh()
		child, cancel := context.WithCancel(d)
		defer cancel()
		d.Cancel()
		<-child.Done()
		if !errors.Is(d.Err(), context.Canceled) {
			t.Errorf("ended under a wait: %v", d.Err())
		}

		d = fresh()
		d.Cancel()
		if err := d.Err(); !errors.Is(err, context.Canceled) {
			t.Errorf("ended before a wait: %v", err)
		}
		<-d.Done()

		d = fresh()
		stop()
		if err := d.Err(); !errors.Is(err, context.Canceled) {
			t.Errorf("when its parent has ended: %v", err)
		}
		<-d.Done()

		var plain Context
		plain.Init(t.Context(), time.Time{})
		if _, ok := plain.Deadline(); ok || plain.Err() != nil {
			t.Errorf("without a deadline: %v", plain.Err())
		}
		child, cancelChild := context.WithTimeout(&plain, time.Hour)
		defer cancelChild()
		plain.Cancel()
		<-child.Done()
		if !errors.Is(plain.Err(), context.Canceled) || !errors.Is(child.Err(), context.Canceled) {
			t.Errorf("cancelled: %v, and its child: %v", plain.Err(), child.Err())
		}
	})
}
