package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// redis is the part of Redis that the front end uses: a list, AUTH and PING.
type redis struct {
	net.Listener
	mu      sync.Mutex
	entries []string
	conns   []net.Conn
}

func startRedis(t *testing.T, addr string) *redis {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &redis{Listener: l}
	t.Cleanup(s.stop)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			go s.serve(c)
		}
	}()
	return s
}

func (s *redis) stop() {
	s.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
}

func (s *redis) serve(c net.Conn) {
	defer c.Close()
	in, authenticated := bufio.NewReader(c), false
	for {
		command, err := read(in)
		if err != nil {
			return
		}
		s.mu.Lock()
		switch op := command.list[0].text; {
		case op == "AUTH" && command.list[1].text == "secret":
			authenticated = true
			fmt.Fprint(c, "+OK\r\n")
		case !authenticated:
			fmt.Fprint(c, "-NOAUTH Authentication required.\r\n")
		case op == "PING":
			fmt.Fprint(c, "+PONG\r\n")
		case op == "RPUSH":
			s.entries = append(s.entries, command.list[2].text)
			fmt.Fprintf(c, ":%d\r\n", len(s.entries))
		case op == "WAIT":
			fmt.Fprint(c, ":0\r\n")
		case op == "LRANGE":
			fmt.Fprintf(c, "*%d\r\n", len(s.entries))
			for _, e := range s.entries {
				fmt.Fprintf(c, "$%d\r\n%s\r\n", len(e), e)
			}
		default:
			fmt.Fprintf(c, "-ERR unknown command %q\r\n", op)
		}
		s.mu.Unlock()
	}
}

func newFrontend(leader, replica, password string) *frontend {
	return &frontend{log: slog.New(slog.DiscardHandler), title: "A <title>", pod: "pod-1",
		leader: newPool(leader, password), replica: newPool(replica, password)}
}

func ask(t *testing.T, f *frontend, method, path, contentType, body string) (int, string) {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	w := httptest.NewRecorder()
	f.handler().ServeHTTP(w, req)
	return w.Code, w.Body.String()
}

func TestEntriesComeBack(t *testing.T) {
	s := startRedis(t, "127.0.0.1:0")
	f := newFrontend(s.Addr().String(), s.Addr().String(), "secret")
	if code, body := ask(t, f, "POST", "/entries", "", `{"name":"Ann","text":"hello <b>"}`); code != http.StatusCreated {
		t.Fatalf("POST /entries: %d %s", code, body)
	}
	form := url.Values{"name": {"Bob"}, "text": {"second"}}.Encode()
	if code, body := ask(t, f, "POST", "/", "application/x-www-form-urlencoded", form); code != http.StatusSeeOther {
		t.Fatalf("POST /: %d %s", code, body)
	}
	code, body := ask(t, f, "GET", "/entries", "", "")
	var got struct{ Entries []entry }
	if err := json.Unmarshal([]byte(body), &got); err != nil || code != http.StatusOK {
		t.Fatalf("GET /entries: %d %s %v", code, body, err)
	}
	if len(got.Entries) != 2 || got.Entries[0].Name != "Ann" || got.Entries[1].Text != "second" {
		t.Errorf("entries: %+v", got.Entries)
	}
	_, page := ask(t, f, "GET", "/", "", "")
	for _, want := range []string{"hello &lt;b&gt;", "A &lt;title&gt;", "Bob", "served by pod-1"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

func TestBadEntriesAreRefused(t *testing.T) {
	s := startRedis(t, "127.0.0.1:0")
	f := newFrontend(s.Addr().String(), s.Addr().String(), "secret")
	for body, want := range map[string]int{
		"{":              http.StatusBadRequest,
		`{"name":"Ann"}`: http.StatusUnprocessableEntity,
		`{"text":"` + strings.Repeat("x", maxText+1) + `"}`: http.StatusUnprocessableEntity,
	} {
		if code, got := ask(t, f, "POST", "/entries", "", body); code != want {
			t.Errorf("%.20s…: %d %s; want %d", body, code, got, want)
		}
	}
	if len(s.entries) > 0 {
		t.Errorf("stored: %q", s.entries)
	}
}

// A server that went away and came back must not cost a request: idle
// connections to it are dead, and are found so before a write.
func TestAServerThatCameBackIsFound(t *testing.T) {
	s := startRedis(t, "127.0.0.1:0")
	addr := s.Addr().String()
	f := newFrontend(addr, addr, "secret")
	if code, body := ask(t, f, "POST", "/entries", "", `{"text":"a"}`); code != http.StatusCreated {
		t.Fatalf("%d %s", code, body)
	}
	s.stop()
	if code, _ := ask(t, f, "POST", "/entries", "", `{"text":"b"}`); code != http.StatusServiceUnavailable {
		t.Errorf("without a leader: %d", code)
	}
	if code, _ := ask(t, f, "GET", "/healthz", "", ""); code != http.StatusServiceUnavailable {
		t.Errorf("healthz without Redis: %d", code)
	}
	startRedis(t, addr)
	if code, body := ask(t, f, "POST", "/entries", "", `{"text":"c"}`); code != http.StatusCreated {
		t.Errorf("after it came back: %d %s", code, body)
	}
}

func TestReadsFallBackToTheLeader(t *testing.T) {
	s, gone := startRedis(t, "127.0.0.1:0"), startRedis(t, "127.0.0.1:0")
	gone.stop()
	f := newFrontend(s.Addr().String(), gone.Addr().String(), "secret")
	if code, body := ask(t, f, "GET", "/entries", "", ""); code != http.StatusOK {
		t.Errorf("%d %s", code, body)
	}
	f = newFrontend(gone.Addr().String(), s.Addr().String(), "secret")
	if code, body := ask(t, f, "GET", "/healthz", "", ""); code != http.StatusOK {
		t.Errorf("ready to read, at least: %d %s", code, body)
	}
	f.draining.Store(true)
	if code, _ := ask(t, f, "GET", "/healthz", "", ""); code != http.StatusServiceUnavailable {
		t.Errorf("while draining: %d", code)
	}
}

func TestAWrongPasswordSaysSo(t *testing.T) {
	s := startRedis(t, "127.0.0.1:0")
	f := newFrontend(s.Addr().String(), s.Addr().String(), "wrong")
	if code, body := ask(t, f, "GET", "/entries", "", ""); code != http.StatusServiceUnavailable || !strings.Contains(body, "NOAUTH") {
		t.Errorf("%d %s", code, body)
	}
}

// A rolling update: SIGTERM (here: the context) while requests come in, each
// over a new connection. All of them must be answered until nobody sends more.
func TestDrainLosesNoRequest(t *testing.T) {
	s := startRedis(t, "127.0.0.1:0")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	for name, v := range map[string]string{"LISTEN": addr, "DRAIN": "500ms", "REDIS_LEADER": s.Addr().String(), "REDIS_REPLICA": s.Addr().String(), "REDIS_PASSWORD": "secret"} {
		t.Setenv(name, v)
	}
	ctx, term := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, slog.New(slog.DiscardHandler)) }()
	client := &http.Client{Transport: &http.Transport{}}
	get := func(path string) int {
		resp, err := client.Get("http://" + addr + path)
		if err != nil {
			return 0
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	for get("/healthz") != http.StatusOK {
		select {
		case err := <-ended:
			t.Fatal(err)
		default:
		}
	}
	term()
	// Until a probe has seen that it drains, as the proxies of a cluster do.
	n := 0
	for get("/healthz") != http.StatusServiceUnavailable {
		if code := get("/entries"); code != http.StatusOK {
			t.Fatalf("request %d while draining: %d", n, code)
		}
		n++
	}
	for range 20 {
		if code := get("/entries"); code != http.StatusOK {
			t.Fatalf("a late request: %d", code)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
