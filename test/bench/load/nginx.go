package load

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"proa/test/bench/measure"
)

// StartNginx lets nginx serve as files, below dir, what a server answers for paths. If
// there is no nginx it says so and returns nil.
func StartNginx(core int, refs, dir string, id *measure.Identity, of measure.Target, paths map[string]string) (*measure.Nginx, error) {
	c, err := Dial(of)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	files := filepath.Join(dir, "files")
	if err := os.MkdirAll(files, 0o755); err != nil {
		return nil, err
	}
	for name, path := range paths {
		b, err := c.Body(&Request{Method: "GET", Path: path})
		if err == nil {
			err = os.WriteFile(filepath.Join(files, name), b, 0o644)
		}
		if err != nil {
			return nil, err
		}
	}
	n, err := measure.StartNginx(core, refs, dir, files, id)
	if errors.Is(err, measure.ErrNoNginx) {
		fmt.Println("  nginx is left out:", err)
		return nil, nil
	}
	return n, err
}
