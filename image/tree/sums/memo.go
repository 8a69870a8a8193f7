package sums

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"sync"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/cpu"
)

// Memo remembers the checksums of blocks from one build to the next, by the BLAKE3 of
// each block: with AVX2, BLAKE3 is more than twice as fast as SHA-256. As BLAKE3 is
// collision resistant, no key is needed. A nil *Memo remembers nothing.
//
// Measured on a build from a tar of 982 MiB with Debian, zstd 9, on two cores with SHA and
// AVX2 instructions; the least of nine runs that alternated with and without a memo:
//
//	nothing changed since the last build   0.94 s without, 0.79 s with (-16 %), CPU time 1.44 s and 1.12 s
//	one file of 1 MB changed               0.98 s without, 0.85 s with (-13 %)
//	first build                            7.2 s without, 7.5 s with
type Memo struct {
	store Store

	mu      sync.Mutex
	entries map[memoKey]*memoEntry
	changed bool
}

type memoKey [32]byte // BLAKE3

type memoEntry struct {
	blockSum
	used bool // by this build
}

// Store keeps data by key, as a cache does. Several goroutines call its methods at the
// same time.
type Store interface {
	// Get returns the data that were put for key, in dst if it has the capacity, or nil.
	Get(dst []byte, key [sha256.Size]byte) []byte
	Put(key [sha256.Size]byte, data []byte)
}

const (
	memoRecord = len(memoKey{}) + sha256.Size + 4
	memoMin    = 8 << 10 // bytes; for smaller blocks SHA-256 is as fast
	memoMax    = 200_000 // blocks: 25 GiB in large files, 13 MiB of records
)

// The number changes with the format of a record.
var storeKey = sha256.Sum256([]byte("tree sums 2"))

// OpenMemo loads the memo that a store has. It returns nil if store is nil, and on
// machines where SHA-256 is as fast as BLAKE3.
func OpenMemo(store Store) *Memo {
	if store == nil || !cpu.X86.HasAVX2 {
		return nil
	}
	return loadMemo(store)
}

func loadMemo(store Store) *Memo {
	m := &Memo{store: store, entries: map[memoKey]*memoEntry{}}
	data := store.Get(nil, storeKey)
	if len(data)%memoRecord != 0 {
		return m
	}
	for r := range slices.Chunk(data, memoRecord) {
		name, sum := r[:len(memoKey{})], r[len(memoKey{}):]
		m.entries[memoKey(name)] = &memoEntry{blockSum: blockSum{Sum(sum), binary.LittleEndian.Uint32(sum[sha256.Size:])}}
	}
	return m
}

// sum returns the checksum of a block that is not zero.
func (m *Memo) sum(b []byte) blockSum {
	if m == nil || len(b) < memoMin {
		return blockSum{sha256.Sum256(b), checksum(b)}
	}
	key := memoKey(blake3.Sum256(b))
	m.mu.Lock()
	e := m.entries[key]
	if e != nil {
		e.used = true
	}
	m.mu.Unlock()
	if e == nil {
		e = &memoEntry{blockSum{sha256.Sum256(b), checksum(b)}, true}
		m.mu.Lock()
		m.entries[key], m.changed = e, true
		m.mu.Unlock()
	}
	return e.blockSum
}

// Save stores the memo if it has new blocks. If there are too many blocks, it drops
// blocks not used since it was opened.
func (m *Memo) Save() {
	if m == nil || !m.changed {
		return
	}
	if len(m.entries) > memoMax {
		maps.DeleteFunc(m.entries, func(_ memoKey, e *memoEntry) bool { return !e.used })
	}
	keys := slices.SortedFunc(maps.Keys(m.entries), func(a, b memoKey) int { return bytes.Compare(a[:], b[:]) })
	keys = keys[:min(len(keys), memoMax)]
	data := make([]byte, 0, len(keys)*memoRecord)
	for _, k := range keys {
		e := m.entries[k]
		data = append(append(data, k[:]...), e.sum[:]...)
		data = binary.LittleEndian.AppendUint32(data, e.crc)
	}
	m.store.Put(storeKey, data)
}
