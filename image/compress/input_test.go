package compress_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"imgtool/image/compress"
)

func TestInputKeepsFirstError(t *testing.T) {
	errDisk := errors.New("bad sector")
	in := &compress.Input{R: io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(errDisk))}
	if b, err := io.ReadAll(in); string(b) != "abc" || err != errDisk || in.Err() != errDisk {
		t.Errorf("%q, %v, kept %v", b, err, in.Err())
	}
	in = &compress.Input{R: strings.NewReader("abc")}
	if _, err := io.ReadAll(in); err != nil || in.Err() != nil {
		t.Errorf("%v, kept %v at the end of the data", err, in.Err())
	}
}
