package hostfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"imgtool/image/fault"
)

// ReadError is a file that was opened and cannot be read at a place, as from a medium
// with bad sectors.
type ReadError struct {
	Path string
	Off  int64
	Err  error
}

func (e *ReadError) Error() string {
	return fmt.Sprintf("%s: reading at byte %d: %v", e.Path, e.Off, e.Err)
}
func (e *ReadError) Unwrap() error { return e.Err }
func (e *ReadError) Kind() string  { return fault.Corrupt }

// NewReaderAt reads from r, which is the file at a path. Errors but io.EOF are
// *ReadErrors.
func NewReaderAt(path string, r io.ReaderAt) io.ReaderAt { return &readerAt{path, r} }

type readerAt struct {
	path string
	r    io.ReaderAt
}

func (r *readerAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.r.ReadAt(p, off)
	return n, readError(r.path, off+int64(n), err)
}

// NewReader reads from r, which has a name for messages. Errors but io.EOF are
// *ReadErrors.
func NewReader(name string, r io.Reader) io.Reader { return &reader{name: name, r: r} }

type reader struct {
	name string
	r    io.Reader
	off  int64
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.off += int64(n)
	return n, readError(r.name, r.off, err)
}

func readError(path string, off int64, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathErr.Err
	}
	return &ReadError{path, off, err}
}

// OutputError is a file that cannot be made because its directory cannot be written.
type OutputError struct {
	Path, Dir string
	Err       error
}

func (e *OutputError) Error() string {
	return fmt.Sprintf("%s: the directory %s cannot be written: %v", e.Path, e.Dir, e.Err)
}
func (e *OutputError) Unwrap() error { return e.Err }
func (e *OutputError) Kind() string  { return fault.WriteKind(e.Err) }

// CheckOutput says why no regular file can be made at a path, or take the place of the
// one that is there: its directory is missing, is none or cannot be written (an
// *OutputError), or something else has its name. Nothing is made.
func CheckOutput(path string) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return &KindError{path, kind(info.Mode()), "a regular file"}
	}
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: there is no directory %s to write it to", path, dir)
	case err != nil:
		return fmt.Errorf("%s: the directory to write it to: %w", path, err)
	case !info.IsDir():
		return fmt.Errorf("%s: %s is not a directory", path, dir)
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return &OutputError{path, dir, err}
	}
	return nil
}
