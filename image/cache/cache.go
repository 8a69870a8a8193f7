// Package cache stores results of long computations in a directory. An entry is a file; its
// name is its key, the hash of all inputs of the computation.
//
// Several processes may use a directory at once, and it may be copied to another machine.
// Entries are written atomically and have checksums; a damaged entry counts as missing.
// Checksums do not protect from attackers: the directory must belong to the user and not be
// writable by others, see [MakePrivate]. If other systems store the directory, as CI does,
// entries can be authenticated with a secret key that is kept outside of it.
package cache

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/zeebo/blake3"
)

// An entry consists of a magic, its key, a check and the data. The check is the CRC-32C and
// the CRC-32 of the data, or with a secret the keyed BLAKE3 of magic, key and data.
const (
	plain         = "imgtool cache 1\n"
	authenticated = "imgtool cache 2\n"

	maxHeader = len(plain) + sha256.Size + 32
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// head returns an entry without its data.
func (d *Dir) head(key [sha256.Size]byte, data []byte) []byte {
	if d.mac == nil {
		h := append([]byte(plain), key[:]...)
		h = binary.LittleEndian.AppendUint32(h, crc32.Checksum(data, castagnoli))
		return binary.LittleEndian.AppendUint32(h, crc32.ChecksumIEEE(data))
	}
	h := append([]byte(authenticated), key[:]...)
	mac := d.mac.Clone()
	mac.Write(h)
	mac.Write(data)
	return mac.Sum(h)
}

// Only files with names of entries and of partial entries are read or removed.
const (
	nameLen   = 2 * sha256.Size
	partial   = "partial-"
	staleTime = 24 * time.Hour
	// The modification time is the time of the last use, to the hour.
	touchTime = time.Hour
	// Limit of an entry, in bytes.
	maxData = 16 << 20
	// Estimate of the space that a file takes in addition to its data, in bytes.
	overhead = 4096
)

// Dir is an open cache. Its methods may be called concurrently.
type Dir struct {
	path   string
	root   *os.Root // does not follow symbolic links to the outside
	mac    *blake3.Hasher
	header int   // bytes
	max    int64 // bytes that Settle leaves

	damaged atomic.Int64
	changed atomic.Bool

	mu  sync.Mutex
	err error // the first of Put
}

// Open opens the cache in a directory, which it makes if necessary. The error is an
// *[AccessError] if other users can write to it. With a secret, only entries that were
// stored with the same secret are valid; a nil secret is none.
func Open(path string, secret []byte) (*Dir, error) {
	if err := MakePrivate(path); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	d := &Dir{path: path, root: root}
	if secret != nil {
		key := make([]byte, 32)
		blake3.DeriveKey("imgtool 2026 entries of a cache", secret, key)
		if d.mac, err = blake3.NewKeyed(key); err != nil {
			return nil, err
		}
	}
	d.header = len(d.head([sha256.Size]byte{}, nil))
	return d, nil
}

func file(key [sha256.Size]byte) string {
	name := hex.EncodeToString(key[:])
	return name[:2] + "/" + name
}

// Get returns the data of a key, or nil. It uses the memory of dst if that is large enough.
func (d *Dir) Get(dst []byte, key [sha256.Size]byte) []byte {
	data, err := d.read(dst, key)
	if err == errDamaged {
		d.root.Remove(file(key))
		d.damaged.Add(1)
	}
	return data
}

var errDamaged = errors.New("damaged")

func (d *Dir) read(dst []byte, key [sha256.Size]byte) ([]byte, error) {
	path := file(key)
	// Opening a FIFO must not block.
	f, err := d.root.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := info.Size() - int64(d.header)
	if size < 0 || size > maxData || !info.Mode().IsRegular() {
		return nil, errDamaged
	}
	// It may date from a time when others could write to the directory.
	if d.mac == nil && (ownerOf(info) != os.Geteuid() || info.Mode().Perm()&0o022 != 0) {
		return nil, errDamaged
	}
	if int64(cap(dst)) < size {
		dst = make([]byte, size)
	}
	dst = dst[:size]
	if dst == nil {
		dst = []byte{}
	}
	var buf [maxHeader]byte
	first := buf[:d.header]
	if _, err := io.ReadFull(f, first); err != nil {
		return nil, errDamaged
	}
	if _, err := io.ReadFull(f, dst); err != nil {
		return nil, errDamaged
	}
	if subtle.ConstantTimeCompare(first, d.head(key, dst)) == 0 {
		return nil, errDamaged
	}
	if now := time.Now(); now.Sub(info.ModTime()) > touchTime {
		d.root.Chtimes(path, now, now)
	}
	return dst, nil
}

// Put stores data for a key. After an error, which [Dir.Err] returns, it does nothing.
func (d *Dir) Put(key [sha256.Size]byte, data []byte) {
	if d.Err() != nil {
		return
	}
	if err := d.put(key, data); err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.err = cmp.Or(d.err, err)
		return
	}
	d.changed.Store(true)
}

func (d *Dir) put(key [sha256.Size]byte, data []byte) error {
	path, begun := file(key), partial+rand.Text()
	f, err := d.root.OpenFile(begun, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(slices.Concat(d.head(key, data), data))
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = d.root.Rename(begun, path)
		if errors.Is(err, fs.ErrNotExist) {
			d.root.Mkdir(filepath.Dir(path), 0o755)
			err = d.root.Rename(begun, path)
		}
	}
	if err != nil {
		d.root.Remove(begun)
	}
	return err
}

// Err returns the first error of [Dir.Put].
func (d *Dir) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// Damaged returns how many damaged or unauthentic entries [Dir.Get] found.
func (d *Dir) Damaged() int64 { return d.damaged.Load() }

// Changed reports whether entries were stored since Open.
func (d *Dir) Changed() bool { return d.changed.Load() }

type entry struct {
	path string
	size int64
	used time.Time
}

// entries lists all entries, and the partial entries of processes that have ended.
func (d *Dir) entries() (all []entry, stale []string, err error) {
	top, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return nil, nil, err
	}
	for _, e := range top {
		dir := e.Name()
		switch {
		case strings.HasPrefix(dir, partial):
			if info, err := e.Info(); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > staleTime {
				stale = append(stale, dir)
			}
			continue
		case len(dir) != 2 || !e.IsDir():
			continue
		}
		files, err := fs.ReadDir(d.root.FS(), dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		for _, f := range files {
			if _, err := hex.DecodeString(f.Name()); err != nil || len(f.Name()) != nameLen || f.Name()[:2] != dir {
				continue
			}
			// Another process may have removed it.
			if info, err := f.Info(); err == nil && info.Mode().IsRegular() {
				all = append(all, entry{filepath.Join(dir, f.Name()), info.Size() + overhead, info.ModTime()})
			}
		}
	}
	return all, stale, nil
}

// Usage returns the number of entries, the space they take in bytes, and the time of last
// use of the least recently used entry.
func (d *Dir) Usage() (entries int, size int64, oldest time.Time, err error) {
	all, _, err := d.entries()
	for _, e := range all {
		size += e.size
		if oldest.IsZero() || e.used.Before(oldest) {
			oldest = e.used
		}
	}
	return len(all), size, oldest, err
}

// Trim removes the least recently used entries until the rest takes no more than max bytes.
// It returns how many bytes it freed.
func (d *Dir) Trim(max int64) (freed int64, err error) {
	all, stale, err := d.entries()
	if err != nil {
		return 0, err
	}
	for _, path := range stale {
		d.root.Remove(path)
	}
	var size int64
	for _, e := range all {
		size += e.size
	}
	if size <= max {
		return 0, nil
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.path, b.path)) })
	for _, e := range all {
		if size <= max {
			break
		}
		if err := d.root.Remove(e.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return freed, fmt.Errorf("removing entries of the cache: %w", err)
		}
		size -= e.size
		freed += e.size
	}
	return freed, nil
}
