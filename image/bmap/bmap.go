// Package bmap reads and writes the block maps of bmaptool.
package bmap

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"hash"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"imgtool/image"
	"imgtool/image/fault"
)

// Map is a block map: the ranges of an image that have content, with their
// checksums.
type Map struct {
	Version string
	Size    int64 // of the image, in bytes
	Ranges  []Range

	hash string // type of the checksums, a key of hashes
}

// Range is a range of bytes with its checksum in lower-case hexadecimal, or "".
type Range struct {
	image.Span
	Sum string
}

// hashes has the supported values of ChecksumType.
var hashes = map[string]func() hash.Hash{"sha1": sha1.New, "sha224": sha256.New224, "sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New}

// MaxSize is the largest block map that is read, in bytes.
const MaxSize = 64 << 20

var fileSum = regexp.MustCompile(`<(?:BmapFileChecksum|BmapFileSHA1)>\s*([0-9a-fA-F]+)\s*</`)

// document is the file format of a block map.
type document struct {
	XMLName  xml.Name   `xml:"bmap"`
	Version  string     `xml:"version,attr"`
	Size     int64      `xml:"ImageSize"`
	Block    int64      `xml:"BlockSize"`
	Blocks   int64      `xml:"BlocksCount"`
	Mapped   int64      `xml:"MappedBlocksCount"`
	Checksum string     `xml:"ChecksumType"`
	FileSum  string     `xml:"BmapFileChecksum"`
	Ranges   []xmlRange `xml:"BlockMap>Range"`
}

type xmlRange struct {
	Sum    string `xml:"chksum,attr"`
	SHA1   string `xml:"sha1,attr,omitempty"` // before version 1.3
	Blocks string `xml:",chardata"`
}

// Parse parses a block map of version 1.0 to 2.0 and verifies the checksum of the map
// itself.
func Parse(text []byte) (*Map, error) {
	var doc document
	if err := xml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("the block map: %w", err)
	}
	major, minor, _ := strings.Cut(doc.Version, ".")
	b := &Map{Version: doc.Version}
	switch {
	case major == "1" && minor != "4":
		b.hash = "sha1"
	case major == "1", major == "2":
		b.hash = strings.TrimSpace(doc.Checksum)
	default:
		return nil, fmt.Errorf("the block map has version %q; 1.0 to 2.0 are supported", doc.Version)
	}
	newHash := hashes[b.hash]
	if newHash == nil {
		return nil, fmt.Errorf("the block map has checksums of type %q; sha1, sha224, sha256, sha384 and sha512 are supported", b.hash)
	}
	// The checksum is computed with zeros in its own place.
	if at := fileSum.FindSubmatchIndex(text); at != nil {
		blank := slices.Concat(text[:at[2]], bytes.Repeat([]byte{'0'}, at[3]-at[2]), text[at[3]:])
		h := newHash()
		h.Write(blank)
		if got, want := hex.EncodeToString(h.Sum(nil)), string(text[at[2]:at[3]]); !strings.EqualFold(got, want) {
			return nil, fmt.Errorf("the block map is damaged: its %s is %s, it should be %s", b.hash, got, want)
		}
	} else if major == "2" || minor == "3" || minor == "4" {
		return nil, errors.New("the block map is damaged: its own checksum is missing")
	}
	size, block := doc.Size, doc.Block
	if block < 512 || block > 1<<30 || size < 1 || size > 1<<60 {
		return nil, fmt.Errorf("the block map: an image of %d bytes in blocks of %d is not supported", size, block)
	}
	b.Size = size
	end := int64(0)
	for _, r := range doc.Ranges {
		from, to, two := strings.Cut(r.Blocks, "-")
		if !two {
			to = from
		}
		first, err := strconv.ParseInt(strings.TrimSpace(from), 10, 64)
		last, lastErr := strconv.ParseInt(strings.TrimSpace(to), 10, 64)
		if err != nil || lastErr != nil {
			return nil, fmt.Errorf("the block map: the range %.40q is neither a number nor two", r.Blocks)
		}
		if last < first || last > size/block || first*block < end || first*block >= size {
			return nil, fmt.Errorf("the block map: the range %.40q overlaps the one before it or is outside of the image of %d bytes", r.Blocks, size)
		}
		span := image.Span{Off: first * block, Len: min((last+1)*block, size) - first*block}
		b.Ranges = append(b.Ranges, Range{span, strings.ToLower(r.Sum + r.SHA1)})
		end = span.End()
	}
	return b, nil
}

// Encode returns a block map of version 2.0 of an image of size bytes. The ranges begin at
// multiples of [image.Block], and have the SHA-256 of their content.
func Encode(size int64, ranges []image.Entry) []byte {
	const block = image.Block
	blank := strings.Repeat("0", 64)
	doc := document{Version: "2.0", Size: size, Block: block, Blocks: (size + block - 1) / block, Checksum: "sha256", FileSum: blank}
	for _, p := range ranges {
		first, last := p.Off/block, (p.Off+p.Len-1)/block
		doc.Mapped += last - first + 1
		blocks := fmt.Sprintf("%d-%d", first, last)
		if first == last {
			blocks = fmt.Sprint(first)
		}
		doc.Ranges = append(doc.Ranges, xmlRange{Sum: p.SHA256, Blocks: blocks})
	}
	b, err := xml.MarshalIndent(doc, "", "  ")
	if err != nil {
		panic("bmap: internal error: " + err.Error())
	}
	b = slices.Concat([]byte(xml.Header), b, []byte("\n"))
	// The checksum of the file is computed with zeros in its own place.
	sum := sha256.Sum256(b)
	return bytes.Replace(b, []byte(blank), []byte(hex.EncodeToString(sum[:])), 1)
}

// Image returns the ranges of the image r.
func (b *Map) Image(r image.Content) (*image.Image, error) {
	var extents []image.Extent
	for _, s := range b.Ranges {
		extents = append(extents, image.Extent{Name: "image", Off: s.Off, Content: io.NewSectionReader(r, s.Off, s.Len)})
	}
	return image.New(b.Size, extents...)
}

// Reader returns a reader of the image r that compares it with the block map. Read returns
// a *[CorruptError] if a range has another checksum, the image has another size, or there
// are bytes other than zeros outside of the ranges.
func (b *Map) Reader(r io.Reader) io.Reader {
	return &reader{b: b, r: r, left: b.Ranges, hash: hashes[b.hash]()}
}

type reader struct {
	b    *Map
	r    io.Reader
	at   int64
	left []Range   // end after at
	hash hash.Hash // of left[0] up to at
	err  error
}

func (b *reader) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.r.Read(p)
	if b.err = b.check(p[:n]); b.err != nil {
		return 0, b.err
	}
	if b.err = err; err == io.EOF && b.at != b.b.Size {
		b.err = corrupt("the image has %d bytes, its block map says %d", b.at, b.b.Size)
		return 0, b.err
	}
	return n, b.err
}

// check compares the next bytes of the image.
func (b *reader) check(p []byte) error {
	for len(p) > 0 {
		if b.at >= b.b.Size {
			return corrupt("the image has more than %d bytes, the size in its block map", b.b.Size)
		}
		end := b.b.Size
		inside := len(b.left) > 0 && b.left[0].Off <= b.at
		if inside {
			end = b.left[0].End()
		} else if len(b.left) > 0 {
			end = b.left[0].Off
		}
		part := p[:min(int64(len(p)), end-b.at)]
		if !inside {
			if !image.IsZero(part) {
				i := slices.IndexFunc(part, func(b byte) bool { return b != 0 })
				return corrupt("byte %d is %#x, outside of the ranges of the block map", b.at+int64(i), part[i])
			}
		} else if b.left[0].Sum != "" {
			b.hash.Write(part)
		}
		p = p[len(part):]
		if b.at += int64(len(part)); inside && b.at == end {
			r := b.left[0]
			if got := hex.EncodeToString(b.hash.Sum(nil)); r.Sum != "" && got != r.Sum {
				return corrupt("the %d bytes at byte %d do not match the block map: their %s is %s, it should be %s", r.Len, r.Off, b.b.hash, got, r.Sum)
			}
			b.hash.Reset()
			b.left = b.left[1:]
		}
	}
	return nil
}

// CorruptError says that an image does not match its block map.
type CorruptError struct{ Err error }

func (e *CorruptError) Error() string { return e.Err.Error() }
func (e *CorruptError) Unwrap() error { return e.Err }
func (e *CorruptError) Kind() string  { return fault.Corrupt }

func corrupt(format string, args ...any) error { return &CorruptError{fmt.Errorf(format, args...)} }
