// Package simulate plays a whole cluster from one seed: the API server, every
// controller, the scheduler and the agents of a dozen pretend nodes, as a user
// runs them, for days of simulated time in some minutes of the machine's.
//
// It runs in the time of testing/synctest, which jumps to the next timer when
// nothing else is to be done. The order, too, is the seed's: whatever a part does
// that another may notice (a request, the next event of a watch, a reconcile, a
// piece of an agent's work, a call of the container runtime) waits at one
// [turnstile], and goes on alone when the driver lets it. Which is next, how late
// it is, whether it fails and whether only its answer gets lost is drawn from
// the seed. So is what users do, and what breaks: nodes that die, agents that
// crash, networks that are cut, controllers that end between two writes, a control
// plane that is away for minutes.
//
// After each write the rules are looked at that must hold at any time (rules_test.go).
// Every day ends with a calm: what is broken is mended, and after some time
// everything must be as it was asked for, and nothing may be written any more.
//
//	make simulate SEED=7 DAYS=30
//
// prints one line. The same seed prints the same line, but for the time it took.
// With TRACE=file it writes every turn there; the first difference between two
// files is where something has an order of its own.
package simulate
