package house

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Declared values and the file that lists them all: a package-level
// `var Name = &type{…}` under dir must be named in list.
var lists = []struct{ dir, typ, list string }{
	{"internal/kinds/", "api.Kind", "internal/kinds/kinds.go"},
	{"internal/controllers/", "control.Controller", "internal/controllers/controllers.go"},
	{"internal/sched/plugins/", "sched.Plugin", "internal/sched/plugins/plugins.go"},
	{"internal/apiserver/admit/", "Step", "internal/apiserver/admit/admit.go"},
	{"internal/cli/", "Command", "internal/cli/cli.go"},
}

// TestDeclaredValuesAreListed checks that nothing is declared and then forgotten.
func TestDeclaredValuesAreListed(t *testing.T) {
	all := sources(t)
	for _, l := range lists {
		text, err := os.ReadFile(filepath.Join(root, l.list))
		if err != nil {
			t.Errorf("the list of every %s: %v", l.typ, err)
			continue
		}
		found := 0
		for _, s := range all {
			if s.test || !strings.HasPrefix(s.path, l.dir) {
				continue
			}
			for _, name := range declared(s.file, l.typ) {
				found++
				if !regexp.MustCompile(`\b` + name + `\b`).Match(text) {
					t.Errorf("%s declares %s, which %s does not list", s.path, name, l.list)
				}
			}
		}
		if found == 0 {
			t.Errorf("no %s is declared under %s: the rule checks nothing", l.typ, l.dir)
		}
	}
}

// declared returns the names of package-level variables that are &typ{…} or &typ[…]{…}.
func declared(f *ast.File, typ string) (names []string) {
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, sp := range g.Specs {
			v, ok := sp.(*ast.ValueSpec)
			if !ok {
				continue
			}
			for i, val := range v.Values {
				if u, ok := val.(*ast.UnaryExpr); ok {
					if c, ok := u.X.(*ast.CompositeLit); ok && typeName(c.Type) == typ {
						names = append(names, v.Names[i].Name)
					}
				}
			}
		}
	}
	return names
}

func typeName(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return typeName(x.X) + "." + x.Sel.Name
	case *ast.IndexExpr:
		return typeName(x.X)
	}
	return ""
}
