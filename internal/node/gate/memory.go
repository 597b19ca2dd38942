package gate

import (
	"crypto/sha256"
	"sync"
	"time"
)

// most bounds a memory: whoever asks with ever new tokens fills it, and costs the
// others a question to the API server.
const most = 4096

// A memory keeps answers by their questions while they count. The zero value is ready.
type memory[V any] struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]kept[V]
}

type kept[V any] struct {
	value V
	until time.Time
}

func (m *memory[V]) get(key [sha256.Size]byte, now time.Time) (v V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.known[key]
	if !ok || !now.Before(k.until) {
		return v, false
	}
	return k.value, true
}

func (m *memory[V]) set(key [sha256.Size]byte, v V, now time.Time, keep time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.known) >= most {
		for k, old := range m.known {
			if !now.Before(old.until) {
				delete(m.known, k)
			}
		}
	}
	if m.known == nil || len(m.known) >= most {
		m.known = map[[sha256.Size]byte]kept[V]{}
	}
	m.known[key] = kept[V]{v, now.Add(keep)}
}
