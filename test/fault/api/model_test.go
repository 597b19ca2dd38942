package api

import (
	"fmt"
	"math"

	"github.com/anishathalye/porcupine"
)

// An input is what a client asked about one object.
type input struct {
	verb   byte // 'g'et, 'c'reate, 'u'pdate, 'd'elete
	key    string
	value  string // written; no two writes have the same
	expect int64  // resourceVersion that the object must have; 0: any
}

// An outcome is how it was answered.
type outcome byte

const (
	done     outcome = iota
	conflict         // 409
	missing          // 404
	unknown          // no answer, or one that leaves it open
)

type output struct {
	outcome
	rev   int64 // of the object, where an answer tells
	value string
}

// A state is one object's, as far as the answers tell.
type state struct {
	there bool
	rev   int64 // unseen: of a write whose answer nobody got
	value string
	high  int64 // the highest revision that the object is known to have had
}

const unseen = -1

// forever is when an operation returned whose outcome nobody knows.
const forever = math.MaxInt64 / 2

// model is one object of the API. Create expects that it is not there; an update
// without a resourceVersion takes whatever is there.
var model = porcupine.Model{
	Partition: func(ops []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, o := range ops {
			k := o.Input.(input).key
			byKey[k] = append(byKey[k], o)
		}
		var parts [][]porcupine.Operation
		for _, p := range byKey {
			parts = append(parts, p)
		}
		return parts
	},
	Init:              func() any { return state{} },
	Step:              func(st, in, out any) (bool, any) { return step(st.(state), in.(input), out.(output)) },
	Equal:             func(a, b any) bool { return a == b },
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v → %+v", in, out) },
}

func step(s state, in input, out output) (bool, state) {
	fits := s.there && (in.expect == 0 || in.expect == s.rev)
	if in.verb == 'c' {
		fits = !s.there
	}
	after := state{high: s.high}
	if in.verb != 'd' {
		after = state{there: true, rev: unseen, value: in.value, high: s.high}
	}
	switch {
	case in.verb == 'g':
		return read(s, out)
	case out.outcome == unknown && fits:
		return true, after
	case out.outcome == unknown:
		return true, s
	case out.outcome == missing:
		return !s.there && in.verb != 'c', s
	case out.outcome == conflict:
		return !fits && s.there, s
	case !fits:
		return false, s
	case in.verb == 'd':
		return true, after
	}
	after.rev, after.high = out.rev, out.rev
	return out.rev > s.high && out.value == in.value, after
}

// read is a get; it tells the revision of a write whose answer nobody got.
func read(s state, out output) (bool, state) {
	switch {
	case out.outcome == unknown:
		return true, s
	case out.outcome == missing:
		return !s.there, s
	case !s.there || out.value != s.value:
		return false, s
	case s.rev == unseen:
		ok := out.rev > s.high
		s.rev, s.high = out.rev, out.rev
		return ok, s
	}
	return out.rev == s.rev, s
}
