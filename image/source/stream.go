package source

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"imgtool/image"
	"imgtool/image/compress"
	"imgtool/image/erofs"
	"imgtool/image/tree/tarfs"
)

type kind int

const (
	unknown kind = iota
	tarball
	squash
	erofsImage
	packed
)

// formats has the names of file systems that are used as they are.
var formats = map[kind]string{squash: "squashfs", erofsImage: "erofs"}

// headSize is the number of first bytes of a file by which its kind is known.
const headSize = 2048

// kindOf returns the kind of a file by its first headSize bytes.
func kindOf(head []byte) kind {
	switch {
	case len(head) >= 4 && string(head[:4]) == "hsqs":
		return squash
	case len(head) > erofs.SuperOffset && strings.HasPrefix(string(head[erofs.SuperOffset:]), erofs.Magic):
		return erofsImage
	case compress.Detect(head) != compress.None:
		return packed
	case tarfs.IsTar(head):
		return tarball
	}
	return unknown
}

func sniff(c image.Content) (kind, error) {
	head, err := image.Head(c, headSize)
	return kindOf(head), err
}

// rootLike refuses decompressed streams that are no tar, squashfs or erofs by their first
// bytes, before gigabytes are unpacked.
func rootLike(head []byte) error {
	if k := kindOf(head); k != tarball && k != squash && k != erofsImage {
		return errors.New("not a tar, squashfs or erofs after decompression")
	}
	return nil
}

// unpack decompresses r to a scratch file, or copies it if it is not compressed. accept
// checks the first headSize bytes of the result. The result is also written to also, if that is
// not nil. A damaged stream is a *CorruptError. Data after the end of the compressed data are
// an error if tar fails on them too, otherwise a warning about name.
func (o *Opener) unpack(ctx context.Context, name string, r io.Reader, accept func([]byte) error, also io.Writer) (image.Content, error) {
	from := &compress.Input{R: image.NewReader(ctx, r, nil)}
	bad := func(err error) error {
		var extra *compress.TrailingError
		switch {
		case from.Err() != nil:
			return from.Err()
		case errors.As(err, new(*compress.MemoryError)):
			return err
		case errors.As(err, &extra):
			return &CorruptError{"compressed stream", fmt.Errorf("%w: it is complete without them: decompress it with %s -dc, or remove them", extra, extra.Format)}
		case errors.Is(err, io.ErrUnexpectedEOF) || err == io.EOF:
			err = errors.New("cut short")
		}
		return &CorruptError{"compressed stream", err}
	}

	in := bufio.NewReaderSize(from, 1<<20)
	head, _ := in.Peek(512)
	if from.Err() != nil {
		return nil, from.Err()
	}
	format := compress.Detect(head)
	var opt compress.Options
	if format == compress.Bzip2 && o.opt.Warn != nil {
		// tar ignores data after bzip2 data, and fails on data after gzip data.
		opt.Trailing = func(n int64) {
			o.opt.Warn(fmt.Sprintf("%s: %d bytes after the end of the bzip2 data are ignored, as bzip2 does", name, n))
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
	o.keep(f.Close)
	buf := make([]byte, 1<<20)
	for {
		n, err := compress.ReadFull(out, buf)
		if err != nil && err != io.EOF {
			if from.Err() == nil {
				err = trailing(r, format, err)
			}
			return nil, bad(err)
		}
		if f.Size() == 0 {
			if err := accept(buf[:min(n, headSize)]); err != nil {
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

// trailing returns a *[compress.TrailingError] in place of an error of a decompressor, if r can
// be read again and the compressed data are complete without the data after them.
func trailing(r io.Reader, f compress.Format, err error) error {
	c, ok := r.(*io.SectionReader)
	if !ok {
		return err
	}
	end, eerr := compress.End(f, c, 0, c.Size())
	if eerr != nil || end == c.Size() {
		return err
	}
	complete, eerr := compress.NewReader(io.NewSectionReader(c, 0, end), f)
	if eerr != nil {
		return err
	}
	defer complete.Close()
	if _, eerr := io.Copy(io.Discard, complete); eerr != nil {
		return err
	}
	return &compress.TrailingError{Format: f, N: c.Size() - end}
}
