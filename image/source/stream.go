package source

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"imgtool/image"
	"imgtool/image/compress"
	"imgtool/image/tree/tarfs"
)

type kind int

const (
	unknown kind = iota
	tarball
	squash
	packed
)

// kindOf tells by the first 512 bytes what something is.
func kindOf(head []byte) kind {
	switch {
	case len(head) >= 4 && string(head[:4]) == "hsqs":
		return squash
	case compress.Detect(head) != compress.None:
		return packed
	case tarfs.IsTar(head):
		return tarball
	}
	return unknown
}

func sniff(c image.Content) (kind, error) {
	head, err := headOf(c)
	return kindOf(head), err
}

func headOf(c image.Content) ([]byte, error) {
	head := make([]byte, 512)
	n, err := c.ReadAt(head[:min(512, c.Size())], 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return head[:n], nil
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
// as well. A damaged stream is a *CorruptError. What follows the compressed data is an
// error where tar fails too, else a warning with name.
func (o *Opener) unpack(ctx context.Context, name string, r io.Reader, looks func([]byte) error, also io.Writer) (image.Content, error) {
	from := &origin{r: &cancelable{ctx, r}}
	bad := func(err error) error {
		var memory *compress.MemoryError
		var trailing *compress.TrailingError
		switch {
		case from.err != nil:
			return from.err
		case errors.As(err, &memory):
			return err
		case errors.As(err, &trailing):
			return &CorruptError{"compressed stream", fmt.Errorf("%w: it is whole without them; unpack it with %s -dc, or cut them off", trailing, trailing.Format)}
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
	format := compress.Detect(head)
	var opt compress.Options
	if format == compress.Bzip2 && o.opt.Warn != nil {
		// As tar does, which fails where gzip ignores something.
		opt.Trailing = func(n int64) {
			o.opt.Warn(fmt.Sprintf("%s: %d bytes after the end of the bzip2 data are not read, as bzip2 does not read them either", name, n))
		}
	}
	out, err := opt.NewReader(in, format)
	if err != nil {
		return nil, bad(err)
	}
	defer out.Close()
	f, err := compress.NewScratch(o.opt.TempDir, o.opt.Unpacked)
	if err != nil {
		return nil, err
	}
	o.keep(f)
	buf := make([]byte, 1<<20)
	for {
		n := 0
		for err = nil; n < len(buf) && err == nil; {
			var more int
			more, err = out.Read(buf[n:])
			n += more
		}
		if err != nil && err != io.EOF {
			if from.err == nil {
				err = followed(r, format, err)
			}
			return nil, bad(err)
		}
		if f.Size() == 0 {
			if err := looks(buf[:min(n, 512)]); err != nil {
				return nil, err
			}
		}
		if _, err := f.Write(buf[:n]); err != nil {
			return nil, err
		}
		if also != nil {
			also.Write(buf[:n])
		}
		if err == io.EOF {
			return io.NewSectionReader(f.File(), 0, f.Size()), nil
		}
	}
}

// followed makes an error of a decompressor one of what follows the compressed data, if
// they are whole without that and r can be read again.
func followed(r io.Reader, f compress.Format, err error) error {
	c, ok := r.(*io.SectionReader)
	if !ok {
		return err
	}
	end, eerr := compress.End(f, c, 0, c.Size())
	if eerr != nil || end == c.Size() {
		return err
	}
	whole, eerr := compress.NewReader(io.NewSectionReader(c, 0, end), f)
	if eerr != nil {
		return err
	}
	defer whole.Close()
	if _, eerr := io.Copy(io.Discard, whole); eerr != nil {
		return err
	}
	return &compress.TrailingError{Format: f, N: c.Size() - end}
}
