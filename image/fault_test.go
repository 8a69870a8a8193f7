package image_test

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"imgtool/image"
	"imgtool/image/fault"
)

func TestErrorKinds(t *testing.T) {
	gone := fault.New(fault.Gone, "sda is gone")
	for _, c := range []struct {
		err  error
		want string
	}{
		{&image.MismatchError{}, fault.Mismatch},
		{&image.WriteError{Err: errors.New("it failed")}, fault.Write},
		{&image.WriteError{Err: &fs.PathError{Op: "write", Err: fs.ErrPermission}}, fault.Permission},
		{&image.WriteError{Err: fmt.Errorf("writing: %w", gone)}, fault.Gone},
	} {
		if got := fault.Kind(c.err); got != c.want {
			t.Errorf("Kind(%v) = %q, want %q", c.err, got, c.want)
		}
	}
}
