package fault_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"imgtool/image/fault"
)

func TestPlain(t *testing.T) {
	missing := &fs.PathError{Op: "open", Path: "x.img", Err: syscall.ENOENT}
	for _, c := range []struct {
		err  error
		want string
	}{
		{missing, "x.img does not exist"},
		{fmt.Errorf("seed: %w", missing), "seed: x.img does not exist"},
		{fmt.Errorf("x.img: %w", missing), "x.img does not exist"},
		{fault.New(fault.Gone, "a: %w", fmt.Errorf("x.img: %w", missing)), "a: x.img does not exist"},
		{errors.Join(missing, &fs.PathError{Op: "stat", Path: "y", Err: syscall.EACCES}), "x.img does not exist\ny: permission denied"},
		{&fs.PathError{Op: "stat", Path: "a/b", Err: syscall.ENOTDIR}, "a/b does not exist: a part of the path is not a directory"},
		{&fs.PathError{Op: "open", Path: "d", Err: syscall.EISDIR}, "d is a directory"},
		{&fs.PathError{Op: "read", Path: "d", Err: syscall.EIO}, "reading d: input/output error"},
		{&fs.PathError{Op: "write", Path: "d", Err: syscall.ENOSPC}, "writing d: no space left on device"},
		{&fs.PathError{Op: "open", Path: "/proc/.x.img6308338496731846065", Err: syscall.EACCES}, "cannot write to the directory /proc: permission denied"},
		{&os.LinkError{Op: "rename", Old: ".y1234567", New: "y", Err: syscall.EACCES}, "y: permission denied"},
		{errors.New("plain"), "plain"},
	} {
		if got := fault.Plain(c.err); got != c.want {
			t.Errorf("Plain(%v) = %q, want %q", c.err, got, c.want)
		}
	}
}
