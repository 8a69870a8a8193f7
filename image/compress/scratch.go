package compress

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"imgtool/image/fault"
)

// DefaultMax is the default of Budget.Max, in bytes.
const DefaultMax = 64 << 30

// Budget limits the total size of the scratch files that share it. The zero value and nil
// allow [DefaultMax].
type Budget struct {
	Max  int64
	used atomic.Int64
}

// Limit returns the total number of bytes that are allowed.
func (b *Budget) Limit() int64 {
	if b == nil {
		return DefaultMax
	}
	return cmp.Or(b.Max, DefaultMax)
}

// TooLargeError says that a stream decompresses to more bytes than the [Budget] allows.
type TooLargeError struct {
	Size int64 // as announced; 0 if not known
	Max  int64
}

func (e *TooLargeError) Error() string {
	const what = "--max-unpacked allows %d: give a larger limit"
	if e.Size == 0 {
		return fmt.Sprintf("it unpacks to more bytes than "+what, e.Max)
	}
	return fmt.Sprintf("it unpacks to %d bytes, and "+what, e.Size, e.Max)
}

// ScratchError says that a scratch file cannot be created or written.
type ScratchError struct {
	Dir string
	Err error
}

func (e *ScratchError) Error() string {
	return fmt.Sprintf("scratch file in %s (TMPDIR sets the directory): %v", e.Dir, e.Err)
}

func (e *ScratchError) Unwrap() error { return e.Err }

func (e *ScratchError) Kind() string { return fault.WriteKind(e.Err) }

// Scratch is a temporary file without a name, which exists until it is closed or the program
// ends. Its size, with holes, counts for a [Budget]. It must not be written by several
// goroutines at once.
type Scratch struct {
	file   *os.File
	dir    string
	budget *Budget
	size   int64
}

// NewScratch creates a scratch file in dir; "" is the directory for temporary files.
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

// unnamed removes the random name of a scratch file from an error.
func unnamed(err error) error {
	if pe, ok := err.(*os.PathError); ok {
		return pe.Err
	}
	return err
}

// File returns the file.
func (s *Scratch) File() *os.File { return s.file }

// Size returns the size of the file.
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

// grow counts the bytes up to end that are new.
func (s *Scratch) grow(end int64) error {
	if end <= s.size {
		return nil
	}
	used := s.budget.used.Add(end - s.size)
	s.size = end
	if used > s.budget.Limit() {
		return &TooLargeError{Max: s.budget.Limit()}
	}
	return nil
}

// Truncate changes the size of the file; a larger one has a hole at its end.
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

// Close closes and removes the file.
func (s *Scratch) Close() error { return s.file.Close() }
