// Package codec has the compressions of squashfs: gzip, xz, lz4 and zstd.
//
// The encoders of a codec at one level, built with the same libraries, return the same
// bytes for the same input.
package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/zlib"
	kzstd "github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"imgtool/image/suggest"
)

// Encoder compresses src. It returns dst resliced, if that has the capacity, or a
// new slice, or src if that cannot be compressed. The result may be longer than src.
// It is used by one goroutine.
type Encoder func(dst, src []byte) ([]byte, error)

// Decoder decompresses src into dst and returns the number of bytes. It is an error
// if they do not fit in dst. It is used by one goroutine at a time.
type Decoder func(dst, src []byte) (int, error)

// Codec is a compression of squashfs.
type Codec struct {
	Name    string
	ID      uint16 // in the superblock
	library string // name and version
	// The levels are min to max; max is 0 for a codec without levels. level is the
	// default; 0 is a default that has no number.
	min, max, level int

	Options    func(level int) []byte // compressor options, nil for the defaults of the format
	NewEncoder func(level, blockSize int) (Encoder, error)
	NewDecoder func(blockSize int) (Decoder, error)
}

var codecs = []Codec{
	{
		Name: "gzip", ID: 1, library: module("klauspost", "github.com/klauspost/compress"),
		min: 1, max: 9, level: 9,
		Options: func(level int) []byte {
			if level == 9 {
				return nil
			}
			// Compression level; window bits and strategies, 16 bits each.
			return words(uint32(level), 15)
		},
		NewEncoder: gzipEncoder,
		NewDecoder: gzipDecoder,
	},
	{
		Name: "xz", ID: 4, library: module("ulikunitz", "github.com/ulikunitz/xz"),
		Options:    func(int) []byte { return nil }, // the default dictionary is the block size
		NewEncoder: xzEncoder,
		NewDecoder: xzDecoder,
	},
	{
		Name: "lz4", ID: 5, library: module("pierrec", "github.com/pierrec/lz4/v4"),
		min: 1, max: 9,
		Options: func(level int) []byte {
			// Version 1, flags; flag 1 is high compression.
			return words(1, uint32(min(level, 1)))
		},
		NewEncoder: lz4Encoder,
		NewDecoder: lz4Decoder,
	},
	{
		Name: "zstd", ID: 6, library: zstdLibrary,
		min: 1, max: zstdMax, level: zstdDefault,
		Options: func(level int) []byte {
			if level == 15 {
				return nil
			}
			return words(uint32(level))
		},
		NewEncoder: zstdEncoder,
		NewDecoder: zstdDecoder,
	},
}

// words encodes compressor options.
func words(w ...uint32) (b []byte) {
	for _, w := range w {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

// ByID returns the codec with a number in the superblock, or nil.
func ByID(id uint16) *Codec {
	for i := range codecs {
		if codecs[i].ID == id {
			return &codecs[i]
		}
	}
	return nil
}

// Parse parses a compression such as "zstd:9".
func Parse(compression string) (*Codec, int, error) {
	if compression == "" {
		compression = "zstd"
	}
	name, text, hasLevel := strings.Cut(compression, ":")
	for i := range codecs {
		c := &codecs[i]
		if c.Name != name {
			continue
		}
		if !hasLevel {
			return c, c.level, nil
		}
		level, err := strconv.Atoi(text)
		switch {
		case c.max == 0:
			return nil, 0, fmt.Errorf("compression %q: %s (%s) has no levels", compression, c.Name, c.library)
		case err != nil || level < c.min || level > c.max:
			return nil, 0, fmt.Errorf("compression %q: %s (%s) has the levels %d to %d", compression, c.Name, c.library, c.min, c.max)
		}
		return c, level, nil
	}
	names := []string{"zstd", "gzip", "xz", "lz4"}
	return nil, 0, fmt.Errorf("compression %q is unknown: it must be %s%s", compression, suggest.Or(names), suggest.DidYouMean(name, names))
}

// Describe returns the name of a compression with its level and library, such as
// "zstd:9 (libzstd 1.5.7)". The same name and the same tree give the same bytes.
func Describe(compression string) (string, error) {
	c, level, err := Parse(compression)
	if err != nil {
		return "", err
	}
	if level == 0 {
		return fmt.Sprintf("%s (%s)", c.Name, c.library), nil
	}
	return fmt.Sprintf("%s:%d (%s)", c.Name, level, c.library), nil
}

// module returns name with the version of the Go module at path that is built into
// the program, if known.
func module(name, path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Replace != nil {
				m = m.Replace
			}
			if m.Path == path && m.Version != "" {
				return name + " " + strings.TrimPrefix(m.Version, "v")
			}
		}
	}
	return name
}

func gzipEncoder(level, _ int) (Encoder, error) {
	w, err := zlib.NewWriterLevel(io.Discard, level)
	if err != nil {
		return nil, err
	}
	return func(dst, src []byte) ([]byte, error) {
		out := bytes.NewBuffer(dst[:0])
		w.Reset(out)
		return finish(out, w, src)
	}, nil
}

// finish writes src to w, which compresses into out, and returns the content of out.
func finish(out *bytes.Buffer, w io.WriteCloser, src []byte) ([]byte, error) {
	if _, err := w.Write(src); err != nil {
		return nil, err
	}
	err := w.Close()
	return out.Bytes(), err
}

func gzipDecoder(int) (Decoder, error) {
	var r io.ReadCloser
	return func(dst, src []byte) (int, error) {
		var err error
		if r == nil {
			r, err = zlib.NewReader(bytes.NewReader(src))
		} else {
			err = r.(zlib.Resetter).Reset(bytes.NewReader(src), nil)
		}
		if err != nil {
			return 0, err
		}
		return fill(dst, r)
	}, nil
}

// kernelWindow is the largest xz dictionary and zstd window that the kernel allocates
// memory for. It refuses streams that need more. Metadata blocks have 8192 bytes.
func kernelWindow(blockSize int) int { return max(blockSize, 8192) }

func xzEncoder(_, blockSize int) (Encoder, error) {
	// CRC-32 is the only check that the kernel supports.
	config := xz.WriterConfig{DictCap: kernelWindow(blockSize), CheckSum: xz.CRC32}
	return func(dst, src []byte) ([]byte, error) {
		out := bytes.NewBuffer(dst[:0])
		w, err := config.NewWriter(out)
		if err != nil {
			return nil, err
		}
		return finish(out, w, src)
	}, nil
}

// xzDecoder decodes the first block of a stream; squashfs has no more. It parses the
// headers itself to limit the dictionary, which could have up to 4 GiB. (The .xz
// File Format 1.0.4, sections 2.1.1 and 3.1)
func xzDecoder(blockSize int) (Decoder, error) {
	const streamHeader = 12
	errHeader := errors.New("xz: invalid or unsupported header")
	return func(dst, src []byte) (int, error) {
		// 1. Stream header: magic, flags, CRC-32 of the flags.
		if len(src) < streamHeader+2 || string(src[:6]) != "\xfd7zXZ\x00" || src[6] != 0 || src[7] > 1 {
			return 0, errHeader
		}
		check := 4 * int(src[7])
		// 2. Block header: its length in words, flags, sizes, filters.
		src = src[streamHeader:]
		size := (int(src[0]) + 1) * 4
		if src[0] == 0 || size > len(src) || src[1]&0x3f != 0 {
			return 0, errHeader
		}
		head := src[2 : size-4]
		for flags := src[1]; flags&0xc0 != 0; flags <<= 1 {
			if flags&0x80 == 0 {
				continue
			}
			_, n := binary.Uvarint(head)
			if n <= 0 {
				return 0, errHeader
			}
			head = head[n:]
		}
		// 3. One filter: LZMA2, one byte of properties.
		if len(head) < 3 || head[0] != 0x21 || head[1] != 1 {
			return 0, errHeader
		}
		dict, err := lzma.DecodeDictCap(head[2])
		if err != nil || dict > int64(2*kernelWindow(blockSize)) {
			return 0, errHeader
		}
		// 4. The data, zeros to a multiple of four, the check.
		rest := bytes.NewReader(src[size:])
		r, err := lzma.Reader2Config{DictCap: max(int(dict), lzma.MinDictCap)}.NewReader2(rest)
		if err != nil {
			return 0, err
		}
		n, err := fill(dst, r)
		if err != nil || check == 0 {
			return n, err
		}
		end := (len(src) - rest.Len() + 3) / 4 * 4
		if end+check > len(src) || binary.LittleEndian.Uint32(src[end:]) != crc32.ChecksumIEEE(dst[:n]) {
			return 0, errors.New("xz: checksum mismatch")
		}
		return n, nil
	}, nil
}

func lz4Encoder(level, _ int) (Encoder, error) {
	var fast lz4.Compressor
	compress := fast.CompressBlock
	if level > 0 {
		// lz4.Level1 is 1<<9, and each next one twice that.
		high := lz4.CompressorHC{Level: lz4.Level1 << (level - 1)}
		compress = high.CompressBlock
	}
	return func(dst, src []byte) ([]byte, error) {
		if bound := lz4.CompressBlockBound(len(src)); cap(dst) < bound {
			dst = make([]byte, bound)
		}
		n, err := compress(src, dst[:cap(dst)])
		if err == nil && n == 0 {
			return src, nil // incompressible
		}
		return dst[:n], err
	}, nil
}

func lz4Decoder(int) (Decoder, error) {
	return func(dst, src []byte) (int, error) { return lz4.UncompressBlock(src, dst) }, nil
}

// klauspostZstd returns an encoder that uses the Go library, which has four levels.
func klauspostZstd(level, blockSize int) (Encoder, error) {
	enc, err := kzstd.NewWriter(nil,
		kzstd.WithEncoderLevel(kzstd.EncoderLevel(level)),
		kzstd.WithWindowSize(kernelWindow(blockSize)),
		kzstd.WithSingleSegment(true),
		kzstd.WithEncoderCRC(false),
		kzstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return func(dst, src []byte) ([]byte, error) { return enc.EncodeAll(src, dst[:0]), nil }, nil
}

// zstdDecoders has the *kzstd.Decoder for each block size, which all readers share:
// one takes long to make.
var zstdDecoders sync.Map

func zstdDecoder(blockSize int) (Decoder, error) {
	shared, ok := zstdDecoders.Load(blockSize)
	if !ok {
		dec, err := kzstd.NewReader(nil,
			kzstd.WithDecoderConcurrency(0),
			kzstd.WithDecoderLowmem(true),
			kzstd.WithDecoderMaxWindow(uint64(kernelWindow(blockSize))),
			kzstd.WithDecoderMaxMemory(uint64(kernelWindow(blockSize))),
			kzstd.WithDecodeAllCapLimit(true))
		if err != nil {
			return nil, err
		}
		shared, _ = zstdDecoders.LoadOrStore(blockSize, dec)
	}
	return func(dst, src []byte) (int, error) {
		out, err := shared.(*kzstd.Decoder).DecodeAll(src, dst[:0:len(dst)])
		return len(out), err
	}, nil
}

// fill reads r to its end into dst and returns the number of bytes.
func fill(dst []byte, r io.Reader) (int, error) {
	var more [1]byte
	for n := 0; ; {
		to := dst[n:]
		if len(to) == 0 {
			to = more[:]
		}
		k, err := r.Read(to)
		if k > 0 && n == len(dst) {
			return n, fmt.Errorf("decompresses to more than %d bytes", len(dst))
		}
		n += k
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}
