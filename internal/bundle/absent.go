//go:build !bundle

package bundle

import "io"

func hash() string { return "" }

func open() (io.ReadCloser, error) { return nil, ErrAbsent }
