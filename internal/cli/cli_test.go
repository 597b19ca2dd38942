package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"sigs.k8s.io/yaml"

	"proa/internal/pki"
	"proa/internal/store/etcd/etcdtest"
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
			"etcd":    startEtcd,
			"raw":     raw,
			"request": request,
			"until":   until,
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "etcd":
				return etcdtest.Find() != "", nil
			case "root":
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("no condition is called %q", cond)
		},
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

// until PATTERN ARGS... calls proa, of the cluster in $WORK/c, until what it says matches.
func until(ts *testscript.TestScript, _ bool, args []string) {
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	var out, errw bytes.Buffer
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		out.Reset()
		errw.Reset()
		run(context.Background(), append(args[1:len(args):len(args)], "--kubeconfig", ts.MkAbs("c/etc/kubeconfig")), &out, &errw)
		if want.MatchString(out.String()) {
			return
		}
	}
	ts.Fatalf("%v does not say %s, but\n%s%s", args[1:], args[0], out.String(), errw.String())
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

// startEtcd runs an etcd until the script ends and puts its address into ETCD.
func startEtcd(ts *testscript.TestScript, _ bool, _ []string) {
	s := etcdtest.Start(scriptT{ts})
	ts.Setenv("ETCD", s.Endpoint)
}

// raw ROOT METHOD PATH [FILE] asks the cluster at a root as its administrator, or
// as nobody if there is a "!" before it; the file is the body. Its output is the answer's code and body.
func raw(ts *testscript.TestScript, nobody bool, args []string) {
	k, err := pki.ReadKubeconfig(filepath.Join(ts.MkAbs(args[0]), "etc", "kubeconfig"))
	ts.Check(err)
	cert, err := tls.X509KeyPair(k.Client.Cert, k.Client.Key)
	ts.Check(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(k.CA)
	certs := []tls.Certificate{cert}
	if nobody {
		certs = nil
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: certs}}}
	var body []byte
	if len(args) > 3 {
		body = []byte(ts.ReadFile(args[3]))
	}
	req, err := http.NewRequest(args[1], k.Server+args[2], bytes.NewReader(body))
	ts.Check(err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	fmt.Fprintln(ts.Stdout(), resp.StatusCode)
	_, err = io.Copy(ts.Stdout(), resp.Body)
	ts.Check(err)
}

// scriptT is a script as a test.
type scriptT struct{ ts *testscript.TestScript }

func (t scriptT) Helper()                   {}
func (t scriptT) TempDir() string           { return t.ts.MkAbs("etcd") }
func (t scriptT) Cleanup(f func())          { t.ts.Defer(f) }
func (t scriptT) Skip(a ...any)             { t.ts.Fatalf("%s", fmt.Sprint(a...)) }
func (t scriptT) Fatal(a ...any)            { t.ts.Fatalf("%s", fmt.Sprint(a...)) }
func (t scriptT) Fatalf(f string, a ...any) { t.ts.Fatalf(f, a...) }
func (t scriptT) Error(a ...any)            { t.ts.Logf("%s", fmt.Sprint(a...)) }
