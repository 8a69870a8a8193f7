// Package compress detects how a stream is compressed ([Detect]), decompresses it in bounded
// memory ([NewReader], [Options]), and stores the result in scratch files of bounded size
// ([Scratch], [Budget]).
//
// The size of the window is chosen by the header of a stream. It is at most
// Options.MaxMemory for zstd and xz; the formats gzip, bzip2 and lz4 limit it to less than
// 10 MiB.
package compress

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"sync"

	"imgtool/image/xz"
)

// Format is a compression format.
type Format int

const (
	None Format = iota
	Gzip
	XZ
	Zstd
	Bzip2
	LZ4
)

func (f Format) String() string {
	return [...]string{"none", "gzip", "xz", "zstd", "bzip2", "lz4"}[f]
}

// HeadSize is the number of bytes that [Detect] needs.
const HeadSize = 10

// Detect returns the format of a stream by its first [HeadSize] bytes, or all of a shorter
// stream.
func Detect(head []byte) Format {
	starts := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }
	switch {
	case starts(gzipMagic + "\x08"):
		return Gzip
	case starts("\xfd7zXZ\x00"):
		return XZ
	case starts(zstdMagic), isSkippable(head): // or lz4: NewReader looks at the next frame
		return Zstd
	case starts("BZh") && len(head) > 3 && (agrees(head[4:], "1AY&SY") || agrees(head[4:], "\x17\x72\x45\x38\x50\x90")): // magic of a block, or of the end of the stream
		return Bzip2
	case starts(lz4Magic), starts(lz4Legacy):
		return LZ4
	}
	return None
}

// agrees reports whether head and magic are equal up to the end of the shorter one.
func agrees(head []byte, magic string) bool {
	n := min(len(head), len(magic))
	return string(head[:n]) == magic[:n]
}

// MaxMemory is the default limit of a zstd window and an xz dictionary, in bytes: the limit
// of zstd without --long, and twice the dictionary of xz -9.
const MaxMemory = xz.MaxDict

// MemoryError says that decompressing a stream needs more memory than the limit.
type MemoryError struct {
	Format Format
	Want   int64 // bytes; 0 if not known
	Max    int64 // bytes
}

func (e *MemoryError) Error() string {
	what := map[Format]string{XZ: "dictionary", Zstd: "window"}[e.Format]
	if e.Want == 0 {
		return fmt.Sprintf("unpacking it takes more than %d MiB of memory: its %s %s is larger", e.Max>>20, e.Format, what)
	}
	return fmt.Sprintf("unpacking it takes more than %d MiB of memory: its %s %s has %d bytes, the limit is %d", e.Max>>20, e.Format, what, e.Want, e.Max)
}

// FilterError says that an xz stream has an unsupported filter.
type FilterError = xz.FilterError

// Options are the options of a decompressor. The zero value is for untrusted streams.
type Options struct {
	// MaxMemory is the limit of a zstd window and an xz dictionary in bytes; 0 is the
	// constant [MaxMemory].
	MaxMemory int64

	// Trailing is called at the end of the stream with the number of bytes after the
	// compressed data, if gzip or bzip2 ignore them too. If it is nil, such bytes are a
	// *[TrailingError]. Zeros after gzip or bzip2 data are always ignored.
	Trailing func(n int64)

	// Ahead decompresses ahead of Read, in other goroutines, and several blocks of xz at
	// once. The input must not be used by others until the reader is closed.
	Ahead bool

	// Sizes are the sizes of all blocks of an xz file, see [xz.ReadSizes]. With Ahead they
	// allow blocks to be decompressed at once whose headers do not have their sizes.
	Sizes []xz.Size
}

// aheadMemory is the limit of the memory for blocks of xz that are decompressed at once.
const aheadMemory = 512 << 20

// TrailingError says that other data follow the compressed data.
type TrailingError struct {
	Format Format
	N      int64 // bytes
}

func (e *TrailingError) Error() string {
	return fmt.Sprintf("%d bytes of other data follow the end of the %s data", e.N, e.Format)
}

// NewReader returns a reader that decompresses r, which has format f, with the zero [Options].
func NewReader(r io.Reader, f Format) (io.ReadCloser, error) { return Options{}.NewReader(r, f) }

// NewReader returns a reader that decompresses r, which has format f. The reader must be
// closed. A window that is too large is a *[MemoryError].
func (o Options) NewReader(r io.Reader, f Format) (io.ReadCloser, error) {
	o.MaxMemory = cmp.Or(o.MaxMemory, MaxMemory)
	var out io.Reader
	var err error
	close := func() {}
	switch f {
	case Gzip:
		out, err = newGzip(r, o.Trailing)
	case XZ:
		if o.Ahead {
			var p *xz.Parallel
			if p, err = xz.NewParallel(r, xz.Options{MaxDict: o.MaxMemory, Memory: min(o.MaxMemory, aheadMemory), Sizes: o.Sizes}); err == nil {
				out, close = p, func() { p.Close() }
			}
			break
		}
		out, err = xz.NewReader(r, o.MaxMemory)
	case Bzip2:
		out = newBzip2(r, o.Trailing)
	case LZ4:
		out = newLZ4(r)
	case Zstd:
		if o.Ahead {
			out, close, err = newFrames(r, o.MaxMemory, newFastZstd)
			break
		}
		out, close, err = newFrames(r, o.MaxMemory, newZstd)
	default:
		out = r
	}
	if err != nil {
		return nil, explain(err)
	}
	if o.Ahead && f != XZ && f != None {
		a := newAhead(out, close)
		out, close = a, a.stop
	}
	return &reader{out, close}, nil
}

type reader struct {
	r     io.Reader
	close func()
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	return n, explain(err)
}

func (r *reader) Close() error {
	r.close()
	return nil
}

// explain replaces a *[xz.DictError] with a *[MemoryError].
func explain(err error) error {
	if dict, ok := errors.AsType[*xz.DictError](err); ok {
		return &MemoryError{XZ, dict.Want, dict.Max}
	}
	return err
}

// Input is the input of a decompressor. It keeps the first error of R, because
// decompressors may replace it: their own errors mean damaged data only if Err is nil. A
// decompressor that reads ahead may still be reading when Err is called.
type Input struct {
	R io.Reader

	mu  sync.Mutex
	err error
}

// Err returns the first error of R, without [io.EOF].
func (i *Input) Err() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.err
}

func (i *Input) Read(p []byte) (int, error) {
	n, err := i.R.Read(p)
	if err != nil && err != io.EOF {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.err = cmp.Or(i.err, err)
	}
	return n, err
}

// ReadFull reads until p is full. Unlike [io.ReadFull] it returns the error of r as it is, so
// that a stream that ends, [io.EOF], differs from a stream that is cut short,
// [io.ErrUnexpectedEOF].
func ReadFull(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = r.Read(p[n:])
		n += k
	}
	return n, err
}

// Limit returns a reader of r that fails if r has more than max bytes.
func Limit(r io.Reader, max int64) io.Reader { return &limited{r, max, max} }

type limited struct {
	r         io.Reader
	left, max int64
}

func (l *limited) Read(p []byte) (int, error) {
	// Read one byte more than is left, to find out whether there is one.
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, fmt.Errorf("it has more than the limit of %d bytes", l.max)
	}
	return n, err
}
