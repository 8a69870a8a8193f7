package sums

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/cpu"
)

// Memo remembers the SHA-256 of blocks from one time to the next, by a hash that is
// twice as fast on processors with AVX2: BLAKE3. Two blocks with one BLAKE3 cannot be
// made, and there is no secret in it.
type Memo struct {
	store Store
	table []byte          // records, in the order of their BLAKE3s
	used  []atomic.Uint32 // those of this time

	mu    sync.Mutex
	fresh []byte // records, in any order
}

// Store keeps bytes by a key.
type Store interface {
	Get(dst []byte, key [sha256.Size]byte) []byte
	Put(key [sha256.Size]byte, data []byte)
}

const (
	nameLen   = 32
	recordLen = nameLen + sha256.Size + 4
)

// Below this many bytes SHA-256 is as fast.
const knownMin = 8 << 10

// Some 13 MiB of records: those of 25 GiB in large files.
var knownMax = 200_000

// Counts up when a record becomes another.
var knownKey = sha256.Sum256([]byte("tree sums 2"))

// OpenMemo is what a store has, or begins anew. Of nil it is nil, which remembers
// nothing; so it is where SHA-256 is as fast.
func OpenMemo(s Store) *Memo {
	if s == nil || !fasterThanSHA256 {
		return nil
	}
	k := &Memo{store: s}
	if data := s.Get(nil, knownKey); len(data)%recordLen == 0 {
		k.table = data
		k.used = make([]atomic.Uint32, len(k.table)/recordLen)
	}
	return k
}

// BLAKE3 has code for this processor, and not Go alone.
var fasterThanSHA256 = cpu.X86.HasAVX2

// sum is that of a block that is not of zeros.
func (k *Memo) sum(b []byte) blockSum {
	if k == nil || len(b) < knownMin {
		return blockSum{sha256.Sum256(b), quick(b)}
	}
	name := blake3.Sum256(b)
	rec := append(make([]byte, 0, recordLen), name[:]...)
	n := len(k.used)
	i, j := 0, n
	for i < j {
		if mid := (i + j) / 2; bytes.Compare(k.record(mid)[:nameLen], rec) < 0 {
			i = mid + 1
		} else {
			j = mid
		}
	}
	if i < n && bytes.Equal(k.record(i)[:nameLen], rec) {
		k.used[i].Store(1)
		r := k.record(i)[nameLen:]
		return blockSum{Sum(r), binary.LittleEndian.Uint32(r[sha256.Size:])}
	}
	s := blockSum{sha256.Sum256(b), quick(b)}
	rec = binary.LittleEndian.AppendUint32(append(rec, s.sum[:]...), s.quick)
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.fresh) < knownMax*recordLen {
		k.fresh = append(k.fresh, rec...)
	}
	return s
}

// record is one of the table: a BLAKE3, a SHA-256 and a CRC-32C.
func (k *Memo) record(i int) []byte { return k.table[i*recordLen : (i+1)*recordLen] }

// Keep has the store keep what is new: with that what it had, or of that only what was
// used this time if it is too much.
func (k *Memo) Keep() {
	if k == nil || len(k.fresh) == 0 {
		return
	}
	fresh := slices.SortedFunc(slices.Chunk(k.fresh, recordLen), bytes.Compare)
	fresh = slices.CompactFunc(fresh, bytes.Equal)
	room := knownMax - len(fresh)
	everything := len(k.used) <= room
	data := make([]byte, 0, len(k.fresh)+len(k.table))
	for i := range k.used {
		if r := k.record(i); everything || room > 0 && k.used[i].Load() != 0 {
			for len(fresh) > 0 && bytes.Compare(fresh[0], r) < 0 {
				data, fresh = append(data, fresh[0]...), fresh[1:]
			}
			data = append(data, r...)
			room--
		}
	}
	k.store.Put(knownKey, append(data, slices.Concat(fresh...)...))
}
