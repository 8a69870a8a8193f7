package artifact

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"

	"imgtool/image"
)

// Manifest says what an image is: what it was built from, where everything in
// it lies, and the hash of every byte that is written. It names inputs by role
// and hash, never by path.
type Manifest struct {
	Version    int         `json:"imgtool"` // of this form: 1
	Board      string      `json:"board"`
	Medium     string      `json:"medium"`
	BuildID    string      `json:"build_id"`
	Time       int64       `json:"time"`  // seconds since 1970, of everything made
	Floor      int64       `json:"floor"` // the smallest disk the board can use, in bytes
	Codec      string      `json:"codec,omitempty"`
	Cmdline    string      `json:"cmdline,omitempty"`
	Inputs     []Input     `json:"inputs"`
	Partitions []Partition `json:"partitions"`
	image.Manifest
	Pieces []image.Entry `json:"pieces"` // what is written, in aligned runs of at most image.PieceSize
}

// Input is what an image was built from.
type Input struct {
	Name   string `json:"name"` // its role, such as "u-boot.itb"
	SHA256 string `json:"sha256"`
	Origin string `json:"origin,omitempty"` // such as a package and its version
}

// Partition is a place on the disk. Length is 0 for one that takes what is left.
type Partition struct {
	Number int    `json:"number"`
	Name   string `json:"name"`
	Type   string `json:"type"`
	GUID   string `json:"guid,omitempty"`
	Off    int64  `json:"offset"`
	Len    int64  `json:"length"`
	Late   bool   `json:"late,omitempty"` // made by the device on its first boot
	Format string `json:"format,omitempty"`
}

// maxManifest bounds what is read as a manifest: enough for the pieces of 1 TiB.
const maxManifest = 64 << 20

// Encode is the manifest as JSON.
func (m *Manifest) Encode() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(m); err != nil {
		panic("artifact: internal error: " + err.Error())
	}
	return b.Bytes()
}

// ParseManifest reads and checks a manifest.
func ParseManifest(b []byte) (*Manifest, error) {
	m := &Manifest{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if m.Version != 1 {
		return nil, fmt.Errorf("manifest: version %d; only 1 is known", m.Version)
	}
	if m.Size <= 0 || m.Floor < 0 {
		return nil, fmt.Errorf("manifest: an image of %d bytes for a disk of %d", m.Size, m.Floor)
	}
	for _, list := range [][]image.Entry{m.Entries, m.Pieces} {
		at := int64(0)
		for _, e := range list {
			if e.Off < at || e.Len <= 0 || e.Len > m.Size-e.Off {
				return nil, fmt.Errorf("manifest: %q at %d, %d bytes long, is out of place in an image of %d bytes", e.Name, e.Off, e.Len, m.Size)
			}
			if b, err := hex.DecodeString(e.SHA256); err != nil || len(b) != sha256.Size {
				return nil, fmt.Errorf("manifest: %q is no SHA-256", e.SHA256)
			}
			at = e.Off + e.Len
		}
	}
	for _, p := range m.Pieces {
		if p.Off%image.Block != 0 || p.Off/image.PieceSize != (p.Off+p.Len-1)/image.PieceSize {
			return nil, fmt.Errorf("manifest: the piece at %d, %d bytes long, is not aligned", p.Off, p.Len)
		}
	}
	// What is in no piece is not checked: nothing of an extent may be.
	i := 0
	for _, e := range m.Entries {
		for at := e.Off; at < e.Off+e.Len; {
			for i < len(m.Pieces) && m.Pieces[i].Off+m.Pieces[i].Len <= at {
				i++
			}
			if i == len(m.Pieces) || m.Pieces[i].Off > at {
				return nil, fmt.Errorf("manifest: byte %d of %s is in no piece", at, e.Name)
			}
			at = m.Pieces[i].Off + m.Pieces[i].Len
		}
	}
	for _, p := range m.Partitions {
		if p.Off < 0 || p.Len < 0 || p.Off+p.Len < 0 || !p.Late && p.Off+p.Len > m.Size {
			return nil, fmt.Errorf("manifest: partition %q at %d, %d bytes long, is out of place", p.Name, p.Off, p.Len)
		}
	}
	return m, nil
}

// Bmap is the block map of the image in bmaptool's form, version 2.0.
func (m *Manifest) Bmap() []byte {
	type sizedRange struct {
		Sum    string `xml:"chksum,attr"`
		Blocks string `xml:",chardata"`
	}
	type bmap struct {
		XMLName  xml.Name     `xml:"bmap"`
		Version  string       `xml:"version,attr"`
		Size     int64        `xml:"ImageSize"`
		Block    int64        `xml:"BlockSize"`
		Blocks   int64        `xml:"BlocksCount"`
		Mapped   int64        `xml:"MappedBlocksCount"`
		Checksum string       `xml:"ChecksumType"`
		FileSum  string       `xml:"BmapFileChecksum"`
		Ranges   []sizedRange `xml:"BlockMap>Range"`
	}
	const block = image.Block
	blank := string(bytes.Repeat([]byte{'0'}, 64))
	doc := bmap{Version: "2.0", Size: m.Size, Block: block, Blocks: (m.Size + block - 1) / block, Checksum: "sha256", FileSum: blank}
	for _, p := range m.Pieces {
		first, last := p.Off/block, (p.Off+p.Len-1)/block
		doc.Mapped += last - first + 1
		blocks := fmt.Sprintf("%d-%d", first, last)
		if first == last {
			blocks = fmt.Sprint(first)
		}
		doc.Ranges = append(doc.Ranges, sizedRange{p.SHA256, blocks})
	}
	b, err := xml.MarshalIndent(doc, "", "  ")
	if err != nil {
		panic("artifact: internal error: " + err.Error())
	}
	b = append([]byte(xml.Header), append(b, '\n')...)
	// The file's own checksum is taken with zeros in its place.
	sum := sha256.Sum256(b)
	return bytes.Replace(b, []byte(blank), []byte(hex.EncodeToString(sum[:])), 1)
}

// CorruptError says that an image is not what it was when it was made.
type CorruptError struct{ Err error }

func (e *CorruptError) Error() string { return e.Err.Error() }
func (e *CorruptError) Unwrap() error { return e.Err }

func corrupt(format string, args ...any) error { return &CorruptError{fmt.Errorf(format, args...)} }

// checkPiece compares a piece with its entry in the manifest.
func checkPiece(p image.Entry, data []byte) error {
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != p.SHA256 {
		return corrupt("the piece at byte %d, %d bytes long, is corrupt: its SHA-256 is %x, the manifest says %s", p.Off, p.Len, sum, p.SHA256)
	}
	return nil
}
