package house

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// A source is one Go file of the module, parsed.
type source struct {
	path string // slash-separated, from the root
	file *ast.File
	text []byte
	test bool
}

// sources returns every Go file of the module but generated ones' bodies.
func sources(t *testing.T) (out []source) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if rel == "build" || strings.HasPrefix(d.Name(), ".") && rel != "." || d.Name() == "testdata" {
				return fs.SkipDir
			}
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && rel != "." {
				return fs.SkipDir // a module of its own
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		out = append(out, source{rel, f, text, strings.HasSuffix(path, "_test.go")})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 20 {
		t.Fatalf("only %d Go files found under %s", len(out), root)
	}
	return out
}

func layers() map[string]int {
	m := map[string]int{}
	n := 0
	for line := range strings.Lines(strings.TrimSpace(Law)) {
		for _, top := range strings.Fields(line) {
			m[top] = n
		}
		n++
	}
	return m
}

// TestImports checks the import law, and that what is not to be linked is not imported.
func TestImports(t *testing.T) {
	layer := layers()
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		inner, ok := strings.CutPrefix(s.path, "internal/")
		from, _, _ := strings.Cut(inner, "/")
		if _, known := layer[from]; ok && !known {
			t.Errorf("%s: package %s has no line in the import law", s.path, from)
		}
		for _, i := range s.file.Imports {
			imp, _ := strconv.Unquote(i.Path.Value)
			if why := banned(imp); why != "" {
				t.Errorf("%s imports %s: %s", s.path, imp, why)
			}
			rest, ours := strings.CutPrefix(imp, "proa/internal/")
			to, _, _ := strings.Cut(rest, "/")
			if ok && ours && from != to && layer[to] >= layer[from] {
				t.Errorf("%s imports %s: %s is not above %s in the import law", s.path, imp, to, from)
			}
		}
	}
}

func banned(imp string) string {
	switch {
	case strings.HasPrefix(imp, "k8s.io/kubernetes"):
		return "Proa is written, not wrapped"
	case imp == "k8s.io/apiserver" || strings.HasPrefix(imp, "k8s.io/apiserver/pkg/") &&
		!strings.HasPrefix(imp, "k8s.io/apiserver/pkg/cel") && !strings.HasPrefix(imp, "k8s.io/apiserver/pkg/admission/plugin"):
		return "no API server framework"
	case strings.HasPrefix(imp, "sigs.k8s.io/controller-runtime"):
		return "no controller framework"
	case imp == "text/template" || imp == "html/template":
		return "templates turn off the linker's pruning of methods (+20 to 30 MB)"
	case strings.HasPrefix(imp, "github.com/stretchr/testify"):
		return "no assertion libraries"
	}
	return ""
}

// TestLaw checks that every name in the import law is a folder.
func TestLaw(t *testing.T) {
	for name := range layers() {
		if st, err := os.Stat(filepath.Join(root, "internal", name)); err != nil || !st.IsDir() {
			t.Errorf("the import law names %s, which is not there (%v)", name, err)
		}
	}
}

// TestPackageDocs checks that one file of every package says what it is for.
func TestPackageDocs(t *testing.T) {
	docs, first := map[string]bool{}, map[string]string{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		dir := filepath.Dir(s.path)
		first[dir] = s.path
		if s.file.Doc != nil && (strings.HasPrefix(s.file.Doc.Text(), "Package ") || s.file.Name.Name == "main") {
			docs[dir] = true
		}
	}
	for dir, path := range first {
		if !docs[dir] {
			t.Errorf("%s: no file of package %s starts with a comment that says what it is for", path, dir)
		}
	}
}

// TestNames keeps out the names that say nothing.
func TestNames(t *testing.T) {
	for _, s := range sources(t) {
		for _, word := range []string{"util", "utils", "common", "helper", "helpers", "manager", "base", "misc"} {
			name := strings.TrimSuffix(strings.TrimSuffix(filepath.Base(s.path), ".go"), "_test")
			if name == word || s.file.Name.Name == word {
				t.Errorf("%s: a name says what a thing is; %q does not", s.path, word)
			}
		}
	}
}

// TestFileLength keeps every file small enough to hold in the head.
func TestFileLength(t *testing.T) {
	for _, s := range sources(t) {
		if n := bytes.Count(s.text, []byte("\n")); n > MaxLines && !ast.IsGenerated(s.file) {
			t.Errorf("%s has %d lines, more than %d: it holds two ideas", s.path, n, MaxLines)
		}
	}
}

// TestNoInit checks that nothing happens by being imported.
func TestNoInit(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s has an init function: declare a value in a list instead", s.path)
			}
		}
	}
}

// TestNoSleep checks that product code waits for events, not for time to pass.
func TestNoSleep(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || !strings.HasPrefix(s.path, "internal/") {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" {
					t.Errorf("%s sleeps: wait for the event instead", s.path)
				}
			}
			return true
		})
	}
}
