// Package flash writes the content of an image to a disk, reads it back, and makes the
// disk bootable last, so that an interrupted [Run] never leaves a disk that looks
// complete.
//
// It knows no board, file system or partition table: a [Job] holds the content as chunks.
// It neither asks nor prints anything. Package [imgtool/flash/disk] finds and opens disks.
package flash

import (
	"fmt"
	"io"
	"iter"
	"time"

	"imgtool/image"
	"imgtool/image/fault"
)

// Device is what [Run] writes to, such as a *disk.Target.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Path() string
	Alive() error // nil while the disk is present and has the same size
}

// Job is what to write to a disk. Offsets and lengths are in bytes and multiples of the
// sector size.
type Job struct {
	// Wipe is filled with zeros first, after the first 4096 bytes of the disk: the old
	// partition tables at both ends, and old signatures.
	Wipe []image.Span

	// Record describes the image being written. It is stored before the first partition,
	// padded with zeros to whole blocks, and removed at the end: where Head has no content,
	// it is filled with zeros.
	Record    []byte
	RecordOff int64

	// Body is the content of the partitions, in order, after the record.
	Body     iter.Seq2[image.Chunk, error]
	BodySize int64 // for progress, 0 if unknown

	// Again reads a part of Body once more, to repair a place that was read back wrong.
	// It is nil if Body can be read only once.
	Again func(image.Span) ([]byte, error)

	// Head returns what makes the disk bootable: the content before the first partition,
	// and the backup partition table. Run calls it after it has read the body back. It may
	// be nil, and must not overlap the body.
	Head func() ([]image.Chunk, error)

	// Loader is the part of Head before the first partition that is known in
	// advance, such as boot loaders. With Delta, blocks of it that the disk has already are not
	// wiped, so that they need not be written again: without the first 4096 bytes and the backup
	// table no loader finds a partition.
	Loader []image.Chunk

	// Verify is how much of the body to read back. Everything else is always read back.
	Verify Verify

	// Delta reads the disk first and writes only the blocks that differ. Blocks that are
	// equal are not read again.
	Delta bool

	// Same reports whether the disk is known to have a part of Body: it is compared with Body
	// already. With Delta it is not read again. Same may be nil.
	Same func(image.Span) bool

	// Zeros reads the disk where Body has long runs of zeros, and leaves out the runs that the
	// disk already has. They are read back like all other content.
	Zeros bool

	// Size is the size the disk reports, in bytes. Run probes whether the disk really has
	// it, unless it is 0 or Delta is set.
	Size int64

	Timeout

	// Watch, which may be nil, reports the state of the disk while Run has not returned.
	Watch *Watch
}

// Verify is how much of what was written is read back.
type Verify int

const (
	Full    Verify = iota
	Sampled        // the first and the last piece, and a random one in sampleOf of the others
	None
)

const sampleOf = 16

// Result is what a [Run] did. Counts are in bytes.
type Result struct {
	Written  int64         // including wipes
	Skipped  int64         // already on the disk, with Job.Delta or Job.Zeros
	Verified int64         // read back and equal
	Unread   int64         // written and not read back; 0 with Full
	Writing  time.Duration // of the body, including its flush
	Reading  time.Duration // of reading the body back
	Repaired []Repair
	Manifest image.Manifest // of Body and Head as written, in order
}

// Repair is a place that was wrong when it was first read back and is correct now.
type Repair struct {
	image.Span
	How string // a description for users
}

// Phases of a [Run].
const (
	Probing   = "probing"
	Wiping    = "wiping"
	Writing   = "writing"
	Reading   = "reading back"
	Finishing = "finishing"
)

// guard is the size of the area at the start of the disk in which firmware looks for a
// partition table. It is filled with zeros first and written last, in one write.
const guard = image.Block

// ReadError is a failure to read the disk. Err names the offset.
type ReadError struct{ Err error }

func (e *ReadError) Error() string { return e.Err.Error() }
func (e *ReadError) Unwrap() error { return e.Err }
func (e *ReadError) Kind() string  { return fault.Mismatch }

// FakeError is a disk with less room than it reports.
type FakeError struct {
	Disk    string
	Size    int64 // the size it reports, in bytes
	Written int64 // the offset of a write
	Found   int64 // the offset at which the data was found, or -1
	Real    int64 // the capacity at which offsets wrap around, if Found is not -1
}

func (e *FakeError) Error() string {
	if e.Found < 0 {
		return fmt.Sprintf("%s: data written at byte %d is lost, and data written at byte 0 is kept: the disk has less room than the %d bytes it reports, or is worn out; do not use it", e.Disk, e.Written, e.Size)
	}
	return fmt.Sprintf("%s: data written at byte %d is found at byte %d: the disk wraps around at %d bytes and reports %d; do not use it",
		e.Disk, e.Written, e.Found, e.Real, e.Size)
}

func (e *FakeError) Kind() string { return fault.Mismatch }

// NoWritesError is a disk that reports success for writes and keeps its old content.
type NoWritesError struct {
	Disk string
	Off  int64 // of the first lost write
}

func (e *NoWritesError) Error() string {
	at := "byte 0"
	if e.Off != 0 {
		at = fmt.Sprintf("bytes %d and 0", e.Off)
	}
	return fmt.Sprintf("%s: the disk takes no writes: it reports success and keeps the old content at %s: it is worn out or write-protected; use another disk", e.Disk, at)
}

func (e *NoWritesError) Kind() string { return fault.Mismatch }
