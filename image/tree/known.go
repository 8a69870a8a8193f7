package tree

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
)

// Known remembers the SHA-256 of blocks from one time to the next, by a hash that is
// several times as fast: GMAC (NIST SP 800-38D), under a key that nobody else has. Without
// the key two blocks of one GMAC cannot be made, and by chance there are none: for a
// block of 128 KiB it is one in 2^115.
type Known struct {
	store Store
	key   []byte
	mac   cipher.AEAD
	table []byte          // records, in the order of their GMACs
	used  []atomic.Uint32 // those of this time

	mu    sync.Mutex
	fresh []byte // records, in any order
}

// Store keeps bytes by a key, and shows them to nobody else.
type Store interface {
	Get(dst []byte, key [sha256.Size]byte) []byte
	PutSecret(key [sha256.Size]byte, data []byte)
}

const (
	macLen    = 16
	recordLen = macLen + sha256.Size + 4
)

// Some 10 MiB of records: those of 25 GiB in large files.
var knownMax = 200_000

// Counts up when a record becomes another.
var knownKey = sha256.Sum256([]byte("tree sums 1"))

// OpenKnown is what a store has, or begins anew. Of nil it is nil, which remembers nothing.
func OpenKnown(s Store) *Known {
	if s == nil {
		return nil
	}
	k := &Known{store: s}
	if data := s.Get(nil, knownKey); len(data) >= aes.BlockSize && (len(data)-aes.BlockSize)%recordLen == 0 {
		k.key, k.table = data[:aes.BlockSize], data[aes.BlockSize:]
		k.used = make([]atomic.Uint32, len(k.table)/recordLen)
	} else {
		k.key = make([]byte, aes.BlockSize)
		rand.Read(k.key)
	}
	c, err := aes.NewCipher(k.key)
	if err == nil {
		k.mac, err = cipher.NewGCM(c)
	}
	if err != nil {
		panic("tree: internal error: " + err.Error()) // no key of another size is made
	}
	return k
}

// sum is that of a block that is not of zeros.
func (k *Known) sum(b []byte) blockSum {
	if k == nil {
		return blockSum{sha256.Sum256(b), quick(b)}
	}
	// One nonce will do: no GMAC is shown to anybody.
	var nonce [12]byte
	rec := k.mac.Seal(make([]byte, 0, recordLen), nonce[:], nil, b)
	n := len(k.used)
	i, j := 0, n
	for i < j {
		if mid := (i + j) / 2; bytes.Compare(k.record(mid)[:macLen], rec) < 0 {
			i = mid + 1
		} else {
			j = mid
		}
	}
	if i < n && bytes.Equal(k.record(i)[:macLen], rec) {
		k.used[i].Store(1)
		r := k.record(i)[macLen:]
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

// record is one of the table: a GMAC, a SHA-256 and a CRC-32C.
func (k *Known) record(i int) []byte { return k.table[i*recordLen : (i+1)*recordLen] }

// Keep has the store keep what is new: with that what it had, or of that only what was
// used this time if it is too much.
func (k *Known) Keep() {
	if k == nil || len(k.fresh) == 0 {
		return
	}
	fresh := slices.SortedFunc(slices.Chunk(k.fresh, recordLen), bytes.Compare)
	fresh = slices.CompactFunc(fresh, bytes.Equal)
	room := knownMax - len(fresh)
	everything := len(k.used) <= room
	data := append(make([]byte, 0, len(k.key)+len(k.fresh)+len(k.table)), k.key...)
	for i := range k.used {
		if r := k.record(i); everything || room > 0 && k.used[i].Load() != 0 {
			for len(fresh) > 0 && bytes.Compare(fresh[0], r) < 0 {
				data, fresh = append(data, fresh[0]...), fresh[1:]
			}
			data = append(data, r...)
			room--
		}
	}
	k.store.PutSecret(knownKey, append(data, slices.Concat(fresh...)...))
}
