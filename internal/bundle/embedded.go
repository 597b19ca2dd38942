//go:build bundle

package bundle

import (
	"embed"
	"fmt"
	"io"
	"strings"
)

// The two files are put here by `make bundle`.

//go:embed bundle.tar.zst
var files embed.FS

//go:embed bundle.tar.zst.sha256
var sum string

func hash() string { return strings.TrimSpace(sum) }

// open reads the archive from the executable's pages as they are needed.
func open() (io.ReadCloser, error) {
	f, err := files.Open("bundle.tar.zst")
	if err != nil {
		return nil, fmt.Errorf("open the bundle: %w", err)
	}
	return f, nil
}
