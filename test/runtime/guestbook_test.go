package runtime

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// freePort gives an address that nothing listens on (and others may take: the
// tests run in a network namespace of their own).
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// eventually asks until the answer holds want.
func eventually(t *testing.T, method, url, body, want string) {
	t.Helper()
	var last string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			last = err.Error()
			continue
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if last = fmt.Sprint(resp.Status, " ", string(got), err); strings.Contains(last, want) {
			return
		}
	}
	t.Fatalf("%s %s: %s; want %q", method, url, last, want)
}

// The images of the guestbook with the commands that its manifests give, on
// containerd alone: Debian's redis with its libraries, replication, the front
// end; an entry outlives the leader's container because of its volume.
func TestGuestbookImages(t *testing.T) {
	h := start(t)
	images := os.Getenv("PROA_IMAGES_DIR")
	for file, name := range map[string]string{"redis-debian": "redis:debian", "guestbook-frontend-v1": "guestbook-frontend:v1"} {
		if _, err := h.registry.Load(t.Context(), filepath.Join(images, file+".tar")); err != nil {
			t.Fatal(err)
		}
		if _, err := h.pull(t, name); err != nil {
			t.Fatal(err)
		}
	}
	pod, config := h.sandbox(t, "guestbook")
	data := filepath.Join(h.dir, "data")
	if err := os.Mkdir(data, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(data, 0o777); err != nil {
		t.Fatal(err)
	}
	leader, replica, front := freePort(t), freePort(t), freePort(t)
	_, leaderPort, _ := net.SplitHostPort(leader)   // they are what freePort made
	_, replicaPort, _ := net.SplitHostPort(replica) // as above
	redis := func(name string, mounts []*cri.Mount, args ...string) string {
		return h.start(t, pod, config, &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: "redis:debian"},
			Args: append(args, "--requirepass", "secret", "--masterauth", "secret", "--save", "", "--dir", "/data"), Mounts: mounts,
			Envs: []*cri.KeyValue{{Key: "REDISCLI_AUTH", Value: []byte("secret")}}})
	}
	volume := []*cri.Mount{{HostPath: data, ContainerPath: "/data"}}
	lead := func(name string) string {
		return redis(name, volume, "--port", leaderPort, "--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0")
	}
	first := lead("leader-1")
	redis("replica", nil, "--port", replicaPort, "--replicaof", "127.0.0.1 "+leaderPort)
	h.start(t, pod, config, &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "frontend"}, Image: &cri.ImageSpec{Image: "guestbook-frontend:v1"},
		Envs: []*cri.KeyValue{{Key: "LISTEN", Value: []byte(front)}, {Key: "REDIS_LEADER", Value: []byte(leader)}, {Key: "REDIS_REPLICA", Value: []byte(replica)},
			{Key: "REDIS_PASSWORD", Value: []byte("secret")}, {Key: "DRAIN", Value: []byte("0s")}}})

	base := "http://" + front
	eventually(t, "GET", base+"/healthz", "", "200")
	eventually(t, "POST", base+"/entries", `{"name":"Ann","text":"the first"}`, "201")
	eventually(t, "GET", base+"/entries", "", "the first") // by way of the replica
	out, err := h.pods.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: first, Cmd: []string{"redis-cli", "-e", "-p", leaderPort, "ping"}, Timeout: 5})
	if err != nil || out.ExitCode != 0 || !strings.Contains(string(out.Stdout), "PONG") {
		t.Errorf("the probe: %v, %v", out, err)
	}

	// Killed, and started again on the same volume.
	if _, err := h.pods.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: first, Timeout: 0}); err != nil {
		t.Fatal(err)
	}
	lead("leader-2")
	eventually(t, "POST", base+"/entries", `{"text":"the second"}`, "201")
	eventually(t, "GET", base+"/entries", "", "the second")
	eventually(t, "GET", base+"/entries", "", "the first")
}
