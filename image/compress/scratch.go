package compress

import (
	"cmp"
	"fmt"
	"imgtool/image/fault"
	"io"
	"os"
	"sync/atomic"
)

// DefaultMax is how much a command unpacks where nothing else is asked for.
const DefaultMax = 64 << 30

// Budget bounds what is unpacked into scratch files: all of those of a command
// together. The zero value and nil allow DefaultMax.
type Budget struct {
	Max  int64
	used atomic.Int64
}

// Limit is how many bytes may be unpacked in all.
func (b *Budget) Limit() int64 {
	if b == nil {
		return DefaultMax
	}
	return cmp.Or(b.Max, DefaultMax)
}

// take counts n bytes.
func (b *Budget) take(n int64) error {
	if b.used.Add(n) > b.Limit() {
		return &TooLargeError{Max: b.Limit()}
	}
	return nil
}

// TooLargeError is something that unpacks to more than is allowed.
type TooLargeError struct {
	Size int64 // what it says of itself; 0 if not known
	Max  int64
}

func (e *TooLargeError) Error() string {
	const what = "--max-unpacked allows %d; give a larger one to unpack it all the same"
	if e.Size == 0 {
		return fmt.Sprintf("it unpacks to more bytes than "+what, e.Max)
	}
	return fmt.Sprintf("it unpacks to %d bytes, and "+what, e.Size, e.Max)
}

// ScratchError is a scratch file that cannot be made or written.
type ScratchError struct {
	Dir string
	Err error
}

func (e *ScratchError) Error() string {
	return fmt.Sprintf("scratch file in %s (TMPDIR names another folder): %v", e.Dir, e.Err)
}

func (e *ScratchError) Unwrap() error { return e.Err }

func (e *ScratchError) Kind() string { return fault.WriteKind(e.Err) }

// Scratch is a file without a name: it is gone when it is closed or the program ends.
// What is written to it counts for a Budget, up to the last byte: holes count too.
// It is written by one goroutine at a time.
type Scratch struct {
	file   *os.File
	dir    string
	budget *Budget
	size   int64
}

// NewScratch makes a scratch file in dir; "" is the system's directory for temporary
// files.
func NewScratch(dir string, b *Budget) (*Scratch, error) {
	dir = cmp.Or(dir, os.TempDir())
	f, err := os.CreateTemp(dir, "imgtool-*")
	if err == nil {
		if err = os.Remove(f.Name()); err != nil {
			f.Close()
		}
	}
	if err != nil {
		return nil, &ScratchError{dir, unnamed(err)}
	}
	if b == nil {
		b = new(Budget)
	}
	return &Scratch{file: f, dir: dir, budget: b}, nil
}

// unnamed leaves out the made-up name of a scratch file.
func unnamed(err error) error {
	if pe, ok := err.(*os.PathError); ok {
		return pe.Err
	}
	return err
}

// File is the file itself.
func (s *Scratch) File() *os.File { return s.file }

// Size is one more than the offset of the last byte.
func (s *Scratch) Size() int64 { return s.size }

func (s *Scratch) Write(p []byte) (int, error) { return s.WriteAt(p, s.size) }

func (s *Scratch) WriteAt(p []byte, off int64) (int, error) {
	if err := s.grow(off + int64(len(p))); err != nil {
		return 0, err
	}
	n, err := s.file.WriteAt(p, off)
	if err != nil {
		err = &ScratchError{s.dir, unnamed(err)}
	}
	return n, err
}

// grow counts what comes to the file.
func (s *Scratch) grow(end int64) error {
	if end <= s.size {
		return nil
	}
	err := s.budget.take(end - s.size)
	s.size = end
	return err
}

// Truncate makes the file size bytes long, with a hole at its end where it grows.
func (s *Scratch) Truncate(size int64) error {
	if err := s.grow(size); err != nil {
		return err
	}
	s.size = size
	if err := s.file.Truncate(size); err != nil {
		return &ScratchError{s.dir, unnamed(err)}
	}
	return nil
}

func (s *Scratch) ReadAt(p []byte, off int64) (int, error) {
	if off >= s.size {
		return 0, io.EOF
	}
	return s.file.ReadAt(p, off)
}

// Close removes the file.
func (s *Scratch) Close() error { return s.file.Close() }
