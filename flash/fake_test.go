package flash_test

import (
	"bytes"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"

	"imgtool/flash"
	"imgtool/flash/disk"
	"imgtool/image"
)

const (
	kib = 1 << 10
	mib = 1 << 20

	sector    = 512
	recordOff = 32 * kib
	headSize  = 256 * kib // before the first partition
	backup    = 33 * sector
)

// payload is a job and the content of the disk after it.
type payload struct {
	job  flash.Job
	want []byte // 0xAA where nothing is written
}

// newPayload returns a job for a disk of size bytes: a body in pieces with holes between
// them, a head with a table, and a backup table in the last sectors.
func newPayload(size int64, piece int) payload {
	rng := rand.NewChaCha8([32]byte{1})
	want := bytes.Repeat([]byte{0xaa}, int(size))
	rng.Read(want[:headSize])
	rng.Read(want[size-backup:])
	var body []image.Chunk
	for off := int64(headSize); off+int64(piece) <= size-64*kib; off += int64(piece) * 3 / 2 / image.Block * image.Block {
		rng.Read(want[off : off+int64(piece)])
		body = append(body, image.Chunk{Off: off, Data: bytes.Clone(want[off : off+int64(piece)])})
	}
	at := func(off, n int64) image.Chunk { return image.Chunk{Off: off, Data: bytes.Clone(want[off : off+n])} }
	return payload{
		want: want,
		job: flash.Job{
			Wipe:      []image.Span{{Off: 0, Len: 64 * kib}, {Off: size - backup, Len: backup}},
			Record:    []byte("in progress: 0123456789"),
			RecordOff: recordOff,
			Body:      chunks(body),
			BodySize:  int64(len(body) * piece),
			Head: func() ([]image.Chunk, error) {
				return []image.Chunk{at(0, 128*kib), at(128*kib, headSize-128*kib), at(size-backup, backup)}, nil
			},
		},
	}
}

func chunks(list []image.Chunk) iter.Seq2[image.Chunk, error] {
	return func(yield func(image.Chunk, error) bool) {
		for _, c := range list {
			if !yield(c, nil) {
				return
			}
		}
	}
}

// bootable reports whether firmware would find the new table.
func (p payload) bootable(disk []byte) bool {
	return bytes.Equal(disk[:image.Block], p.want[:image.Block])
}

// fake is a disk in memory, filled with 0xAA, with faults.
type fake struct {
	mu   sync.Mutex // of data and ops: a delta reads while it writes
	data []byte
	ops  int // writes, reads and flushes so far

	write func(op int, p []byte, off int64) (int, error) // before writing; it may change p, or say how many bytes get there
	read  func(op int, p []byte, off int64) error        // after reading
	sync  func(op int) error
	gone  atomic.Bool
	hang  chan struct{} // closed when the test is over
	stuck bool          // a fault has begun
}

// through is returned by a fault for a write that succeeds.
const through = -1

func newFake(size int64) *fake { return &fake{data: bytes.Repeat([]byte{0xaa}, int(size))} }

func (f *fake) next() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops++
	return f.ops - 1
}

func (f *fake) Path() string { return "/dev/fake" }

func (f *fake) WriteAt(p []byte, off int64) (int, error) {
	if off%sector != 0 || len(p)%sector != 0 {
		return 0, syscall.EINVAL
	}
	op := f.next()
	if f.write != nil {
		p = bytes.Clone(p)
		if n, err := f.write(op, p, off); n != through || err != nil {
			f.mu.Lock()
			defer f.mu.Unlock()
			copy(f.data[off:], p[:max(0, n)])
			return max(0, n), err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if off+int64(len(p)) > int64(len(f.data)) {
		return 0, syscall.ENOSPC
	}
	return copy(f.data[off:], p), nil
}

func (f *fake) ReadAt(p []byte, off int64) (int, error) {
	op := f.next()
	f.mu.Lock()
	if off > int64(len(f.data)) {
		f.mu.Unlock()
		return 0, io.EOF
	}
	n := copy(p, f.data[off:])
	f.mu.Unlock()
	if f.read != nil {
		if err := f.read(op, p, off); err != nil {
			return 0, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *fake) Sync() error {
	op := f.next()
	if f.sync != nil {
		return f.sync(op)
	}
	return nil
}

func (f *fake) Alive() error {
	if f.gone.Load() {
		return &disk.GoneError{Disk: f.Path(), Err: errors.New("its size is 0")}
	}
	return nil
}

const fakeSize = 2 * mib

func differ(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}
