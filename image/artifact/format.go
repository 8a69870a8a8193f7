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
	"fmt"
	"io"
	"strings"

	"imgtool/image/compress"
	"imgtool/image/simg"
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
	Zip // read only
)

func (f Format) String() string {
	return [...]string{"raw", "zstd", "xz", "gzip", "bzip2", "lz4", "Android sparse", "zip"}[f]
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

// MediumPath returns the path of a medium's image, where the images of all media have one
// name: a.img.zst is a-emmc.img.zst.
func MediumPath(path, medium string) string {
	base, suffix, _ := Split(path)
	return base + "-" + medium + suffix
}

// formats are those of compressed images.
var formats = map[compress.Format]Format{compress.Zstd: Zstd, compress.XZ: XZ, compress.Gzip: Gzip, compress.Bzip2: Bzip2, compress.LZ4: LZ4}

// headSize is how many bytes detect looks at.
const headSize = compress.HeadSize

// detect tells the format by the first headSize bytes.
func detect(head []byte) Format {
	if simg.IsSparse(head) {
		return Sparse
	}
	if bytes.HasPrefix(head, []byte(zipMagic)) {
		return Zip
	}
	return formats[compress.Detect(head)] // the zero Format is Raw
}

// unpack reads a stream of a format. trailing hears of bytes behind its end that are
// ignored.
func unpack(f Format, r io.Reader, trailing func(int64)) (io.Reader, error) {
	for packed, format := range formats {
		if format == f {
			return compress.Options{MaxMemory: compress.LargeMemory(), Trailing: trailing}.NewReader(r, packed)
		}
	}
	return r, nil
}
