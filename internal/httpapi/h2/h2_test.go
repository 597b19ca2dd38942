package h2

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"time"
)

// start starts a server, of this package or of net/http, whose log goes to the test.
func start(t testing.TB, own bool, cfg Config, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if own {
		Configure(s.Config, cfg)
		s.TLS = &tls.Config{NextProtos: []string{"h2", "http/1.1"}}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// both runs a test on the server of this package and on net/http's, which must
// look the same to a client.
func both(t *testing.T, h http.HandlerFunc, test func(t *testing.T, s *httptest.Server)) {
	for name, own := range map[string]bool{"h2": true, "net-http": false} {
		t.Run(name, func(t *testing.T) { test(t, start(t, own, Config{}, h)) })
	}
}

// told is what a client was told, without what changes by itself.
func told(t *testing.T, c *http.Client, req *http.Request) string {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		return "no answer"
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if len(resp.Header["Date"]) != 1 {
		t.Errorf("Date is %q", resp.Header["Date"])
	}
	resp.Header.Del("Date")
	if len(body) > 64 {
		body = fmt.Appendf(nil, "%d bytes, %x", len(body), body[len(body)-8:])
	}
	return fmt.Sprintf("%s %d length=%d %v body=%q trailer=%v cut=%v", resp.Proto, resp.StatusCode, resp.ContentLength,
		resp.Header, body, resp.Trailer, err != nil)
}

// Whatever a handler does, a client sees what it would see of net/http.
func TestSameAsNetHTTP(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for name, c := range map[string]struct {
		method string
		body   string
		header http.Header
		h      http.HandlerFunc
	}{
		"nothing":  {h: func(w http.ResponseWriter, r *http.Request) {}},
		"short":    {h: func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }},
		"html":     {h: func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html><body>x") }},
		"big":      {h: func(w http.ResponseWriter, r *http.Request) { w.Write(big) }},
		"in parts": {h: func(w http.ResponseWriter, r *http.Request) { w.Write(big[:3000]); w.Write(big[:3000]); w.Write(big) }},
		"flushed": {h: func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "a")
			w.(http.Flusher).Flush()
			io.WriteString(w, "b")
		}},
		"empty flushed": {h: func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush() }},
		"with length": {h: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "10")
			w.Header().Set("Content-Type", "x/y")
			io.WriteString(w, "01234")
			io.WriteString(w, "56789")
		}},
		"nothing after its length": {h: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "5")
			w.Header().Set("Content-Type", "x/y")
			io.WriteString(w, "01234")
			if n, err := w.Write(nil); n != 0 || err != nil {
				t.Error(n, err)
			}
		}},
		"length not a number": {h: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "many")
			io.WriteString(w, "01234")
		}},
		"head":             {method: "HEAD", h: func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }},
		"head with length": {method: "HEAD", h: func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Length", "77") }},
		"no content": {h: func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(204)
			if _, err := io.WriteString(w, "x"); !errors.Is(err, http.ErrBodyNotAllowed) {
				t.Error(err)
			}
		}},
		"not modified": {h: func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Etag", `"1"`); w.WriteHeader(304) }},
		"not found":    {h: http.NotFound},
		"redirect": {h: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/nowhere", http.StatusMovedPermanently)
		}, method: "POST"},
		"header changed": {h: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("A", "1")
			w.WriteHeader(200)
			w.Header().Set("A", "2")
		}},
		"second status": {h: func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(201); w.WriteHeader(202) }},
		"header of HTTP/1": {h: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Transfer-Encoding", "chunked")
		}},
		"not a header": {h: func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Bad Name"] = []string{"x"}
			w.Header()["Bad"] = []string{"a\nb"}
		}},
		"several values": {h: func(w http.ResponseWriter, r *http.Request) { w.Header()["Warning"] = []string{"a", "b"} }},
		"a large header": {h: func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Large", strings.Repeat("x", 40000)) }},
		"gzip": {h: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			io.WriteString(w, "x")
		}},
		"trailer": {h: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "Sum, Other")
			io.WriteString(w, "x")
			w.Header().Set("Sum", "1")
			w.Header().Set(http.TrailerPrefix+"Late", "2")
		}},
		"trailer of nothing": {h: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "Sum")
			w.Header().Set("Content-Length", "0")
			w.WriteHeader(200)
			w.Header().Set("Sum", "1")
		}},
		"early hints": {h: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</x>")
			w.WriteHeader(103)
			io.WriteString(w, "x")
		}},
		"abort": {h: func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }},
		"abort in the middle": {h: func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			panic("oh")
		}},
		"echo": {method: "POST", body: "hello", h: func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }},
		"echo, large": {method: "POST", body: string(big) + string(big) + string(big),
			h: func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }},
		"not read": {method: "POST", body: string(big), h: func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(400) }},
		"closed": {method: "PUT", body: "hello", h: func(w http.ResponseWriter, r *http.Request) {
			r.Body.Close()
			_, err := r.Body.Read(make([]byte, 1))
			fmt.Fprint(w, err != nil)
		}},
		"what it gets": {method: "PATCH", body: "hello", header: http.Header{"A": {"1", "2"}, "Cookie": {"a=b", "c=d"}, "Te": {"trailers"}},
			h: func(w http.ResponseWriter, r *http.Request) {
				delete(r.Header, "X-Port")
				fmt.Fprintln(w, r.Method, r.URL, r.RequestURI, r.Proto, r.ProtoMajor, r.ProtoMinor, r.ContentLength, r.Header, r.Trailer,
					r.TLS != nil && r.TLS.HandshakeComplete, strings.HasPrefix(r.RemoteAddr, "127.0.0.1:"), strings.HasPrefix(r.Host, "127.0.0.1:"),
					r.Context().Value(http.ServerContextKey) != nil, r.Context().Value(http.LocalAddrContextKey) != nil, r.Context().Err())
			}},
		"options of all": {method: "OPTIONS", h: func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RequestURI) }},
		"what is flushed late": {h: func(w http.ResponseWriter, r *http.Request) {
			w.Write(big[:5000])
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			w.Write(big[:5000])
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var got [2]string
			for i, own := range []bool{false, true} {
				s := start(t, own, Config{}, c.h)
				cl := s.Client()
				cl.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
				method := c.method
				if method == "" {
					method = "GET"
				}
				var body io.Reader
				if c.body != "" {
					body = strings.NewReader(c.body)
				}
				req, err := http.NewRequest(method, s.URL+"/a/b%2Fc?d=e%20f", body)
				if err != nil {
					t.Fatal(err)
				}
				for k, v := range c.header {
					req.Header[k] = v
				}
				for range 2 { // the second over what the first left behind
					req, body := req.Clone(t.Context()), strings.NewReader(c.body)
					if c.body != "" {
						req.Body = io.NopCloser(body)
					}
					got[i] = told(t, cl, req)
				}
			}
			if got[0] != got[1] {
				t.Errorf("net/http: %s\nhere:     %s", got[0], got[1])
			}
		})
	}
}

// An answer that is shorter than it says does not look whole.
func TestShort(t *testing.T) {
	s := start(t, true, Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10")
		io.WriteString(w, "12345")
	}))
	resp, err := s.Client().Get(s.URL)
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	if err == nil {
		t.Error("5 bytes of 10 look whole")
	}
}

// No more is sent than the header says.
func TestLong(t *testing.T) {
	s := start(t, true, Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "3")
		io.WriteString(w, "012")
		if _, err := io.WriteString(w, "3"); !errors.Is(err, http.ErrContentLength) {
			t.Errorf("more was written than the header says: %v", err)
		}
	}))
	resp, err := s.Client().Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "012" {
		t.Errorf("%q, %v", b, err)
	}
}

// A client that gives up ends the handler's context, its reads and its writes.
func TestGivenUp(t *testing.T) {
	ended := make(chan error, 8)
	both(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		switch r.URL.Path {
		case "/context":
			<-r.Context().Done()
			ended <- r.Context().Err()
		case "/read":
			_, err := io.Copy(io.Discard, r.Body)
			ended <- err
		case "/write":
			var err error
			for err == nil {
				_, err = w.Write(make([]byte, 10000))
			}
			ended <- err
		}
	}, func(t *testing.T, s *httptest.Server) {
		for _, path := range []string{"/context", "/read", "/write"} {
			pr, pw := io.Pipe()
			req, _ := http.NewRequest("POST", s.URL+path, pr)
			resp, err := s.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if err := <-ended; err == nil {
				t.Errorf("%s ended without an error", path)
			}
			pw.Close()
		}
	})
}

// A closed connection does the same, for all that runs on it.
func TestConnectionLost(t *testing.T) {
	const n = 20
	var up sync.WaitGroup
	up.Add(n)
	ended := make(chan error, n)
	s := start(t, true, Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		up.Done()
		<-r.Context().Done()
		_, err := w.Write([]byte("x"))
		ended <- err
	}))
	for range n {
		go s.Client().Get(s.URL)
	}
	up.Wait()
	s.CloseClientConnections()
	for range n {
		if err := <-ended; err == nil {
			t.Error("a write into nothing went well")
		}
	}
}

// Many streams share a connection, with bodies both ways, and each gets its own.
func TestMany(t *testing.T) {
	both(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Write(b)
	}, func(t *testing.T, s *httptest.Server) {
		var all sync.WaitGroup
		for i := range 64 {
			all.Go(func() {
				want := make([]byte, 1+i*i*100)
				rand.Read(want)
				for range 4 {
					resp, err := s.Client().Post(s.URL, "x/y", bytes.NewReader(want))
					if err != nil {
						t.Error(err)
						return
					}
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("sent %d bytes, got %d back, %v", len(want), len(got), err)
					}
				}
			})
		}
		all.Wait()
	})
}

// A body can be had whole, but not one that is larger than it may be.
func TestReadAll(t *testing.T) {
	const most = 1_000_000
	s := start(t, true, Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := r.Body.(interface {
			ReadAll(int64) ([]byte, error)
		}).ReadAll(most)
		if err != nil {
			t.Error(err)
		}
		if len(b) > most {
			b = b[:most+1]
		}
		w.Write(b)
	}))
	for _, n := range []int{1, 100, 20_000, 200_000, most - 1, most, most + 1, 3 * most} {
		for _, counted := range []bool{false, true} {
			want := make([]byte, n)
			rand.Read(want)
			var body io.Reader = bytes.NewReader(want)
			if !counted {
				body = io.MultiReader(body)
			}
			resp, err := s.Client().Post(s.URL, "x/y", body)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || !bytes.Equal(got, want[:min(n, most+1)]) {
				t.Errorf("of %d bytes (said: %t) %d came, %v", n, counted, len(got), err)
			}
		}
	}
}

// A client that does not read its answer holds up its own, and nobody else's.
func TestSlowReader(t *testing.T) {
	const size = 8 << 20
	s := start(t, true, Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/big" {
			for range size / 1000 {
				w.Write(make([]byte, 1000))
			}
		}
	}))
	slow := make([]*http.Response, 8)
	for i := range slow {
		var err error
		if slow[i], err = s.Client().Get(s.URL + "/big"); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		resp, err := s.Client().Get(s.URL + "/small")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	for _, r := range slow {
		n, err := io.Copy(io.Discard, r.Body)
		if n != size/1000*1000 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		r.Body.Close()
	}
}

// A client that asks first is told to go on when the handler reads, and not before.
func TestContinue(t *testing.T) {
	both(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/yes" {
			io.Copy(w, r.Body)
		}
	}, func(t *testing.T, s *httptest.Server) {
		s.Client().Transport.(*http.Transport).ExpectContinueTimeout = time.Hour
		for path, want := range map[string]int{"/yes": 1, "/no": 0} {
			asked := 0
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { asked++ }})
			req, _ := http.NewRequestWithContext(ctx, "POST", s.URL+path, strings.NewReader("hello"))
			req.Header.Set("Expect", "100-continue")
			resp, err := s.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if asked != want || len(b) != 5*want {
				t.Errorf("%s: told %d times to go on, got %q", path, asked, b)
			}
		}
	})
}

// Trailers of a request are there when its body has been read.
func TestRequestTrailer(t *testing.T) {
	both(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, r.Trailer)
	}, func(t *testing.T, s *httptest.Server) {
		req, _ := http.NewRequest("POST", s.URL, io.MultiReader(strings.NewReader("hello")))
		req.Trailer = http.Header{"Sum": {"5"}}
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if b, _ := io.ReadAll(resp.Body); string(b) != "map[Sum:[5]]" {
			t.Errorf("the handler saw %s", b)
		}
	})
}

// Deadlines end a read and a write that wait.
func TestDeadlines(t *testing.T) {
	errs := make(chan error, 2)
	both(t, func(w http.ResponseWriter, r *http.Request) {
		ctl := http.NewResponseController(w)
		soon := time.Now().Add(20 * time.Millisecond)
		var err error
		if r.URL.Path == "/read" {
			if err = ctl.SetReadDeadline(soon); err == nil {
				_, err = io.ReadAll(r.Body)
			}
		} else if err = ctl.SetWriteDeadline(soon); err == nil {
			for err == nil {
				_, err = w.Write(make([]byte, 10000))
			}
		}
		errs <- err
	}, func(t *testing.T, s *httptest.Server) {
		for _, path := range []string{"/read", "/write"} {
			pr, pw := io.Pipe()
			go func() {
				req, _ := http.NewRequest("POST", s.URL+path, pr)
				if resp, err := s.Client().Do(req); err == nil {
					defer resp.Body.Close() // never read
					<-t.Context().Done()
				}
			}()
			if err := <-errs; err == nil {
				t.Errorf("%s waited without an end", path)
			}
			pw.Close()
		}
	})
}

// Shutdown lets what runs come to its end, and takes nothing new.
func TestShutdown(t *testing.T) {
	running, goOn := make(chan bool), make(chan bool)
	s := start(t, true, Config{Linger: 100 * time.Millisecond}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		running <- true
		<-goOn
		io.WriteString(w, "done")
	}))
	answer := make(chan string, 1)
	go func() {
		resp, err := s.Client().Get(s.URL)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		answer <- string(b)
	}()
	<-running
	down := make(chan error, 1)
	go func() { down <- s.Config.Shutdown(context.Background()) }()
	select {
	case err := <-down:
		t.Fatalf("shutdown did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(goOn)
	if got := <-answer; got != "done" {
		t.Errorf("what ran was answered %q", got)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}

// A panic of a handler is told in the log, with where it was.
func TestPanicIsTold(t *testing.T) {
	told := make(lines, 1)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oh no") }))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(told, "", 0)
	Configure(s.Config, Config{})
	s.StartTLS()
	defer s.Close()
	if _, err := s.Client().Get(s.URL); err == nil {
		t.Error("a panic was answered")
	}
	if line := <-told; !strings.Contains(line, "oh no") || !strings.Contains(line, "h2_test.go") {
		t.Error(line)
	}
}

type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}
