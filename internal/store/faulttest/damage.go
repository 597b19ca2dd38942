package faulttest

import (
	"math/rand/v2"
	"path"
	"slices"
)

// What befalls a disk: power that goes, and bits that turn over.

// Flip turns one bit of a file over, below everything that reads it.
func (d *Disk) Flip(name string, bit int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[name]
	n.data = slices.Clone(n.data)
	n.data[bit/8] ^= 1 << (bit % 8)
	n.synced, n.dirty, n.lengths, n.shared = slices.Clip(slices.Clone(n.data)), nil, nil, false
}

// Clone is another disk with what programs see on this one, all durable.
func (d *Disk) Clone() *Disk { return d.Crash(nil, 100) }

// Crash is another disk, with what a crash at this moment might leave: all that
// was synced, and of the rest each sector and each change of a name with the
// given probability in percent. A file may end up longer than what was written
// to it, with zeros, or shorter. 0 and 100 need no random numbers.
func (d *Disk) Crash(r *rand.Rand, percent int) *Disk {
	chance := func() bool { return percent == 100 || percent > 0 && r.IntN(100) < percent }
	d.mu.Lock()
	defer d.mu.Unlock()
	out := NewDisk()
	names := make(map[string]*node, len(d.names))
	for name, n := range d.durable {
		names[name] = n
	}
	inOrder := percent == 0 || percent == 100 || r.IntN(2) == 0 // as a journal does it, or as it comes
	for i := range d.pending {
		if chance() {
			d.pending[i].apply(names)
		} else if inOrder {
			break
		}
	}
	made := map[*node]*node{}
	for name, n := range names {
		if made[n] == nil {
			made[n] = n.crash(r, percent, chance)
		}
		if names[path.Dir(name)] != nil {
			out.names[name], out.durable[name] = made[n], made[n]
		}
	}
	out.free.Store(d.free.Load())
	return out
}

// crash is what is left of one file.
func (n *node) crash(r *rand.Rand, percent int, chance func() bool) *node {
	if n.dir {
		return &node{dir: true}
	}
	if len(n.dirty) == 0 && len(n.lengths) == 0 || percent == 0 {
		return &node{data: n.synced, synced: n.synced, shared: true}
	}
	size := len(n.data)
	if percent != 100 {
		switch r.IntN(4) {
		case 0:
			size = len(n.synced)
		case 1:
			size = n.lengths[r.IntN(len(n.lengths))]
		case 2:
			size = min(size, (r.IntN(size/sector+1))*sector)
		}
	}
	size = max(size, len(n.synced)) // a synced length stays: nothing here is cut
	data := make([]byte, size)
	copy(data, n.synced)
	for s := range n.dirty {
		from := s * sector
		if to := min(from+sector, int64(size), int64(len(n.data))); from < to && chance() {
			copy(data[from:to], n.data[from:to])
		}
	}
	return &node{data: data, synced: slices.Clip(data), shared: true}
}
