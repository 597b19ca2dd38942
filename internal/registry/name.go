package registry

import (
	"fmt"
	"net"
	"regexp"
	"strings"
)

// self is the host under which images live that were pushed without one: they
// are pulled as 127.0.0.1:PORT/app or localhost:PORT/app.
const self = "localhost"

// A Name is a reference to an image, in full.
type Name struct {
	Host   string // docker.io, ghcr.io, localhost (this registry)
	Repo   string // library/redis
	Tag    string // one of Tag and
	Digest string // Digest
}

// String gives the name as it is written in manifests, in full.
func (n Name) String() string {
	if n.Digest != "" {
		return n.Host + "/" + n.Repo + "@" + n.Digest
	}
	return n.Host + "/" + n.Repo + ":" + n.Tag
}

var (
	hostRE   = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?$`)
	repoRE   = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagRE    = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	digestRE = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// ParseName reads a name as docker does: redis is
// docker.io/library/redis:latest. A digest wins over a tag beside it.
func ParseName(s string) (Name, error) {
	rest, digest, _ := strings.Cut(s, "@")
	n := Name{Host: "docker.io", Repo: rest, Digest: digest}
	if first, after, ok := strings.Cut(rest, "/"); ok && looksLikeHost(first) {
		n.Host, n.Repo = first, after
	}
	if i := strings.LastIndexByte(n.Repo, ':'); i >= 0 {
		n.Repo, n.Tag = n.Repo[:i], n.Repo[i+1:]
		if n.Tag == "" {
			return Name{}, fmt.Errorf("image name %q: empty tag", s)
		}
	}
	n.Host, n.Repo = canonical(n.Host, n.Repo)
	switch {
	case digest != "":
		n.Tag = ""
	case strings.Contains(s, "@"):
		return Name{}, fmt.Errorf("image name %q: empty digest", s)
	case n.Tag == "":
		n.Tag = "latest"
	}
	if err := n.check(); err != nil {
		return Name{}, fmt.Errorf("image name %q: %w", s, err)
	}
	return n, nil
}

func looksLikeHost(s string) bool {
	return s == "localhost" || strings.ContainsAny(s, ".:") || strings.ToLower(s) != s
}

// canonical gives the several names of Docker's registry, and of this one, one
// spelling.
func canonical(host, repo string) (string, string) {
	switch {
	case host == "docker.io" || host == "index.docker.io" || host == "registry-1.docker.io":
		if !strings.Contains(repo, "/") {
			repo = "library/" + repo
		}
		return "docker.io", repo
	case loopback(host):
		return self, repo
	}
	return host, repo
}

// loopback says whether host, with or without a port, is this machine.
func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return host == "localhost" || net.ParseIP(strings.Trim(host, "[]")).IsLoopback()
}

// check keeps every part within what the specification allows, and so within
// the registry's folder.
func (n Name) check() error {
	switch {
	case !hostRE.MatchString(n.Host):
		return fmt.Errorf("invalid host %q", n.Host)
	case !repoRE.MatchString(n.Repo) || len(n.Repo) > 255:
		return fmt.Errorf("invalid repository %q (lower-case letters, digits and . _ - / between them)", n.Repo)
	case n.Digest != "" && !digestRE.MatchString(n.Digest):
		return fmt.Errorf("invalid digest %q (sha256: and 64 hexadecimal digits)", n.Digest)
	case n.Digest == "" && !tagRE.MatchString(n.Tag):
		return fmt.Errorf("invalid tag %q", n.Tag)
	}
	return nil
}
