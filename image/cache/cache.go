// Package cache keeps what took long to make in a directory, by the hash of what it
// was made from: an entry is a file, named by its key.
//
// Several programs may use a directory at once, and it may be taken to another
// machine. An entry appears whole or not at all, and has checksums: one that
// was damaged or cut short is as good as none. Checksums do not keep others out. The
// directory must belong to the user and be writable by no other; and where it is stored
// or sent by other systems in between, a key that is not in it authenticates entries.
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

// An entry is its magic, its key, a check of what is kept, and that. The check is two
// checksums, against disks that damage entries and programs that are killed; or with
// an authentication key the keyed BLAKE3 of the magic, the key and what is kept.
const (
	plain         = "imgtool cache 1\n"
	authenticated = "imgtool cache 2\n"

	maxHeader = len(plain) + sha256.Size + 32
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// head is what an entry begins with.
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

// Entries and the beginnings of some have such names; nothing else is touched.
const (
	nameLen   = 2 * sha256.Size
	partial   = "partial-"
	staleTime = 24 * time.Hour
	// An entry that was used is as good as new. That is written down once an hour.
	touchTime = time.Hour
	// No entry has more.
	maxData = 16 << 20
	// What a file takes up beyond its bytes, about.
	overhead = 4096
)

// Dir is a directory with entries. Its methods may be called at the same time.
type Dir struct {
	path   string
	root   *os.Root // no link in the directory leads out of it
	mac    *blake3.Hasher
	header int   // bytes
	max    int64 // bytes that Settle leaves

	hits, misses, damaged atomic.Int64
	written               atomic.Int64

	mu  sync.Mutex
	err error // the first of Put
}

// Open makes the directory if it is not there. Its error is an *AccessError if other
// users can write to it. With a secret, only entries that were put with the same secret
// are got; nil is none.
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

// Path is the directory.
func (d *Dir) Path() string { return d.path }

// Authenticated says whether entries have to be put with a secret.
func (d *Dir) Authenticated() bool { return d.mac != nil }

func file(key [sha256.Size]byte) string {
	name := hex.EncodeToString(key[:])
	return name[:2] + "/" + name
}

// Get gives what was put for a key, in dst where it has the room, or nil.
func (d *Dir) Get(dst []byte, key [sha256.Size]byte) []byte {
	data, err := d.read(dst, key)
	switch {
	case err == nil:
		d.hits.Add(1)
		return data
	case errors.Is(err, errDamaged):
		d.root.Remove(file(key))
		d.damaged.Add(1)
	}
	d.misses.Add(1)
	return nil
}

var errDamaged = errors.New("damaged")

func (d *Dir) read(dst []byte, key [sha256.Size]byte) ([]byte, error) {
	path := file(key)
	// Nothing that waits for anybody, should it be no file.
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
	// It was put when others could still write to the directory.
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

// Put keeps data for a key. What cannot be kept is not: see Err.
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
	d.written.Add(int64(len(data) + d.header + overhead))
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

// Err is why something could not be kept; after that nothing more is.
func (d *Dir) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// Stats say how often what was asked for was there, and how often it was not; and
// how many of those were damaged, or not authentic.
func (d *Dir) Stats() (hits, misses, damaged int64) {
	return d.hits.Load(), d.misses.Load(), d.damaged.Load()
}

// Changed says whether something was put since Open.
func (d *Dir) Changed() bool { return d.written.Load() > 0 }

type entry struct {
	path string
	size int64
	used time.Time
}

// entries are all there are; stale are beginnings that nobody goes on with.
func (d *Dir) entries() (all []entry, stale []string, err error) {
	top, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return nil, nil, err
	}
	for _, e := range top {
		path := e.Name()
		switch {
		case strings.HasPrefix(e.Name(), partial):
			if info, err := e.Info(); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > staleTime {
				stale = append(stale, path)
			}
			continue
		case len(e.Name()) != 2 || !e.IsDir():
			continue
		}
		files, err := fs.ReadDir(d.root.FS(), path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		for _, f := range files {
			if _, err := hex.DecodeString(f.Name()); err != nil || len(f.Name()) != nameLen || f.Name()[:2] != e.Name() {
				continue
			}
			// Another program may have taken it away.
			if info, err := f.Info(); err == nil && info.Mode().IsRegular() {
				all = append(all, entry{filepath.Join(path, f.Name()), info.Size() + overhead, info.ModTime()})
			}
		}
	}
	return all, stale, nil
}

// Usage is how many entries there are, about how many bytes they take, and when
// the one was used that was not for the longest.
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

// Trim takes entries away, those first that were not used for the longest, until
// they take no more than max bytes. It says how many bytes are free for it.
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
			return freed, fmt.Errorf("taking entries out of the cache: %w", err)
		}
		size -= e.size
		freed += e.size
	}
	return freed, nil
}
