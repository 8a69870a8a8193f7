package source

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/bzip2"
	"context"
	"errors"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"imgtool/image"
	"imgtool/image/tree"
	"imgtool/image/xz"
)

type kind int

const (
	unknown kind = iota
	tarball
	squash
	gz
	xzip
	zst
	bz2
)

func (k kind) compressed() bool { return k >= gz }

// kindOf tells by the first 512 bytes what something is.
func kindOf(head []byte) kind {
	switch {
	case bytes.HasPrefix(head, []byte("hsqs")):
		return squash
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}):
		return gz
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return xzip
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(head) > 4 && head[0]&0xf0 == 0x50 && bytes.HasPrefix(head[1:], []byte{0x2a, 0x4d, 0x18}): // a skippable frame
		return zst
	case len(head) > 10 && bytes.HasPrefix(head, []byte("BZh")) && bytes.Equal(head[4:10], []byte{0x31, 0x41, 0x59, 0x26, 0x53, 0x59}):
		return bz2
	case tree.IsTar(head):
		return tarball
	}
	return unknown
}

func sniff(c image.Content) (kind, error) {
	head := make([]byte, 512)
	n, err := c.ReadAt(head[:min(512, c.Size())], 0)
	if err != nil && err != io.EOF {
		return unknown, err
	}
	return kindOf(head[:n]), nil
}

// rootLike looks at the first bytes of an unpacked stream, so that the many
// gigabytes of something else are not unpacked for nothing.
func rootLike(head []byte) error {
	if k := kindOf(head); k != tarball && k != squash {
		return errors.New("neither a tar nor a squashfs when unpacked")
	}
	return nil
}

// origin is a reader that remembers how it ended. A decompressor's error says
// that the data are bad only where their origin had none.
type origin struct {
	r   io.Reader
	err error
}

func (s *origin) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// unpack decompresses r, or copies it where it is not compressed, into a scratch
// file; looks may refuse it by its first 512 bytes. What is unpacked goes to also
// as well. A damaged stream is a *CorruptError.
func (o *Opener) unpack(ctx context.Context, r io.Reader, looks func([]byte) error, also io.Writer) (image.Content, error) {
	from := &origin{r: &cancelable{ctx, r}}
	bad := func(err error) error {
		switch {
		case from.err != nil:
			return from.err
		case errors.Is(err, zstd.ErrWindowSizeExceeded):
			return errors.New("unpacking it takes more than 128 MiB of memory")
		case errors.Is(err, io.ErrUnexpectedEOF) || err == io.EOF:
			err = errors.New("cut short")
		}
		return &CorruptError{"compressed stream", err}
	}

	in := bufio.NewReaderSize(from, 1<<20)
	head, _ := in.Peek(512)
	if from.err != nil {
		return nil, from.err
	}
	var out io.Reader
	var err error
	k := kindOf(head)
	switch k {
	case gz:
		out, err = gzip.NewReader(in)
	case xzip:
		out, err = xz.NewReader(in)
	case bz2:
		out, err = bzip2.NewReader(in), nil
	case zst:
		var d *zstd.Decoder
		// What zstd itself takes without being told otherwise.
		if d, err = zstd.NewReader(in, zstd.WithDecoderMaxWindow(128<<20)); err == nil {
			defer d.Close()
			out = d
		}
	default:
		out, err = in, nil
	}
	if err != nil {
		return nil, bad(err)
	}

	f, err := os.CreateTemp(o.opt.TempDir, "imgtool-*")
	if err != nil {
		return nil, reason("scratch file in "+cmp.Or(o.opt.TempDir, os.TempDir())+" (TMPDIR names another folder)", err)
	}
	os.Remove(f.Name())
	o.keep(f)
	buf := make([]byte, 1<<20)
	var size int64
	for {
		n := 0
		for err = nil; n < len(buf) && err == nil; {
			var more int
			more, err = out.Read(buf[n:])
			n += more
		}
		if err != nil && err != io.EOF {
			return nil, bad(err)
		}
		if size == 0 {
			if err := looks(buf[:min(n, 512)]); err != nil {
				return nil, err
			}
		}
		if _, err := f.Write(buf[:n]); err != nil {
			return nil, reason("scratch file in "+cmp.Or(o.opt.TempDir, os.TempDir())+" (TMPDIR names another folder)", err)
		}
		if also != nil {
			also.Write(buf[:n])
		}
		size += int64(n)
		if err == io.EOF {
			return io.NewSectionReader(f, 0, size), nil
		}
	}
}
