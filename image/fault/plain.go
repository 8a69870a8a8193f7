package fault

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"imgtool/image/suggest"
)

// Plain returns the text of an error in which the errors of system calls on files are in plain
// words: "x.img does not exist" instead of "open x.img: no such file or directory".
func Plain(err error) string {
	return Replacer(err).Replace(err.Error())
}

// Replacer replaces in parts of an error's text what [Plain] replaces in the whole.
func Replacer(err error) *strings.Replacer {
	var pairs []string
	walk(err, func(e error) {
		if path, text := plain(e); text != "" {
			// The path may be named twice, as in "x.img: open x.img: ...".
			pairs = append(pairs, path+": "+e.Error(), text, e.Error(), text)
		}
	})
	return strings.NewReplacer(pairs...)
}

// walk calls do for err and all errors that it wraps.
func walk(err error, do func(error)) {
	if err == nil {
		return
	}
	do(err)
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		walk(e.Unwrap(), do)
	case interface{ Unwrap() []error }:
		for _, e := range e.Unwrap() {
			walk(e, do)
		}
	}
}

// temporary matches names of files that are renamed when they are complete.
var temporary = regexp.MustCompile(`^\..*\d{6,}$`)

// plain returns the path of an error of a system call, and the error in words. The text is empty
// for other errors.
func plain(err error) (path, text string) {
	var op string
	switch e := err.(type) {
	case *fs.PathError:
		op, path, err = e.Op, e.Path, e.Err
	case *os.LinkError:
		op, path, err = e.Op, e.New, e.Err
	default:
		return "", ""
	}
	dir, name := filepath.Split(path)
	switch {
	case op == "read" || op == "pread":
		return path, fmt.Sprintf("reading %s: %v", path, err)
	case temporary.MatchString(name):
		return path, fmt.Sprintf("cannot write to the directory %s: %v", filepath.Clean(dir), err)
	case op == "write" || op == "pwrite" || op == "sync" || op == "fsync":
		return path, fmt.Sprintf("writing %s: %v", path, err)
	case errors.Is(err, fs.ErrNotExist):
		return path, path + " does not exist" + suggest.Missing(path)
	case errors.Is(err, syscall.ELOOP):
		return path, path + " is a symbolic link that leads back to itself"
	case errors.Is(err, syscall.ENOTDIR) && exists(path):
		return path, path + " is not a directory"
	case errors.Is(err, syscall.ENOTDIR):
		return path, path + " does not exist: a part of the path is not a directory"
	case errors.Is(err, syscall.EISDIR):
		return path, path + " is a directory"
	case errors.Is(err, fs.ErrExist):
		return path, path + " exists already"
	}
	return path, fmt.Sprintf("%s: %v", path, err)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
