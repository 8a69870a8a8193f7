// Package compress tells by its first bytes how a stream is compressed, unpacks it in
// bounded memory, and keeps what was unpacked in scratch files whose size is bounded.
//
// The memory for history, which a few bytes of a header ask for, is at most
// Options.MaxMemory for zstd and xz; gzip, bzip2 and lz4 need less than 10 MiB by their
// formats.
package compress

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"imgtool/image/xz"
)

// Format is how a stream is compressed.
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

// HeadSize is how many bytes Detect looks at.
const HeadSize = 10

// Detect tells the format by the first HeadSize bytes, or fewer where there are no more.
func Detect(head []byte) Format {
	starts := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }
	switch {
	case starts("\x1f\x8b\x08"):
		return Gzip
	case starts("\xfd7zXZ\x00"):
		return XZ
	case starts(zstdMagic), isSkippable(head): // NewReader looks what follows a skippable frame
		return Zstd
	case starts("BZh") && len(head) > 3 && (follows(head[4:], "1AY&SY") || follows(head[4:], "\x17\x72\x45\x38\x50\x90")): // a block, or the end
		return Bzip2
	case starts(lz4Magic), starts(lz4Legacy):
		return LZ4
	}
	return None
}

// follows says whether head begins with magic, as far as it goes.
func follows(head []byte, magic string) bool {
	n := min(len(head), len(magic))
	return string(head[:n]) == magic[:n]
}

// MaxMemory bounds a zstd window and an xz dictionary where no other limit is given: what
// zstd accepts without --long, and twice what xz -9 uses.
const MaxMemory = xz.MaxDict

// MemoryError is a stream that needs more memory than the limit.
type MemoryError struct {
	Format Format
	Want   int64 // 0 if not known
	Max    int64
}

func (e *MemoryError) Error() string {
	what := map[Format]string{XZ: "dictionary", Zstd: "window"}[e.Format]
	if e.Want == 0 {
		return fmt.Sprintf("unpacking it takes more than %d MiB of memory: its %s %s is larger than that", e.Max>>20, e.Format, what)
	}
	return fmt.Sprintf("unpacking it takes more than %d MiB of memory: its %s %s has %d bytes, the limit is %d", e.Max>>20, e.Format, what, e.Want, e.Max)
}

// Options are how a stream is unpacked. The zero value is for streams from anybody.
type Options struct {
	// MaxMemory bounds a zstd window and an xz dictionary; 0 is the constant MaxMemory.
	MaxMemory int64

	// Trailing is called when the stream has ended, with the number of bytes behind the
	// end of the compressed data that gzip or bzip2 would ignore as well. nil makes such
	// bytes a *TrailingError. Zeros behind gzip or bzip2 are always ignored.
	Trailing func(n int64)
}

// TrailingError is data behind the end of the compressed data.
type TrailingError struct {
	Format Format
	N      int64 // bytes
}

func (e *TrailingError) Error() string {
	return fmt.Sprintf("%d bytes that are not %s data follow the end of the %s data", e.N, e.Format, e.Format)
}

// NewReader unpacks r, which is in the format, with the zero Options.
func NewReader(r io.Reader, f Format) (io.ReadCloser, error) { return Options{}.NewReader(r, f) }

// NewReader unpacks r, which is in the format.
func (o Options) NewReader(r io.Reader, f Format) (io.ReadCloser, error) {
	o.MaxMemory = cmp.Or(o.MaxMemory, MaxMemory)
	var out io.Reader
	var err error
	close := func() {}
	switch f {
	case Gzip:
		out, err = newGzip(r, o.Trailing)
	case XZ:
		out, err = xz.NewReader(r, o.MaxMemory)
	case Bzip2:
		out = newBzip2(r, o.Trailing)
	case LZ4:
		out = newLZ4(r)
	case Zstd:
		out, close, err = newFrames(r, o.MaxMemory)
	default:
		out = r
	}
	if err != nil {
		return nil, o.explain(f, err)
	}
	return &reader{out, f, o, close}, nil
}

type reader struct {
	r     io.Reader
	f     Format
	o     Options
	close func()
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		err = r.o.explain(r.f, err)
	}
	return n, err
}

func (r *reader) Close() error {
	r.close()
	return nil
}

// explain makes the refusals of the libraries one kind of error.
func (o Options) explain(f Format, err error) error {
	var dict *xz.DictError
	var memory *MemoryError
	switch {
	case errors.As(err, &memory):
		return memory
	case errors.As(err, &dict):
		return &MemoryError{f, dict.Want, dict.Max}
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return &MemoryError{f, 0, o.MaxMemory}
	}
	return err
}

// Limit reads r, which ends in an error if it has more than most bytes.
func Limit(r io.Reader, most int64) io.Reader { return &limited{r, most, most} }

type limited struct {
	r          io.Reader
	left, most int64
}

func (l *limited) Read(p []byte) (int, error) {
	// One byte more tells what is too long from what is not.
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, fmt.Errorf("it has more than the limit of %d bytes", l.most)
	}
	return n, err
}
