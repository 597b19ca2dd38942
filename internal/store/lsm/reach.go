package lsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"

	"proa/internal/store"
	"proa/internal/store/planted"
)

// A reach is a file that says how far the engine has come, apart from the
// database: damage to the end of Pebble's log looks like a crash in the middle
// of a write, and would take acknowledged changes with it in silence.
//
// It is written after the sync of a group and before the answers, and is not
// synced itself. So it never says more than is durable; after the end of a
// process it says exactly what was acknowledged, and after a loss of power at
// least what it said when the kernel last wrote it.
type reach struct {
	path string
	f    vfs.File
	at   store.Revision // 0: not known
}

const reachSize = 12 // revision, CRC-32C of it

func (r *reach) open(g *guard, path string) (err error) {
	r.path = path
	if r.f, err = g.OpenReadWrite(path, vfs.WriteCategoryUnspecified); err != nil {
		return err
	}
	var b [reachSize]byte
	_, err = r.f.ReadAt(b[:], 0)
	switch {
	case errors.Is(err, io.EOF): // new
		return nil
	case err != nil:
		return fmt.Errorf("read %s: %w", path, err)
	case binary.BigEndian.Uint32(b[8:]) == crc32.Checksum(b[:8], castagnoli):
		r.at = store.Revision(binary.BigEndian.Uint64(b[:8]))
	}
	return nil
}

func (r *reach) write(rev store.Revision) error {
	var b [reachSize]byte
	binary.BigEndian.PutUint64(b[:8], uint64(rev))
	binary.BigEndian.PutUint32(b[8:], crc32.Checksum(b[:8], castagnoli))
	_, err := r.f.WriteAt(b[:], 0)
	return err
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
