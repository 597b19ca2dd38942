package registry

import "testing"

func TestParseNameReadsAsDockerDoes(t *testing.T) {
	digest := "sha256:" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for in, want := range map[string]string{
		"redis":                                "docker.io/library/redis:latest",
		"redis:debian":                         "docker.io/library/redis:debian",
		"bitnami/redis":                        "docker.io/bitnami/redis:latest",
		"docker.io/redis":                      "docker.io/library/redis:latest",
		"index.docker.io/library/redis:7":      "docker.io/library/redis:7",
		"ghcr.io/org/app/part:v1":              "ghcr.io/org/app/part:v1",
		"registry.example:5000/app":            "registry.example:5000/app:latest",
		"localhost:5000/app:v1":                "localhost/app:v1",
		"127.0.0.1:4123/team/app":              "localhost/team/app:latest",
		"[::1]:5000/app":                       "localhost/app:latest",
		"proa.local/pause:1":                   "proa.local/pause:1",
		"redis:7@" + digest:                    "docker.io/library/redis@" + digest,
		"registry.example/app__x/y-z--w_v:1.0": "registry.example/app__x/y-z--w_v:1.0",
	} {
		n, err := ParseName(in)
		if err != nil || n.String() != want {
			t.Errorf("%s: %s, %v; want %s", in, n, err, want)
		}
		again, err := ParseName(n.String())
		if err != nil || again != n {
			t.Errorf("%s is not its own full name: %s, %v", n, again, err)
		}
	}
	for _, in := range []string{
		"", ":", "redis:", "Redis", "redis:a b", "redis@", "redis@sha256:12", "redis@md5:" + digest[7:], "a//b", "../x", "a/../b",
		"a/_tags/x", "example.com/", "example.com/../../etc:x", "x:..", "exa mple.com/x", "/abs", "..../x", "redis:-x",
	} {
		if n, err := ParseName(in); err == nil {
			t.Errorf("%q was read as %s", in, n)
		}
	}
}
