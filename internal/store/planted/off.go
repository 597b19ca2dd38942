//go:build !planted

package planted

// Built says whether the bugs are in this program.
const Built = false

// Is is false: without the build tag planted, the compiler leaves out what
// depends on it.
func Is(string) bool { return false }
