package measure

import (
	"maps"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// What is there to be cleared away when the measurement is interrupted.
var left struct {
	sync.Mutex
	heard     sync.Once
	processes map[*Process]bool
	folders   map[string]bool
}

// clearAway remembers a process or a folder, until it is gone, and ends and removes
// all of them on SIGINT and SIGTERM.
func clearAway[T comparable](all *map[T]bool, one T) (gone func()) {
	left.Lock()
	defer left.Unlock()
	if *all == nil {
		*all = map[T]bool{}
	}
	(*all)[one] = true
	left.heard.Do(func() {
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
		go func() {
			<-c // others than the first are not heard
			interrupted()
			os.Exit(130)
		}()
	})
	return func() {
		left.Lock()
		defer left.Unlock()
		delete(*all, one)
	}
}

func interrupted() {
	left.Lock()
	var wg sync.WaitGroup
	for p := range left.processes {
		wg.Go(p.Stop)
	}
	folders := maps.Clone(left.folders)
	left.Unlock()
	wg.Wait()
	for dir := range folders {
		os.RemoveAll(dir)
	}
}
