package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// AccessError is the error for a file or directory that other users can change or read. It
// matches [fs.ErrPermission].
type AccessError struct {
	Path string // of the directory, or of a parent
	Why  string
	Fix  string // command that fixes it, or ""
}

func (e *AccessError) Error() string { return e.Path + " " + e.Why }

func (e *AccessError) Is(target error) bool { return target == fs.ErrPermission }

// maxLinks is the number of symbolic links that Linux follows in one path.
const maxLinks = 40

// MakePrivate makes a directory with mode 0700, with its parents, or checks an existing one.
// It returns an *[AccessError] if another user can change the directory: it must belong to
// this user and not be writable by others. Each parent must belong to this user or root
// and not be writable by others, unless it has the sticky bit, as /tmp has: others cannot
// replace entries of this user or root there.
//
// The check has no race, as only root and this user can change a directory that passed.
func MakePrivate(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	at, rest := "/", split(path)
	top, err := os.Lstat(at)
	if err != nil {
		return err
	}
	if err := private(at, top, len(rest) == 0); err != nil {
		return err
	}
	for links := 0; len(rest) > 0; {
		if rest[0] == ".." {
			at, rest = filepath.Dir(at), rest[1:]
			continue
		}
		next := filepath.Join(at, rest[0])
		info, err := os.Lstat(next)
		if errors.Is(err, fs.ErrNotExist) {
			if err = os.Mkdir(next, 0o700); err == nil || errors.Is(err, fs.ErrExist) {
				info, err = os.Lstat(next)
			}
		}
		if err != nil {
			return err
		}
		rest = rest[1:]
		if err := private(next, info, len(rest) == 0); err != nil {
			return err
		}
		if info.Mode().Type() != fs.ModeSymlink {
			at = next
			continue
		}
		target, err := os.Readlink(next)
		if err != nil {
			return err
		}
		if links++; links > maxLinks {
			return &fs.PathError{Op: "open", Path: path, Err: syscall.ELOOP}
		}
		rest = slices.Concat(split(target), rest)
		if filepath.IsAbs(target) {
			if at = "/"; len(rest) == 0 {
				return &AccessError{Path: path, Why: "leads to /"}
			}
		}
	}
	// The path may end in a symbolic link or "..".
	info, err := os.Lstat(at)
	if err != nil {
		return err
	}
	return private(at, info, true)
}

func split(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s == "." })
}

// private checks a directory on the path, or a symbolic link to one. The checks of the
// last directory are stricter.
func private(path string, info fs.FileInfo, last bool) error {
	me, owner := os.Geteuid(), ownerOf(info)
	link := info.Mode().Type() == fs.ModeSymlink
	switch {
	case !link && !info.IsDir():
		return &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
	case owner != me && (owner != 0 || last && !link):
		return &AccessError{Path: path, Why: fmt.Sprintf("belongs to user %d, not to the current user %d", owner, me)}
	case link:
		return nil
	case info.Mode().Perm()&0o022 != 0 && (last || info.Mode()&fs.ModeSticky == 0):
		return &AccessError{Path: path, Why: fmt.Sprintf("has mode %04o: others than its owner can write to it", info.Mode().Perm()),
			Fix: "chmod go-w " + path}
	}
	return nil
}

func ownerOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

// ReadKey reads a secret key for [Open] from a file, which must have 32 bytes to 64 KiB and
// be accessible to this user only.
func ReadKey(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	case ownerOf(info) != os.Geteuid():
		return nil, &AccessError{Path: path, Why: fmt.Sprintf("belongs to user %d, not to the current user %d", ownerOf(info), os.Geteuid())}
	case info.Mode().Perm()&0o077 != 0:
		return nil, &AccessError{Path: path, Why: fmt.Sprintf("has mode %04o: others than its owner can use it", info.Mode().Perm()), Fix: "chmod 600 " + path}
	case info.Size() < minKey || info.Size() > maxKey:
		return nil, fmt.Errorf("%s has %d bytes; a key has %d to %d", path, info.Size(), minKey, maxKey)
	}
	key := make([]byte, info.Size())
	if _, err := f.ReadAt(key, 0); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

const minKey, maxKey = 32, 64 << 10
