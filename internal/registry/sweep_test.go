package registry

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// age makes everything in the registry two days old.
func age(t *testing.T, dir string) {
	t.Helper()
	old := time.Now().Add(-48 * time.Hour)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = os.Chtimes(path, old, old)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSweepFreesWhatHasNoName(t *testing.T) {
	dir := t.TempDir()
	addr, r := serve(t, dir), open(t, dir)
	first, second := image(t), image(t)
	idx, err := random.Index(300, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref(t, addr+"/multi:v1"), idx); err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref(t, addr+"/app:v1"), first); err != nil {
		t.Fatal(err)
	}
	age(t, dir)
	if err := remote.Write(ref(t, addr+"/app:v1"), second); err != nil {
		t.Fatal(err)
	}
	if freed, err := r.Sweep(t.Context(), 72*time.Hour); err != nil || freed != 0 {
		t.Errorf("young: freed %d, %v", freed, err)
	}
	freed, err := r.Sweep(t.Context(), 24*time.Hour)
	if err != nil || freed < 6000 {
		t.Errorf("freed %d, %v; want the first image's layers", freed, err)
	}
	pull(t, addr, "app:v1")
	got, err := remote.Index(ref(t, addr+"/multi:v1"))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := got.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range manifest.Manifests {
		pull(t, addr, "multi@"+m.Digest.String()) // untagged, but the index needs them
	}
	if _, err := remote.Image(ref(t, addr+"/app@"+digestOf(t, first))); err == nil {
		t.Error("the image without a name is still there")
	}
	if freed, err := r.Sweep(t.Context(), 24*time.Hour); err != nil || freed != 0 {
		t.Errorf("again: freed %d, %v", freed, err)
	}
}

// Content that a client was told is here is not swept before it can name it.
func TestSweepSparesWhatIsAskedFor(t *testing.T) {
	dir := t.TempDir()
	addr, r := serve(t, dir), open(t, dir)
	digest, err := r.putBlob(strings.NewReader("content"), "")
	if err != nil {
		t.Fatal(err)
	}
	age(t, dir)
	if resp, _ := request(t, "HEAD", "http://"+addr+"/v2/a/blobs/"+digest, ""); resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	if _, err := r.Sweep(t.Context(), 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.blobPath(digest)); err != nil {
		t.Error(err)
	}
}
