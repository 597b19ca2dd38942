package host

import "testing"

// TestRoom checks when a heap gets more room, and when it gives it back.
func TestRoom(t *testing.T) {
	const mb = 1 << 20
	for _, tt := range []struct {
		name             string
		took, all        float64
		room, live, want uint64
	}{
		{"quiet", 0, 0.1, 512 * mb, 1000 * mb, 256 * mb},
		{"never less than that", 0, 2, 128 * mb, 1000 * mb, MaxHeadroom},
		{"the collector takes half", 2, 4, 128 * mb, 1000 * mb, 1000 * mb},
		{"but as much as lives will do", 2, 4, 1024 * mb, 1000 * mb, 1024 * mb},
		{"in between nothing changes", 0.3, 4, 256 * mb, 1000 * mb, 256 * mb},
		{"little lives and much comes and goes", 2, 4, 50 * mb, 50 * mb, 256 * mb},
		{"as much as is enough for that", 2, 4, 400 * mb, 50 * mb, 400 * mb},
		{"and back", 0, 0.1, 80 * mb, 50 * mb, 50 * mb},
		{"more lives by now", 0.3, 4, 20 * mb, 50 * mb, 50 * mb},
		{"it is cheap", 0.1, 4, 512 * mb, 1000 * mb, 256 * mb},
	} {
		before := collector{took: 10, all: 100}
		if got := before.next(collector{10 + tt.took, 100 + tt.all}, tt.room, tt.live); got != tt.want {
			t.Errorf("%s: %d MB, want %d", tt.name, got/mb, tt.want/mb)
		}
	}
	if headroom(100*mb, leastRoom(100*mb)) != 100 || headroom(1280*mb, leastRoom(1280*mb)) != 10 || headroom(50*mb, 200*mb) != 400 || headroom(0, 0) != 100 {
		t.Error("the room is not what GOGC says")
	}
}
