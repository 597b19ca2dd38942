// Package house holds the rules of the house as tests: who may import whom,
// that every package says what it is for, that no file outgrows its reader, that
// every declared value is in its list, and how big the binary may be. When a
// rule bites, mend the code, not the rule.
package house

// Law lists the layers of internal/ from the bottom up. A package imports from
// lines above its own and from inside its own folder, never a neighbour. What it
// needs from elsewhere it asks for as an interface that system hands in.
const Law = `
api host
kinds store kubeletapi pki registry bundle
httpapi apiserver
storytest
control sched
controllers node proxy overlay dns why
system
cli
house
`

// Limits of a file's length, in lines, and of the core binary's size, in bytes.
const (
	MaxLines  = 800
	MaxBinary = 60 << 20
)
