// Package api holds tests of what the API promises while things break: a real
// server on TLS, whose clients are cut off and whose store loses power, fails to
// write, or is compacted under them.
//
//   - linear_test.go: what concurrent clients were answered is linearizable
//     (porcupine), and every list shows exactly the state of its revision.
//   - watch_test.go: every watch shows every change once and in order, whatever
//     it selects, however often it is cut off; 410 only when the engine has
//     compacted what it asked for.
//
// The truth is the engine's own log, which a collector reads before anything may
// be compacted. SECONDS=600 makes the runs longer, SEED=n repeats the random
// choices of one (not the timing).
package api
