// Package artifact reads and writes images as files, with their manifests and block maps.
//
// [Save] writes raw images with holes (.img), Android sparse images (.simg), and images
// compressed with zstd, xz or gzip. [Open] opens the files that can be read at any offset,
// [StreamFile] and [Stream] the others, from front to back. [Replace] and [Patch]
// change a part of a file.
//
// An .img.zst is in the zstd seekable format: a frame for each range of [image.PieceSize], a
// skippable frame with the manifest after the first of them, a skippable frame with
// checksums of the file, and the table of frames. So the file needs no manifest beside it, is
// verified through a pipe too, can be read at any offset without decompressing the rest, and
// any zstd decompresses it. A hole takes four bytes for 128 KiB. An .img.xz is one stream of
// blocks for each range of [image.PieceSize], an .img.gz is one member.
package artifact

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"imgtool/image/compress"
	"imgtool/image/simg"
	"imgtool/image/zip"
)

// Format is the file format of an image.
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

// suffixes has the suffixes of the files that Save writes.
var suffixes = map[string]Format{".img": Raw, ".img.zst": Zstd, ".img.xz": XZ, ".img.gz": Gzip, ".simg": Sparse}

// FormatOf returns the format for the suffix of a file name.
func FormatOf(name string) (Format, error) {
	_, suffix, err := Split(name)
	return suffixes[suffix], err
}

// Split splits a file name before the suffix that gives the format.
func Split(name string) (base, suffix string, err error) {
	for suffix := range suffixes {
		if base, ok := strings.CutSuffix(name, suffix); ok {
			return base, suffix, nil
		}
	}
	return "", "", fmt.Errorf("%s: the name must end in .img, .img.zst, .img.xz, .img.gz or .simg", name)
}

// MediumPath returns the path of the image of a medium of a board with several media:
// a.img.zst becomes a-emmc.img.zst.
func MediumPath(path, medium string) string {
	base, suffix, _ := Split(path)
	return base + "-" + medium + suffix
}

// compressed has the formats of compressed raw images.
var compressed = map[compress.Format]Format{compress.Zstd: Zstd, compress.XZ: XZ, compress.Gzip: Gzip, compress.Bzip2: Bzip2, compress.LZ4: LZ4}

// headSize is the number of bytes that detect needs.
const headSize = compress.HeadSize

// detect returns the format of a file by its first headSize bytes.
func detect(head []byte) Format {
	if simg.IsSparse(head) {
		return Sparse
	}
	if bytes.HasPrefix(head, []byte(zip.Magic)) {
		return Zip
	}
	return compressed[compress.Detect(head)] // the zero Format is Raw
}

// unpack returns a reader that decompresses r. It must be closed.
func unpack(f Format, r io.Reader, opt compress.Options) (io.ReadCloser, error) {
	for packed, format := range compressed {
		if format == f {
			return opt.NewReader(r, packed)
		}
	}
	return io.NopCloser(r), nil
}
