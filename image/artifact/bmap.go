package artifact

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"hash"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"imgtool/image"
)

// Bmap is a block map of bmaptool: where an image has something, with checksums.
type Bmap struct {
	Version string
	Size    int64 // of the image, in bytes
	Ranges  []BmapRange

	hash string // of the ranges
}

// BmapRange is a run of bytes with its checksum in lower hex, or "".
type BmapRange struct {
	image.Span
	Sum string
}

// bmapHashes are the values of ChecksumType that are known.
var bmapHashes = map[string]func() hash.Hash{"sha1": sha1.New, "sha224": sha256.New224, "sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New}

// MaxBmap bounds what is read as a block map.
const MaxBmap = 64 << 20

var fileSum = regexp.MustCompile(`<(?:BmapFileChecksum|BmapFileSHA1)>\s*([0-9a-fA-F]+)\s*</`)

// ParseBmap reads a block map of the versions 1.0 to 2.0, and checks its own checksum.
func ParseBmap(text []byte) (*Bmap, error) {
	var doc struct {
		Version  string `xml:"version,attr"`
		Size     string `xml:"ImageSize"`
		Block    string `xml:"BlockSize"`
		Checksum string `xml:"ChecksumType"`
		Ranges   []struct {
			Sum    string `xml:"chksum,attr"`
			SHA1   string `xml:"sha1,attr"`
			Blocks string `xml:",chardata"`
		} `xml:"BlockMap>Range"`
	}
	if err := xml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("the block map: %w", err)
	}
	major, minor, _ := strings.Cut(doc.Version, ".")
	b := &Bmap{Version: doc.Version}
	switch {
	case major == "1" && minor != "4":
		b.hash = "sha1"
	case major == "1", major == "2":
		b.hash = strings.TrimSpace(doc.Checksum)
	default:
		return nil, fmt.Errorf("the block map is of version %q; 1.0 to 2.0 are known", doc.Version)
	}
	newHash := bmapHashes[b.hash]
	if newHash == nil {
		return nil, fmt.Errorf("the block map has checksums of the type %q; sha1, sha224, sha256, sha384 and sha512 are known", b.hash)
	}
	// It is taken with zeros in its place.
	if at := fileSum.FindSubmatchIndex(text); at != nil {
		blank := slices.Concat(text[:at[2]], bytes.Repeat([]byte{'0'}, at[3]-at[2]), text[at[3]:])
		h := newHash()
		h.Write(blank)
		if got, want := hex.EncodeToString(h.Sum(nil)), string(text[at[2]:at[3]]); !strings.EqualFold(got, want) {
			return nil, fmt.Errorf("the block map is damaged: its %s is %s, and it says %s", b.hash, got, want)
		}
	} else if major == "2" || minor == "3" || minor == "4" {
		return nil, fmt.Errorf("the block map is damaged: it has no checksum of itself")
	}
	number := func(what, text string) (n int64, err error) {
		if n, err = strconv.ParseInt(strings.TrimSpace(text), 10, 64); err != nil || n < 0 {
			err = fmt.Errorf("the block map: %s is %.40q, and must be a number", what, text)
		}
		return n, err
	}
	size, err := number("ImageSize", doc.Size)
	if err != nil {
		return nil, err
	}
	block, err := number("BlockSize", doc.Block)
	if err != nil {
		return nil, err
	}
	if block < 512 || block > 1<<30 || size > 1<<60 {
		return nil, fmt.Errorf("the block map: %d bytes in blocks of %d", size, block)
	}
	b.Size = size
	end := int64(0)
	for _, r := range doc.Ranges {
		from, to, two := strings.Cut(r.Blocks, "-")
		first, err := number("a range", from)
		last := first
		if err == nil && two {
			last, err = number("a range", to)
		}
		if err != nil {
			return nil, err
		}
		if last < first || last > size/block || first*block < end || first*block >= size {
			return nil, fmt.Errorf("the block map: the range %.40q is out of place in an image of %d bytes", r.Blocks, size)
		}
		span := image.Span{Off: first * block, Len: min((last+1)*block, size) - first*block}
		b.Ranges = append(b.Ranges, BmapRange{span, strings.ToLower(r.Sum + r.SHA1)})
		end = span.End()
	}
	return b, nil
}

// Image is what the ranges have of an image.
func (b *Bmap) Image(r image.Content) (*image.Image, error) {
	var extents []image.Extent
	for _, s := range b.Ranges {
		extents = append(extents, image.Extent{Name: "image", Off: s.Off, Content: io.NewSectionReader(r, s.Off, s.Len)})
	}
	return image.New(b.Size, extents...)
}

// Reader reads an image from r and compares it with the block map on the way. What
// differs, has another size, or is something else than zeros where the map has nothing
// ends it with a *CorruptError.
func (b *Bmap) Reader(r io.Reader) io.Reader {
	return &bmapReader{b: b, r: r, left: b.Ranges, hash: bmapHashes[b.hash]()}
}

type bmapReader struct {
	b    *Bmap
	r    io.Reader
	at   int64
	left []BmapRange // that do not end before at
	hash hash.Hash   // of the first of them
	err  error
}

func (b *bmapReader) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.r.Read(p)
	if b.err = b.see(p[:n]); b.err != nil {
		return 0, b.err
	}
	if b.err = err; err == io.EOF && b.at != b.b.Size {
		b.err = corrupt("the image has %d bytes, its block map says %d", b.at, b.b.Size)
		return 0, b.err
	}
	return n, b.err
}

// see looks at the next bytes.
func (b *bmapReader) see(p []byte) error {
	for len(p) > 0 {
		if b.at >= b.b.Size {
			return corrupt("the image has more than the %d bytes that its block map says", b.b.Size)
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
			if i := len(part) - len(bytes.TrimLeft(part, "\x00")); i < len(part) {
				return corrupt("byte %d is %#x, and its block map has nothing there", b.at+int64(i), part[i])
			}
		} else if b.left[0].Sum != "" {
			b.hash.Write(part)
		}
		p = p[len(part):]
		if b.at += int64(len(part)); inside && b.at == end {
			r := b.left[0]
			if got := hex.EncodeToString(b.hash.Sum(nil)); r.Sum != "" && got != r.Sum {
				return corrupt("the %d bytes at byte %d are not what its block map says: their %s is %s, and not %s", r.Len, r.Off, b.b.hash, got, r.Sum)
			}
			b.hash.Reset()
			b.left = b.left[1:]
		}
	}
	return nil
}
