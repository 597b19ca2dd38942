package load

import (
	"context"
	"fmt"
	"sync"
	"time"

	"proa/test/bench/measure"
)

// A Contestant is asked for one thing after the other, each with a name, which
// differs from all others: it makes one client with a connection of its own.
type Contestant interface {
	Client(n int) (do func(ctx context.Context, name string) error, close func(), err error)
}

// A Result is one run of load.
type Result struct {
	PerSecond float64
	Latency   []time.Duration
	CPU       time.Duration // of the servers, without connecting
}

// Each is the servers' processor time for one thing asked, in microseconds.
func (r *Result) Each() float64 {
	return float64(r.CPU.Microseconds()) / float64(max(1, len(r.Latency)))
}

// P50 and P99 are quantiles of the latency in milliseconds.
func (r *Result) P50() float64 { return measure.Millis(measure.Median(r.Latency)) }
func (r *Result) P99() float64 { return measure.Millis(measure.Quantile(r.Latency, 0.99)) }

// A Load is how a contestant is asked.
type Load struct {
	Clients int
	Prefix  string // of the names
	Length  time.Duration
	CPU     func() time.Duration // that the servers have used so far
}

// Closed has each client ask one thing after the other, for a time.
func Closed(c Contestant, l Load) (Result, error) { return drive(c, l, nil) }

// Open has things asked at a rate, however long each takes; the latency counts
// from when one was due.
func Open(c Contestant, l Load, rate float64) (Result, error) {
	due := make(chan time.Time, int(rate*l.Length.Seconds())+1)
	start := time.Now().Add(200 * time.Millisecond)
	for n := range cap(due) - 1 {
		due <- start.Add(time.Duration(float64(n) / rate * float64(time.Second)))
	}
	close(due)
	return drive(c, l, due)
}

type client struct {
	do   func(context.Context, string) error
	took []time.Duration
	err  error
}

func drive(c Contestant, l Load, due <-chan time.Time) (Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), l.Length+30*time.Second)
	defer cancel()
	all := make([]client, l.Clients)
	for n := range all {
		do, done, err := c.Client(n)
		if err != nil {
			return Result{}, err
		}
		defer done()
		all[n].do = do
	}
	var ready, ended sync.WaitGroup
	ready.Add(l.Clients)
	begin := make(chan struct{})
	var start time.Time
	for n := range all {
		ended.Go(func() {
			x := &all[n]
			x.err = x.do(ctx, fmt.Sprintf("%s-%d-first", l.Prefix, n)) // connects
			ready.Done()
			<-begin
			for i := 0; x.err == nil; i++ {
				from := time.Now()
				if due != nil {
					var ok bool
					if from, ok = <-due; !ok {
						return
					}
					time.Sleep(time.Until(from))
				} else if from.Sub(start) > l.Length {
					return
				}
				x.err = x.do(ctx, fmt.Sprintf("%s-%d-%d", l.Prefix, n, i))
				x.took = append(x.took, time.Since(from))
			}
		})
	}
	ready.Wait()
	var r Result
	cpu := l.CPU()
	start = time.Now()
	close(begin)
	ended.Wait()
	elapsed := time.Since(start)
	r.CPU = l.CPU() - cpu
	var errs error
	for _, x := range all {
		r.Latency = append(r.Latency, x.took...)
		if errs == nil {
			errs = x.err
		}
	}
	r.PerSecond = float64(len(r.Latency)) / elapsed.Seconds()
	return r, errs
}

// Asker asks a server over connections of its own; Next is told which client
// asks its how manyth thing.
type Asker struct {
	measure.Target
	Next func(name string) *Request
}

// Client connects.
func (a Asker) Client(int) (func(context.Context, string) error, func(), error) {
	c, err := Dial(a.Target)
	if err != nil {
		return nil, nil, err
	}
	return func(_ context.Context, name string) error {
		_, err := c.Do(a.Next(name), nil)
		return err
	}, c.Close, nil
}
