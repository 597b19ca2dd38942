package registry

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func open(t *testing.T, dir string) *Registry {
	t.Helper()
	r, err := New(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// serve gives the HOST:PORT under which a registry in dir answers.
func serve(t *testing.T, dir string) string {
	t.Helper()
	s := httptest.NewServer(open(t, dir))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func image(t *testing.T) v1.Image {
	t.Helper()
	img, err := random.Image(2000, 3)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func ref(t *testing.T, s string) name.Reference {
	t.Helper()
	r, err := name.ParseReference(s, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func digestOf(t *testing.T, img interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// request asks and returns status and body; it fails on what is no answer.
func request(t *testing.T, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(got)
}

func TestPushAndPullSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	addr := serve(t, dir)
	img := image(t)
	if err := remote.Write(ref(t, addr+"/team/app:v1"), img); err != nil {
		t.Fatal(err)
	}
	addr = serve(t, dir) // another process on the same folder
	for _, by := range []string{addr + "/team/app:v1", addr + "/team/app@" + digestOf(t, img)} {
		got, err := remote.Image(ref(t, by))
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(got); err != nil {
			t.Errorf("%s: %v", by, err)
		}
		if digestOf(t, got) != digestOf(t, img) {
			t.Errorf("%s: another image came back", by)
		}
	}
}

func TestIndexIsPushedAndPulled(t *testing.T) {
	addr := serve(t, t.TempDir())
	idx, err := random.Index(500, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref(t, addr+"/multi:v1"), idx); err != nil {
		t.Fatal(err)
	}
	got, err := remote.Index(ref(t, addr+"/multi:v1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(got); err != nil {
		t.Error(err)
	}
}

func TestTheHostIsPartOfTheName(t *testing.T) {
	addr := serve(t, t.TempDir())
	base := "http://" + addr + "/v2/"
	if err := remote.Write(ref(t, addr+"/docker.io/redis:7"), image(t)); err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref(t, addr+"/app:v1"), image(t)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		"library/redis/manifests/7?ns=docker.io":      http.StatusOK,
		"docker.io/library/redis/manifests/7":         http.StatusOK,
		"library/redis/manifests/7?ns=ghcr.io":        http.StatusNotFound,
		"library/redis/manifests/7":                   http.StatusNotFound,
		"library/redis/manifests/8?ns=docker.io":      http.StatusNotFound,
		"app/manifests/v1":                            http.StatusOK,
		"app/manifests/v1?ns=localhost%3A5000":        http.StatusOK,
		"app/manifests/v1?ns=docker.io":               http.StatusNotFound,
		"app/manifests/v1?ns=..%2F..":                 http.StatusBadRequest,
		"Upper/manifests/v1":                          http.StatusBadRequest,
		"app/manifests/.hidden":                       http.StatusBadRequest,
		"app/blobs/sha256:12":                         http.StatusBadRequest,
		"app/nothing":                                 http.StatusNotFound,
		"app/blobs/sha256:" + strings.Repeat("0", 64): http.StatusNotFound,
	} {
		if resp, body := request(t, "GET", base+path, ""); resp.StatusCode != want {
			t.Errorf("GET %s: %s %s; want %d", path, resp.Status, body, want)
		}
	}
}

func TestListsAndPages(t *testing.T) {
	dir := t.TempDir()
	addr := serve(t, dir)
	for _, n := range []string{"a:1", "a:2", "a:3", "b:1", "docker.io/redis:7"} {
		if err := remote.Write(ref(t, addr+"/"+n), image(t)); err != nil {
			t.Fatal(err)
		}
	}
	tags, err := remote.List(ref(t, addr+"/a:1").Context())
	if err != nil || !slices.Equal(tags, []string{"1", "2", "3"}) {
		t.Errorf("tags of a: %q, %v", tags, err)
	}
	resp, body := request(t, "GET", "http://"+addr+"/v2/a/tags/list?n=2", "")
	if !strings.Contains(body, `["1","2"]`) || !strings.Contains(resp.Header.Get("Link"), "last=2") {
		t.Errorf("the first page: %s, link %q", body, resp.Header.Get("Link"))
	}
	if _, body = request(t, "GET", "http://"+addr+"/v2/a/tags/list?n=2&last=2", ""); !strings.Contains(body, `["3"]`) {
		t.Errorf("the second page: %s", body)
	}
	if resp, _ = request(t, "GET", "http://"+addr+"/v2/c/tags/list", ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("tags of an unknown repository: %s", resp.Status)
	}
	if _, body = request(t, "GET", "http://"+addr+"/v2/_catalog", ""); !strings.Contains(body, `["a","b","docker.io/library/redis"]`) {
		t.Errorf("catalog: %s", body)
	}
	images, err := open(t, dir).List()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range images {
		names = append(names, i.Name)
		if i.Size < 6000 || !digestRE.MatchString(i.Digest) {
			t.Errorf("%+v: want three layers of 2000 bytes and a digest", i)
		}
	}
	if want := []string{"docker.io/library/redis:7", "localhost/a:1", "localhost/a:2", "localhost/a:3", "localhost/b:1"}; !slices.Equal(names, want) {
		t.Errorf("List: %q, want %q", names, want)
	}
}

func TestDelete(t *testing.T) {
	addr := serve(t, t.TempDir())
	img := image(t)
	for _, tag := range []string{"1", "2"} {
		if err := remote.Write(ref(t, addr+"/a:"+tag), img); err != nil {
			t.Fatal(err)
		}
	}
	base := "http://" + addr + "/v2/a/manifests/"
	if resp, _ := request(t, "DELETE", base+"1", ""); resp.StatusCode != http.StatusAccepted {
		t.Errorf("delete a tag: %s", resp.Status)
	}
	if resp, _ := request(t, "HEAD", base+"2", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("the other tag: %s", resp.Status)
	}
	if resp, _ := request(t, "DELETE", base+digestOf(t, img), ""); resp.StatusCode != http.StatusAccepted {
		t.Errorf("delete the manifest: %s", resp.Status)
	}
	for _, gone := range []string{"1", "2", digestOf(t, img)} {
		if resp, _ := request(t, "DELETE", base+gone, ""); resp.StatusCode != http.StatusNotFound {
			t.Errorf("delete %s again: %s", gone, resp.Status)
		}
	}
}

func TestUploadInChunks(t *testing.T) {
	addr := serve(t, t.TempDir())
	base := "http://" + addr
	resp, _ := request(t, "POST", base+"/v2/a/blobs/uploads/", "")
	if resp.StatusCode != http.StatusAccepted {
		t.Fatalf("begin: %s", resp.Status)
	}
	at := base + resp.Header.Get("Location")
	if resp, _ = request(t, "PATCH", at, "hello ", "Content-Range", "0-5"); resp.StatusCode != http.StatusAccepted || resp.Header.Get("Range") != "0-5" {
		t.Errorf("the first chunk: %s, range %q", resp.Status, resp.Header.Get("Range"))
	}
	if resp, _ = request(t, "PATCH", at, "late", "Content-Range", "9-12"); resp.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("a chunk out of order: %s", resp.Status)
	}
	if resp, _ = request(t, "GET", at, ""); resp.StatusCode != http.StatusNoContent || resp.Header.Get("Range") != "0-5" {
		t.Errorf("progress: %s, range %q", resp.Status, resp.Header.Get("Range"))
	}
	digest := sum([]byte("hello world"))
	if resp, _ = request(t, "PUT", at+"?digest="+digest, "world"); resp.StatusCode != http.StatusCreated {
		t.Errorf("finish: %s", resp.Status)
	}
	blob := base + "/v2/a/blobs/" + digest
	if _, body := request(t, "GET", blob, ""); body != "hello world" {
		t.Errorf("the blob is %q", body)
	}
	if resp, body := request(t, "GET", blob, "", "Range", "bytes=6-"); resp.StatusCode != http.StatusPartialContent || body != "world" {
		t.Errorf("a range: %s %q", resp.Status, body)
	}
	if resp, _ = request(t, "POST", base+"/v2/b/blobs/uploads/?mount="+digest+"&from=a", ""); resp.StatusCode != http.StatusCreated {
		t.Errorf("mount: %s", resp.Status)
	}
	if resp, _ = request(t, "PATCH", at, "more"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("a chunk after the end: %s", resp.Status)
	}
}

func TestRefusesWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	addr := serve(t, dir)
	base := "http://" + addr + "/v2/a/"
	other := sum([]byte("other"))
	manifest := `{"schemaVersion":2,"mediaType":"` + ociManifest + `","config":{"digest":"` + other + `"},"layers":[]}`
	for _, c := range []struct {
		what, method, path, body, want string
		status                         int
	}{
		{"content of another digest", "POST", "blobs/uploads/?digest=" + other, "x", "DIGEST_INVALID", 400},
		{"a digest that is none", "POST", "blobs/uploads/?digest=md5:1", "x", "DIGEST_INVALID", 400},
		{"an unknown upload", "PATCH", "blobs/uploads/up-AAAAAAAAAAAAAAAA", "x", "BLOB_UPLOAD_UNKNOWN", 404},
		{"an upload that leaves the folder", "PATCH", "blobs/uploads/..%2f..%2fx", "x", "", 404},
		{"a manifest that is no JSON", "PUT", "manifests/v1", "{", "MANIFEST_INVALID", 400},
		{"a manifest of no known type", "PUT", "manifests/v1", `{"schemaVersion":2}`, "MANIFEST_INVALID", 400},
		{"a manifest of version 1", "PUT", "manifests/v1", `{"schemaVersion":1}`, "MANIFEST_INVALID", 400},
		{"a manifest of blobs not here", "PUT", "manifests/v1", manifest, "MANIFEST_BLOB_UNKNOWN", 404},
		{"a manifest of another digest", "PUT", "manifests/" + other, manifest, "MANIFEST_INVALID", 400},
		{"a manifest too large", "PUT", "manifests/v1", strings.Repeat(" ", maxManifest+1), "MANIFEST_INVALID", 413},
		{"a method that is none", "PATCH", "manifests/v1", "", "UNSUPPORTED", 405},
	} {
		resp, body := request(t, c.method, base+c.path, c.body)
		if resp.StatusCode != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: %s %s; want %d %s", c.what, resp.Status, body, c.status, c.want)
		}
	}
	req := httptest.NewRequest("GET", "http://evil.example/v2/", nil)
	w := httptest.NewRecorder()
	open(t, dir).ServeHTTP(w, req)
	if w.Code != http.StatusForbidden {
		t.Errorf("a web page's host name: %d", w.Code)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "uploads")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestADamagedManifestIsNotServed(t *testing.T) {
	dir := t.TempDir()
	addr := serve(t, dir)
	img := image(t)
	if err := remote.Write(ref(t, addr+"/a:1"), img); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "blobs/sha256", strings.TrimPrefix(digestOf(t, img), "sha256:"))
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if resp, body := request(t, "GET", "http://"+addr+"/v2/a/manifests/1", ""); resp.StatusCode != http.StatusInternalServerError || !strings.Contains(body, "changed on disk") {
		t.Errorf("%s %s", resp.Status, body)
	}
}

func TestAFullDiskSaysSo(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts a small file system to fill it")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("needs root: cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	r := open(t, dir)
	if _, err := r.putBlob(bytes.NewReader(make([]byte, 1<<20)), ""); !errors.Is(err, ErrFull) {
		t.Errorf("a blob: %v, want ErrFull", err)
	}
	s := httptest.NewServer(r)
	defer s.Close()
	large := strings.Repeat("x", 1<<20)
	if resp, body := request(t, "POST", s.URL+"/v2/a/blobs/uploads/?digest="+sum([]byte(large)), large); resp.StatusCode != http.StatusInsufficientStorage {
		t.Errorf("a push: %s %s", resp.Status, body)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "uploads")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestWriteHosts(t *testing.T) {
	dir := t.TempDir()
	for _, addr := range []string{"127.0.0.1:1", "127.0.0.1:4567"} {
		if err := WriteHosts(dir, addr); err != nil {
			t.Fatal(err)
		}
	}
	body, err := os.ReadFile(filepath.Join(dir, "_default", "hosts.toml"))
	if err != nil || !strings.Contains(string(body), `[host."http://127.0.0.1:4567"]`) || strings.Contains(string(body), "server") {
		t.Errorf("%s, %v", body, err)
	}
}
