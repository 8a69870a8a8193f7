// Package hostfile opens files that a user names: regular files, and block devices and pipes
// where they make sense. Other kinds of files are refused without opening them, as that
// could block, for example on a FIFO without a writer.
package hostfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
)

// KindError is the error for a file of the wrong kind.
type KindError struct {
	Path, Kind string
	Want       string // such as "a regular file"
}

func (e *KindError) Error() string {
	return fmt.Sprintf("%s is not %s, but %s", e.Path, e.Want, e.Kind)
}

// Open opens a regular file for reading.
func Open(path string) (*os.File, error) {
	return open(path, fs.FileMode.IsRegular, "a regular file")
}

// OpenDisk opens a regular file or a block device for reading.
func OpenDisk(path string) (*os.File, error) {
	return open(path, func(mode fs.FileMode) bool { return mode.IsRegular() || isDisk(mode) }, "a regular file or a disk")
}

// OpenStream opens a regular file for reading, or a pipe that the process inherited:
// /dev/stdin, or /dev/fd/63 as a shell passes <(command).
func OpenStream(path string) (*os.File, error) {
	return open(path, func(mode fs.FileMode) bool {
		return mode.IsRegular() || mode&fs.ModeNamedPipe != 0 && Inherited(path)
	}, "a regular file")
}

// Inherited reports whether path names a file descriptor that the process inherited.
func Inherited(path string) bool { return inherited.MatchString(path) }

var inherited = regexp.MustCompile(`^(/dev/std(in|out|err)|/dev/fd/\d+|/proc/self/fd/\d+)$`)

// ReadFile reads a regular file of up to limit bytes.
func ReadFile(path string, limit int64) ([]byte, error) { return read(path, limit, Open) }

// ReadStream reads a regular file or an inherited pipe, of up to limit bytes.
func ReadStream(path string, limit int64) ([]byte, error) { return read(path, limit, OpenStream) }

// Text is a limit in bytes for files that are written by hand.
const Text = 64 << 20

func read(path string, limit int64, open func(string) (*os.File, error)) ([]byte, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes, the limit for this kind of file", path, limit)
	}
	return b, err
}

func isDisk(mode fs.FileMode) bool {
	return mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0
}

func open(path string, ok func(mode fs.FileMode) bool, want string) (*os.File, error) {
	// Opening some devices has side effects, so check the kind first.
	info, err := os.Stat(path)
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		pathErr.Op = "open"
	}
	if err != nil {
		return nil, err
	}
	if !ok(info.Mode()) {
		return nil, &KindError{path, Kind(info.Mode()), want}
	}
	// O_NONBLOCK: it may have become a FIFO.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err = f.Stat(); err == nil && !ok(info.Mode()) {
		err = &KindError{path, Kind(info.Mode()), want}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Kind returns what a file is, in words.
func Kind(mode fs.FileMode) string {
	switch {
	case mode.IsRegular():
		return "a regular file"
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case isDisk(mode):
		return "a block device"
	case mode&fs.ModeDevice != 0:
		return "a character device"
	}
	return "a special file"
}

// OpenRoot opens a directory. Other files are refused without opening them.
func OpenRoot(dir string) (*os.Root, error) {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = &KindError{dir, Kind(info.Mode()), "a directory"}
	}
	if err != nil {
		return nil, err
	}
	return os.OpenRoot(dir)
}

// DirFS returns a file system of the regular files in a directory.
func DirFS(dir string) fs.FS { return dirFS(dir) }

type dirFS string

func (d dirFS) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	return Open(filepath.Join(string(d), filepath.FromSlash(name)))
}

// Target follows symbolic links and returns the path of the file, which need not exist. A
// program that replaces a file by renaming another needs it to keep the links.
func Target(path string) (string, error) {
	for range 40 {
		to, err := os.Readlink(path)
		if errors.Is(err, fs.ErrNotExist) || err != nil && !isLink(path) {
			return path, nil
		}
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(to) {
			// The directory may be a symbolic link.
			dir, err := filepath.EvalSymlinks(filepath.Dir(path))
			if err != nil {
				return "", err
			}
			to = filepath.Join(dir, to)
		}
		path = to
	}
	return "", fmt.Errorf("%s: too many symbolic links", path)
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err != nil || info.Mode()&fs.ModeSymlink != 0
}
