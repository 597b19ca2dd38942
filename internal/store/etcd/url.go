package etcd

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// DefaultPrefix begins every key in etcd unless the URL names another one.
const DefaultPrefix = "/proa"

// A Target is where a store is: which etcd, and under which prefix of its keys.
type Target struct {
	Endpoints []string // host:port, at least one
	Prefix    string   // begins with a slash and ends without one
	TLS       bool     // the endpoints want TLS
}

// A URLError says why a URL names no etcd, and what would.
type URLError struct{ URL, Reason string }

func (e *URLError) Error() string {
	return fmt.Sprintf("%q names no etcd: %s; it should look like etcd://10.0.0.1:2379,10.0.0.2:2379/proa, or etcds:// for TLS", e.URL, e.Reason)
}

// ParseURL reads scheme://host[:port][,host[:port]…][/prefix]. The schemes etcd
// and http are in the clear, etcds and https with TLS; the port is 2379 if none
// is given. Any error is a *URLError.
func ParseURL(url string) (Target, error) {
	bad := func(format string, args ...string) (Target, error) {
		reason := format
		for _, a := range args {
			reason = strings.Replace(reason, "%", strconv.Quote(a), 1)
		}
		return Target{}, &URLError{url, reason}
	}
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok {
		return bad("it has no scheme")
	}
	t := Target{Prefix: DefaultPrefix}
	switch scheme {
	case "etcd", "http":
	case "etcds", "https":
		t.TLS = true
	default:
		return bad("the scheme % is none of etcd, etcds, http and https", scheme)
	}
	for _, s := range []string{"etcd", "etcds", "http", "https"} { // each host may have its scheme
		rest = strings.ReplaceAll(rest, ","+s+"://", ",")
	}
	hosts, path, _ := strings.Cut(rest, "/")
	if path = strings.Trim(path, "/"); path != "" {
		t.Prefix = "/" + path
	}
	if strings.ContainsAny(rest, "?#@ \x00") {
		return bad("only hosts, ports and a prefix belong into it")
	}
	for h := range strings.SplitSeq(hosts, ",") {
		host, port, err := net.SplitHostPort(h)
		if err != nil {
			host, port = strings.Trim(h, "[]"), "2379"
		}
		n, err := strconv.Atoi(port)
		switch {
		case host == "":
			return bad("a host is empty")
		case err != nil || n < 1 || n > 65535:
			return bad("% is no port", port)
		}
		t.Endpoints = append(t.Endpoints, net.JoinHostPort(host, port))
	}
	return t, nil
}

func (t Target) String() string {
	scheme := "etcd"
	if t.TLS {
		scheme = "etcds"
	}
	return scheme + "://" + strings.Join(t.Endpoints, ",") + t.Prefix
}
