package fleet

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// A Word is something that can happen to a node.
type Word struct {
	Name  string
	Takes []string // the fields of its lines, beside at, jitter and apart
	Needs string   // a field that it cannot do without

	begin func(ctx context.Context, m *Machine, o Order) error // nil: of mend
	end   func(ctx context.Context, m *Machine) error          // nil if it does not last
}

// The words of scripts and orders. A [Player] carries out mend, which ends whatever
// goes on; boot ends a failure, too.
var (
	Boot = &Word{Name: "boot",
		begin: func(ctx context.Context, m *Machine, _ Order) error { return m.Boot(ctx) }}
	Failure = &Word{Name: "failure", Takes: lasting,
		begin: func(_ context.Context, m *Machine, _ Order) error { m.Fail(); return nil },
		end:   func(ctx context.Context, m *Machine) error { return m.Boot(ctx) }}
	Crash = &Word{Name: "crash", Takes: lasting,
		begin: func(_ context.Context, m *Machine, _ Order) error { m.StopAgent(); return nil },
		end:   func(ctx context.Context, m *Machine) error { return m.StartAgent(ctx) }}
	Silence = &Word{Name: "silence", Takes: lasting,
		begin: func(_ context.Context, m *Machine, _ Order) error { m.Cut(); return nil },
		end:   func(_ context.Context, m *Machine) error { m.Mend(); return nil }}
	Slow = &Word{Name: "slow", Takes: append([]string{"by"}, lasting...), Needs: "by",
		begin: func(_ context.Context, m *Machine, o Order) error { m.Slow(o.By); return nil },
		end:   func(_ context.Context, m *Machine) error { m.Slow(0); return nil }}
	MemoryPressure = pressure("memory-pressure", corev1.NodeMemoryPressure)
	DiskPressure   = pressure("disk-pressure", corev1.NodeDiskPressure)
	PIDPressure    = pressure("pid-pressure", corev1.NodePIDPressure)
	Mend           = &Word{Name: "mend", Takes: []string{"every", "times"}}
)

// Words is every word.
var Words = []*Word{Boot, Failure, Crash, Silence, Slow, MemoryPressure, DiskPressure, PIDPressure, Mend}

// lasting are the fields of what may last, and come again.
var lasting = []string{"for", "every", "times"}

func pressure(name string, of corev1.NodeConditionType) *Word {
	return &Word{Name: name, Takes: lasting,
		begin: func(_ context.Context, m *Machine, _ Order) error { m.Short(of, true); return nil },
		end:   func(_ context.Context, m *Machine) error { m.Short(of, false); return nil }}
}

// An Order is what is to happen to a node.
type Order struct {
	Word *Word
	For  time.Duration // how long; 0: until it is mended, but a crash is over at once
	By   time.Duration // of slow: how much slower
}

// String is the order as it is written.
func (o Order) String() string {
	s := o.Word.Name
	if o.By > 0 {
		s += " by " + short(o.By)
	}
	if o.For > 0 {
		s += " for " + short(o.For)
	}
	return s
}

// short writes a time without the units that are 0 at its end.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
