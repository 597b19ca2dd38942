//go:build planted

package planted

import "os"

// Built says whether the bugs are in this program.
const Built = true

var chosen = os.Getenv(Variable)

// Is says whether the bug of this name is to be there in this run.
func Is(name string) bool { return name == chosen }
