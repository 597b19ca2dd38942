package system

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// drain is how long requests that are under way may take at the end.
const drain = 2 * time.Second

func shutdown(s *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	if s.Shutdown(ctx) != nil {
		s.Close()
	}
}

// holderOf says which process listens on a TCP port, as far as /proc tells.
func holderOf(port int) string {
	inode := listeningInode(port)
	if inode == "" {
		return ""
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == "socket:["+inode+"]" {
			pid := strings.Split(l, "/")[2]
			comm, _ := os.ReadFile("/proc/" + pid + "/comm")
			return fmt.Sprintf(" by %s (process %s)", strings.TrimSpace(string(comm)), pid)
		}
	}
	return ""
}

// listeningInode finds the socket in state LISTEN (0A) on port (proc(5)).
func listeningInode(port int) string {
	want := strings.ToUpper(strconv.FormatInt(int64(port), 16))
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(file)
		if err != nil {
			continue
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			x := strings.Fields(lines.Text())
			if len(x) > 9 && x[3] == "0A" {
				if _, p, _ := strings.Cut(x[1], ":"); strings.TrimLeft(p, "0") == want {
					return x[9]
				}
			}
		}
	}
	return ""
}
