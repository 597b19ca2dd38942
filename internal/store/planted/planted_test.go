package planted

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEachIsPlanted compares the list with the branches in the code: one for
// one name at least, in the package that it says.
func TestEachIsPlanted(t *testing.T) {
	is := regexp.MustCompile(`planted\.Is\("([^"]*)"\)`)
	found := map[string]string{}
	root := "../.."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range is.FindAllSubmatch(text, -1) {
			in, _ := filepath.Rel(root, filepath.Dir(path))
			if was, ok := found[string(m[1])]; ok && was != filepath.ToSlash(in) {
				t.Errorf("%s is planted in %s and in %s", m[1], was, in)
			}
			found[string(m[1])] = filepath.ToSlash(in)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, b := range All {
		if found[b.Name] != b.In {
			t.Errorf("%s should be planted in %q and is in %q", b.Name, b.In, found[b.Name])
		}
		if names[b.Name] || b.What == "" || b.Tests == "" {
			t.Errorf("%+v: a name twice, or nothing said of it", b)
		}
		names[b.Name] = true
	}
	for name := range found {
		if !names[name] {
			t.Errorf("%s is planted and not in the list", name)
		}
	}
}
