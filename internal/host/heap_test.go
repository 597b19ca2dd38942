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
		{"the collector takes half", 2, 4, 128 * mb, 1000 * mb, 256 * mb},
		{"but as much as lives will do", 2, 4, 1024 * mb, 1000 * mb, 1024 * mb},
		{"in between nothing changes", 0.4, 4, 256 * mb, 1000 * mb, 256 * mb},
		{"it is cheap", 0.1, 4, 512 * mb, 1000 * mb, 256 * mb},
	} {
		before := collector{took: 10, all: 100}
		if got := before.next(collector{10 + tt.took, 100 + tt.all}, tt.room, tt.live); got != tt.want {
			t.Errorf("%s: %d MB, want %d", tt.name, got/mb, tt.want/mb)
		}
	}
	if headroom(100*mb, 128*mb) != 100 || headroom(1280*mb, 128*mb) != 10 {
		t.Error("the room is not what GOGC says")
	}
}
