package cli

import (
	"context"
	"io"
	"net"
	"os"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"sigs.k8s.io/yaml"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"proa": func() { os.Exit(Main(os.Args[1:])) }})
}

// TestScripts plays testdata/*.txtar: what a person types and what they read.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PORTS", strconv.Itoa(freePorts(t)))
			e.Setenv("PORTS2", strconv.Itoa(freePorts(t)))
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"listen":  listen,
			"request": request,
		},
		Condition: func(cond string) (bool, error) { return cond == "root" && os.Geteuid() == 0, nil },
	})
}

// request sends METHOD PATH [FILE] to the cluster in $WORK/c; the file is YAML.
func request(ts *testscript.TestScript, neg bool, args []string) {
	b, err := os.ReadFile(ts.MkAbs("c/etc/kubeconfig"))
	ts.Check(err)
	r, err := parseKubeconfig(b, "", "")
	ts.Check(err)
	r.warn = io.Discard
	var body []byte
	if len(args) > 2 {
		body, err = yaml.YAMLToJSON([]byte(ts.ReadFile(args[2])))
		ts.Check(err)
	}
	r.header.Set("User-Agent", "tester/1")
	_, err = r.do(context.Background(), args[0], args[1], nil, "application/json", body)
	if neg != (err != nil) {
		ts.Fatalf("%v: %v", args, err)
	}
}

// freePorts returns the first of four ports in a row that nobody uses.
func freePorts(t *testing.T) int {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		base := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if base < 65000 && free(base) && free(base+1) && free(base+2) && free(base+3) {
			return base
		}
	}
	t.Fatal("no four free ports in a row")
	return 0
}

func free(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(port)))
	if err == nil {
		l.Close()
	}
	return err == nil
}

// listen occupies a port until the script ends.
func listen(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", net.JoinHostPort("", args[0]))
	ts.Check(err)
	ts.Defer(func() { l.Close() })
}
