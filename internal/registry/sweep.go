package registry

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Sweep frees the space of what no name stands for any more: manifests that
// lost their tag (a tag was pushed anew) and the content that only they need,
// unless they were written or asked for within the time keep. It returns the
// bytes that it freed. Pushes may go on meanwhile if keep is longer than one
// of them takes: an hour is.
func (r *Registry) Sweep(ctx context.Context, keep time.Duration) (freed int64, err error) {
	s := &sweeper{r: r, before: time.Now().Add(-keep), used: map[string]bool{}}
	repos, err := r.repos()
	if err != nil {
		return 0, err
	}
	for _, repo := range repos {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if err := s.markRepo(repo); err != nil {
			return 0, err
		}
	}
	for _, path := range s.untagged {
		if s.used["sha256:"+filepath.Base(path)] {
			continue // an index that has a tag needs it
		}
		if err := os.Remove(path); err != nil && !absent(err) {
			return 0, err
		}
	}
	return s.sweepBlobs(ctx)
}

// repos gives the folder of every repository.
func (r *Registry) repos() ([]string, error) {
	var repos []string
	err := filepath.WalkDir(filepath.Join(r.dir, "names"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "_manifests" {
			repos = append(repos, filepath.Dir(path))
			return fs.SkipDir
		}
		return err
	})
	return repos, err
}

type sweeper struct {
	r        *Registry
	before   time.Time
	used     map[string]bool // digests
	untagged []string        // files in _manifests
}

// markRepo marks what the tags of a repository and its young manifests need.
func (s *sweeper) markRepo(repo string) error {
	tagged := map[string]bool{}
	tags, err := os.ReadDir(filepath.Join(repo, "_tags"))
	if err != nil && !absent(err) {
		return err
	}
	for _, tag := range tags {
		digest, err := os.ReadFile(filepath.Join(repo, "_tags", tag.Name()))
		if err != nil && !absent(err) {
			return err
		}
		tagged[string(digest)] = true
	}
	manifests, err := os.ReadDir(filepath.Join(repo, "_manifests"))
	if err != nil {
		return err
	}
	for _, m := range manifests {
		path := filepath.Join(repo, "_manifests", m.Name())
		info, err := m.Info()
		if absent(err) {
			continue
		}
		if err != nil {
			return err
		}
		if !tagged["sha256:"+m.Name()] && info.ModTime().Before(s.before) {
			s.untagged = append(s.untagged, path)
			continue
		}
		mediaType, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := s.mark("sha256:"+m.Name(), string(mediaType)); err != nil {
			return err
		}
	}
	return nil
}

func (s *sweeper) mark(digest, mediaType string) error {
	if s.used[digest] {
		return nil
	}
	s.used[digest] = true
	m, err := s.r.readManifest(digest, mediaType)
	if errors.Is(err, ErrNotFound) {
		return nil // another platform's, which was never here
	}
	if err != nil {
		return err
	}
	refs, err := references(m.mediaType, m.body)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		if !ref.isManifest() {
			s.used[ref.Digest] = true
			continue
		}
		if err := s.mark(ref.Digest, ref.MediaType); err != nil {
			return err
		}
	}
	return nil
}

func (s *sweeper) sweepBlobs(ctx context.Context) (freed int64, err error) {
	dir := filepath.Join(s.r.dir, "blobs", "sha256")
	blobs, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, b := range blobs {
		if err := ctx.Err(); err != nil {
			return freed, err
		}
		info, err := b.Info()
		if absent(err) || s.used["sha256:"+b.Name()] {
			continue
		}
		if err != nil {
			return freed, err
		}
		if !info.ModTime().Before(s.before) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, b.Name())); err != nil {
			return freed, err
		}
		freed += info.Size()
	}
	return freed, nil
}

// touch makes content young: somebody counts on it.
func touch(path string) error {
	now := time.Now()
	return os.Chtimes(path, now, now)
}

// inRepo is the name of a repository's folder below names.
func (r *Registry) inRepo(folder string) string {
	return strings.TrimPrefix(folder, filepath.Join(r.dir, "names")+"/")
}
