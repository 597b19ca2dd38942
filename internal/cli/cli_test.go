package cli

import (
	"net"
	"os"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
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
			"listen": listen,
		},
		Condition: func(cond string) (bool, error) { return cond == "root" && os.Geteuid() == 0, nil },
	})
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
