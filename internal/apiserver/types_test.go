package apiserver

import (
	"flag"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

var writeTypes = flag.Bool("write", false, "write types.zst anew")

// TestTypes: the schema for applies is that of the client-go that go.mod names.
func TestTypes(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/client-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := schemaText(t, filepath.Join(strings.TrimSpace(string(out)), "applyconfigurations", "internal", "internal.go"))
	if *writeTypes {
		z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(1<<20), zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		packedTypes = z.EncodeAll([]byte(want), nil)
		if err := os.WriteFile("types.zst", packedTypes, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := unpackTypes(); err != nil || string(got) != want {
		t.Errorf("types.zst is of another client-go (%d bytes, want %d; %v): go test ./internal/apiserver -run TestTypes -write", len(got), len(want), err)
	}
}

// schemaText finds the literal that schemaYAML is made of.
func schemaText(t *testing.T, file string) (text string) {
	f, err := parser.ParseFile(gotoken.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || v.Names[0].Name != "schemaYAML" || len(v.Values) != 1 {
			return true
		}
		if call, ok := v.Values[0].(*ast.CallExpr); ok && len(call.Args) == 1 {
			if lit, ok := call.Args[0].(*ast.BasicLit); ok {
				text, err = strconv.Unquote(lit.Value)
			}
		}
		return false
	})
	if err != nil || text == "" {
		t.Fatalf("%s holds no schemaYAML: %v", file, err)
	}
	return text
}
