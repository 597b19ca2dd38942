package lsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"proa/internal/store"
	"proa/internal/store/planted"
	"proa/internal/store/seal"
)

// A reach is a file that says how far the engine and its MANIFEST have come,
// apart from the database: damage to the end of either looks to Pebble like a
// crash in the middle of a write, and would take with it in silence what was
// acknowledged.
//
// Each part is written after the sync of what it is about, the revision before
// the answers, and is not synced itself (but for the name of a new MANIFEST, so
// that an older one of the same number is forgotten). So it never says more than is durable;
// after the end of a process it says exactly what was, and after a loss of power
// at least what it said when the kernel last wrote it.
type reach struct {
	path string
	f    vfs.File
	at   store.Revision // when it was opened; 0: not known

	manifest string // the MANIFEST that was last in use; empty: not known
	size     int64  // of what is durable of it
	sum      uint32 // CRC-32C of that
}

// The parts of the file, each with a CRC-32C of what stands before it.
const (
	reachRevision = 12 // bytes at 0: revision (8), checksum
	reachManifest = 24 // bytes at 16: number of the MANIFEST (8), size (8), sum (4), checksum
	manifestAt    = 16
)

func (r *reach) open(g *guard, path string) (err error) {
	r.path = path
	if r.f, err = g.OpenReadWrite(path, vfs.WriteCategoryUnspecified); err != nil {
		return err
	}
	b := make([]byte, manifestAt+reachManifest)
	if _, err = r.f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) { // a new one is empty
		return fmt.Errorf("read %s: %w", path, err)
	}
	if p, ok := checked(b[:reachRevision]); ok {
		r.at = store.Revision(binary.BigEndian.Uint64(p))
	}
	if p, ok := checked(b[manifestAt:]); ok {
		r.manifest = fmt.Sprintf("MANIFEST-%06d", binary.BigEndian.Uint64(p))
		r.size, r.sum = int64(binary.BigEndian.Uint64(p[8:])), binary.BigEndian.Uint32(p[16:])
	}
	g.manifest = r.noteManifest
	return nil
}

// checked returns a part without its checksum, if that is right.
func checked(b []byte) ([]byte, bool) {
	p := b[:len(b)-4]
	return p, binary.BigEndian.Uint32(b[len(p):]) == crc32.Checksum(p, seal.Castagnoli)
}

func withSum(p []byte) []byte {
	return binary.BigEndian.AppendUint32(p, crc32.Checksum(p, seal.Castagnoli))
}

func (r *reach) write(rev store.Revision) error {
	_, err := r.f.WriteAt(withSum(appendRevision(make([]byte, 0, reachRevision), rev)), 0)
	return err
}

// noteManifest is the guard's manifest.
func (r *reach) noteManifest(name string, size int64, sum uint32) error {
	n, err := strconv.ParseUint(strings.TrimPrefix(name, "MANIFEST-"), 10, 64)
	if err != nil {
		return fmt.Errorf("%s is not named as a MANIFEST is: %w", name, err)
	}
	b := binary.BigEndian.AppendUint64(make([]byte, 0, reachManifest), n)
	b = binary.BigEndian.AppendUint64(b, uint64(size))
	_, err = r.f.WriteAt(withSum(binary.BigEndian.AppendUint32(b, sum)), manifestAt)
	if err == nil && size == 0 {
		err = r.f.Sync()
	}
	return err
}

// checkManifest returns an error if the MANIFEST is not what it was. Pebble
// writes a new one at each opening, so that a repaired one is not held to it.
func (r *reach) checkManifest(dir vfs.FS, path string) error {
	if r.manifest == "" {
		return nil
	}
	name := dir.PathJoin(path, r.manifest)
	f, err := dir.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another one has taken its place
	}
	if err != nil {
		return err
	}
	defer f.Close()
	h := crc32.New(seal.Castagnoli)
	n, err := io.Copy(h, io.LimitReader(f, r.size))
	switch {
	case err != nil:
		return fmt.Errorf("read %s: %w", name, err)
	case (n < r.size || h.Sum32() != r.sum) && !planted.Is("manifest-unchecked"):
		return fmt.Errorf("%s, which says what the database consists of, is damaged: its first %d bytes are not those that were written", name, r.size)
	}
	return nil
}

func (r *reach) close() {
	if r.f != nil {
		_ = r.f.Close()
	}
}

// reached returns an error if the database ends before what was acknowledged.
func (s *session) reached(newest store.Revision) error {
	if newest >= s.reach.at || planted.Is("reach-ignored") {
		return nil
	}
	return damaged("(the log)", newest+1, fmt.Errorf("the log ends at revision %d, but all up to %d was acknowledged: its last part is damaged; "+
		"to go on without the changes after %d, remove %s", newest, s.reach.at, newest, s.reach.path))
}
