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

// ReadError is an error of reading an open file, as from a medium with bad sectors.
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

// NewReaderAt returns a reader of r, the file at path. Its errors are *[ReadError]s, except
// for io.EOF.
func NewReaderAt(path string, r io.ReaderAt) io.ReaderAt { return &readerAt{path, r} }

type readerAt struct {
	path string
	r    io.ReaderAt
}

func (r *readerAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.r.ReadAt(p, off)
	return n, readError(r.path, off+int64(n), err)
}

// NewReader returns a reader of r, the file with the given name. Its errors are
// *[ReadError]s, except for io.EOF.
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

// CheckOutput checks that a regular file can be made or replaced at path: its directory
// exists and is writable, and path is not a file of another kind. It leaves nothing behind.
func CheckOutput(path string) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return &KindError{path, Kind(info.Mode()), "a regular file"}
	}
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: the directory %s does not exist", path, dir)
	case err != nil:
		return fmt.Errorf("%s: its directory: %w", path, err)
	case !info.IsDir():
		return fmt.Errorf("%s: %s is not a directory", path, dir)
	}
	err = tryWrite(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EOPNOTSUPP) {
		return fault.New(fault.Write, "%s: no file can be made in the directory %s", path, dir)
	}
	if err != nil {
		return fault.New(fault.WriteKind(err), "%s: the directory %s is not writable: %w", path, dir, err)
	}
	return nil
}

// tryWrite checks that files can be made in a directory. Root may write to every directory, but
// not every file system has directories that take files: /proc has none.
func tryWrite(dir string) error {
	err := unix.Access(dir, unix.W_OK|unix.X_OK)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".imgtool-")
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return pathErr.Err
	}
	if err != nil {
		return err
	}
	f.Close()
	return os.Remove(f.Name())
}
