// Package cache keeps what took long to make in a folder, by the hash of what it
// was made from: an entry is a file, named by its key.
//
// Several programs may use a folder at once, and it may be taken to another
// machine. An entry appears whole or not at all, and has checksums: one that
// was damaged or cut short is as good as none. Who can write to the folder decides
// what is built with it.
package cache

import (
	"bytes"
	"cmp"
	"crypto/sha256"
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
)

// An entry is these bytes, its key, two checksums of what is kept, and that. It is
// disks that damage entries, and programs that are killed.
const (
	magic  = "imgtool cache 1\n"
	header = len(magic) + sha256.Size + 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func head(key [sha256.Size]byte, data []byte) []byte {
	h := append([]byte(magic), key[:]...)
	h = binary.LittleEndian.AppendUint32(h, crc32.Checksum(data, castagnoli))
	return binary.LittleEndian.AppendUint32(h, crc32.ChecksumIEEE(data))
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

// Dir is a folder with entries. Its methods may be called at the same time.
type Dir struct {
	path string

	hits, misses, damaged atomic.Int64
	written               atomic.Int64

	mu  sync.Mutex
	err error // the first of Put
}

// Open makes the folder if it is not there.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, err
	}
	return &Dir{path: path}, nil
}

// Path is the folder.
func (d *Dir) Path() string { return d.path }

func (d *Dir) file(key [sha256.Size]byte) string {
	name := hex.EncodeToString(key[:])
	return filepath.Join(d.path, name[:2], name)
}

// Get gives what was put for a key, in dst where it has the room, or nil.
func (d *Dir) Get(dst []byte, key [sha256.Size]byte) []byte {
	data, err := d.read(dst, key)
	switch {
	case err == nil:
		d.hits.Add(1)
		return data
	case errors.Is(err, errDamaged):
		os.Remove(d.file(key))
		d.damaged.Add(1)
	}
	d.misses.Add(1)
	return nil
}

var errDamaged = errors.New("damaged")

func (d *Dir) read(dst []byte, key [sha256.Size]byte) ([]byte, error) {
	path := d.file(key)
	// Nothing that waits for anybody, should it be no file.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := info.Size() - int64(header)
	if size < 0 || size > maxData || !info.Mode().IsRegular() {
		return nil, errDamaged
	}
	if int64(cap(dst)) < size {
		dst = make([]byte, size)
	}
	dst = dst[:size]
	if dst == nil {
		dst = []byte{}
	}
	var first [header]byte
	if _, err := io.ReadFull(f, first[:]); err != nil {
		return nil, errDamaged
	}
	if _, err := io.ReadFull(f, dst); err != nil {
		return nil, errDamaged
	}
	if !bytes.Equal(first[:], head(key, dst)) {
		return nil, errDamaged
	}
	if now := time.Now(); now.Sub(info.ModTime()) > touchTime {
		os.Chtimes(path, now, now)
	}
	return dst, nil
}

// Put keeps data for a key. What cannot be kept is not: see Err.
func (d *Dir) Put(key [sha256.Size]byte, data []byte) { d.keep(key, data, 0o644) }

// PutSecret is Put of what no other user is to read.
func (d *Dir) PutSecret(key [sha256.Size]byte, data []byte) { d.keep(key, data, 0o600) }

func (d *Dir) keep(key [sha256.Size]byte, data []byte, mode os.FileMode) {
	if d.Err() != nil {
		return
	}
	if err := d.put(key, data, mode); err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.err = cmp.Or(d.err, err)
		return
	}
	d.written.Add(int64(len(data) + header + overhead))
}

func (d *Dir) put(key [sha256.Size]byte, data []byte, mode os.FileMode) error {
	path := d.file(key)
	f, err := os.CreateTemp(d.path, partial)
	if err != nil {
		return err
	}
	_, err = f.Write(slices.Concat(head(key, data), data))
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
		if errors.Is(err, fs.ErrNotExist) {
			os.Mkdir(filepath.Dir(path), 0o777)
			err = os.Rename(f.Name(), path)
		}
	}
	if err != nil {
		os.Remove(f.Name())
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
// how many of those were damaged.
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
	top, err := os.ReadDir(d.path)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range top {
		path := filepath.Join(d.path, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), partial):
			if info, err := e.Info(); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > staleTime {
				stale = append(stale, path)
			}
			continue
		case len(e.Name()) != 2 || !e.IsDir():
			continue
		}
		files, err := os.ReadDir(path)
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
		os.Remove(path)
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
		if err := os.Remove(e.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return freed, fmt.Errorf("taking entries out of the cache: %w", err)
		}
		size -= e.size
		freed += e.size
	}
	return freed, nil
}
