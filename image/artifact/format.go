// Package artifact is an image as a file: raw and sparse (.img), as seekable
// zstd (.img.zst), as xz or gzip, with its manifest and block map.
//
// An .img.zst is a skippable frame that holds the manifest, a frame for every
// piece of image.PieceSize, and the table of the zstd seekable format; holes are
// frames of a few hundred bytes. So one file proves itself, through a pipe too,
// any byte can be read without unpacking the rest, and any zstd unpacks it.
package artifact

import (
	"bytes"
	"compress/bzip2"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"imgtool/image/simg"
	"imgtool/image/xz"
)

// Format is how an image is packed.
type Format int

const (
	Raw Format = iota
	Zstd
	XZ
	Gzip
	Bzip2 // read only
	LZ4   // read only
	Sparse
)

func (f Format) String() string {
	return [...]string{"raw", "zstd", "xz", "gzip", "bzip2", "lz4", "Android sparse"}[f]
}

// Suffixes of the files Save writes.
var suffixes = map[string]Format{".img": Raw, ".img.zst": Zstd, ".img.xz": XZ, ".img.gz": Gzip, ".simg": Sparse}

// FormatOf is the format that a file's name asks for.
func FormatOf(name string) (Format, error) {
	_, suffix, err := Split(name)
	return suffixes[suffix], err
}

// Split parts a file's name from the ending that says the format.
func Split(name string) (base, suffix string, err error) {
	for suffix := range suffixes {
		if base, ok := strings.CutSuffix(name, suffix); ok {
			return base, suffix, nil
		}
	}
	return "", "", fmt.Errorf("%s: the name must end in .img, .img.zst, .img.xz, .img.gz or .simg", name)
}

// detect tells the format by the first bytes: 8 are enough.
func detect(head []byte) Format {
	switch {
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")), len(head) >= 4 && head[0]&0xf0 == 0x50 && string(head[1:4]) == "\x2a\x4d\x18":
		return Zstd
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		return XZ
	case bytes.HasPrefix(head, []byte("\x1f\x8b\x08")):
		return Gzip
	case bytes.HasPrefix(head, []byte("BZh")):
		return Bzip2
	case bytes.HasPrefix(head, []byte("\x04\x22\x4d\x18")):
		return LZ4
	case simg.IsSparse(head):
		return Sparse
	}
	return Raw
}

// maxWindow bounds what a compressed stream may make the reader keep.
const maxWindow = 128 << 20

// unpack reads a stream of a format.
func unpack(f Format, r io.Reader) (io.Reader, error) {
	switch f {
	case Zstd:
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case XZ:
		return xz.NewReader(r)
	case Gzip:
		return gzip.NewReader(r)
	case Bzip2:
		return bzip2.NewReader(r), nil
	case LZ4:
		return lz4.NewReader(r), nil
	}
	return r, nil
}
